"""Sends a run to Weights & Biases, or writes the files that `wandb sync` sends later."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from rft_api.exit_codes import ExitCode
from rft_api.run_folder import RunFolder
from rft_api.trackers import WandbTracker
from rft_trainer.trackers.follower import Contents, RunIdentity
from rft_trainer.trackers.records import RESULT_MARKS, Line, Result, Table

# The package reads these when it is imported. It sends nothing about this machine, its code or its own errors.
os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}

import wandb

_STEP = "step"
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 45.0


class WandbClient:
    """The run of Weights & Biases that stands for a run.

    The package sends what it is given in the background, and says at the end only whether it has arrived. Each line is
    a row, whose number among the lines is its `_step`; the number of optimizer steps is the metric `step`. The server
    says the number of the next row when the run is resumed. Offline, nothing can be resumed, so that each start writes
    everything anew.
    """

    answers_at_close = True

    def __init__(self, folder: RunFolder, tracker: WandbTracker):
        self._folder = folder
        self._tracker = tracker
        self._is_online = tracker.mode == "Online"
        self._scratch = tempfile.TemporaryDirectory(prefix="rft-wandb-", ignore_cleanup_errors=True)
        self._run: Any = None
        self._next_row = 0
        if tracker.token_key is not None:
            os.environ["WANDB_API_KEY"] = os.environ[tracker.token_key]

    def open(self, run: RunIdentity) -> Contents:
        """Begin the run, or resume it; return what the server has."""
        if self._run is not None:
            with contextlib.suppress(Exception):  # it has failed already
                self._run.finish(exit_code=1)
            self._run = None
        if not self._is_online:
            for earlier in self._folder.wandb.glob(f"offline-run-*-{run.identity}-*"):
                shutil.rmtree(earlier)
        name = self._tracker.run_name or run.name
        self._run = wandb.init(
            project=self._tracker.project,
            entity=self._tracker.entity,
            name=name if run.generation == 1 else f"{name} ({run.generation})",
            group=f"{run.namespace}/{run.name}",
            id=f"{run.identity}-{run.generation}",
            resume="allow" if self._is_online else None,
            mode="online" if self._is_online else "offline",
            dir=self._scratch.name if self._is_online else str(self._folder.path),
            config=dict(run.parameters),
            reinit="create_new",
            settings=self._settings(),
        )
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        self._next_row = self._run.starting_step
        has_result = self._is_online and any(self._run.summary.get(mark) is not None for mark in RESULT_MARKS)
        place = self._run.url if self._is_online else str(self._folder.wandb)
        return Contents(self._next_row - has_result, has_result, place)

    def send(self, lines: Sequence[Line]) -> None:
        """Log a row for each line, with the completions of a validation."""
        for line in lines:
            row: dict[str, Any] = {_STEP: line.step, **line.points}
            if line.samples is not None:
                row["samples/validation"] = _table(line.samples)
            self._log(row)

    def send_result(self, result: Result) -> None:
        """Log a row with the numbers and the tables of the result."""
        row: dict[str, Any] = {_STEP: result.step, **result.points, "result/comparison": _table(result.comparison)}
        if result.samples is not None:
            row["samples/before-and-after"] = _table(result.samples)
        self._log(row)

    def close(self, code: ExitCode) -> None:
        """Wait until the server has everything, or the files are complete.

        Raises:
            TimeoutError: when the server does not have everything in time.
        """
        self._run.finish(exit_code=0 if code == ExitCode.SUCCEEDED else 1)
        self._run = None
        self._scratch.cleanup()

    def _log(self, row: dict[str, Any]) -> None:
        self._run.log(row, step=self._next_row, commit=True)
        self._next_row += 1

    def _settings(self) -> wandb.Settings:
        address: dict[str, Any] = {"base_url": self._tracker.base_url} if self._tracker.base_url else {}
        return wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            **address,
        )


def _table(table: Table) -> wandb.Table:
    """Return a table; columns may hold numbers and nothing."""
    return wandb.Table(columns=table.columns, data=table.rows, allow_mixed_types=True)
