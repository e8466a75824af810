"""`rft track`: send the trackers of a run what has not reached them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.progress import count_bytes
from rft_api.run_folder import RunFolder
from rft_api.scratch import scratch_folder
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_api.tracker_state import count_lines, missing_sentences, read_state
from rft_api.trackers import Tracker
from rft_api.trainer_config import TrainerConfig
from rft_cli.report import read_model
from rft_cli.stage_display import shown_stage
from rft_cli.tracker_permission import permitted_trackers

SECONDS = 600.0
"""How long a tracker that does not answer is tried."""
_POLL_SECONDS = 0.25
_FILES = ("job.json", "metrics.jsonl", "summary.json")
_FOLDERS = ("evaluations/", "validations/", "trackers/", "tensorboard/", "wandb/")
_WRITTEN = ("trackers", "tensorboard", "wandb")


def track(run: str, console: Console, manifests: Sequence[Path] = (), is_agreed: bool = False) -> None:
    """Send each tracker what it does not have; say where it shows the run.

    Args:
        run: the run's folder, or its address in an object store. Somebody else may have written it.
        console: where the result is shown, and where the user is asked whether the run may be sent where it says.
        manifests: the user's own manifests, whose trackers count in place of the run's.
        is_agreed: whether the user agrees to the run's trackers without being asked.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: CONFIGURATION_INVALID when the run may not be sent where it says; OUTPUT_INVALID when there is no run,
            or it may not be read or written; STORAGE_UNREACHABLE when its store, or UNEXPECTED when one of its trackers
            does not answer.
    """
    if not run.startswith("s3://"):
        _send(RunFolder(run), run, console, manifests, is_agreed)
        return
    address = run.rstrip("/")
    with scratch_folder("rft-track-") as scratch:
        folder = RunFolder(scratch / "run")
        store = ObjectStore()
        try:
            with shown_stage() as stage:
                report = stage.report_bytes(f"fetching {address}")
                store.fetch(address, folder.path, lambda name: name in _FILES or name.startswith(_FOLDERS), report)
            if not folder.summary.exists():
                raise RunError(ExitCode.OUTPUT_INVALID, f"{address}: no run that has ended is stored there")
            before = _files(folder.path)
            try:
                _send(folder, address, console, manifests, is_agreed)
            finally:
                changed = [name for name, content in _files(folder.path).items() if before.get(name) != content]
                with shown_stage() as stage:
                    size = sum((folder.path / name).stat().st_size for name in changed)
                    count = count_bytes(size, stage.report_bytes(f"uploading to {address}"))
                    for name in changed:
                        store.upload(folder.path / name, f"{address}/{name}", count)
                for name in before.keys() - _files(folder.path).keys():
                    store.delete(f"{address}/{name}")
        except StorageError as error:
            code = ExitCode.OUTPUT_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
            raise RunError(code, str(error)) from error


def take_over_trackers(folder: RunFolder, trackers: Sequence[Tracker]) -> None:
    """Have a run that has ended be sent to the trackers that its manifest names now."""
    config = read_model(folder.config, TrainerConfig)
    if config is not None and config.trackers != trackers:
        changed = config.model_copy(update={"trackers": trackers})
        atomic_write(folder.config, changed.model_dump_json(by_alias=True, indent=2) + "\n")


def _send(folder: RunFolder, address: str, console: Console, manifests: Sequence[Path], is_agreed: bool) -> None:
    config = read_model(folder.config, TrainerConfig)
    if config is None:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{address}: there is no run")
    permitted = permitted_trackers(config, address, manifests, is_agreed, console)
    total = count_lines(folder)
    for each in permitted:
        tracker = each.tracker
        # The process gets the tracker itself, because the folder may say another one by now.
        document = tracker.model_dump_json(by_alias=True)
        command = [sys.executable, "-m", "rft_trainer.trackers", str(folder.path), document, "--seconds", str(SECONDS)]
        sender = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=each.environment)
        try:
            with shown_stage() as stage:
                while sender.poll() is None:
                    sent = 0
                    with suppress(OSError, ValueError):  # what is wrong with its state is said below
                        sent = read_state(folder, tracker).sent.lines
                    stage.update(f"sending the run to {tracker.description}", sent, total, "lines of metrics.jsonl")
                    time.sleep(_POLL_SECONDS)
        finally:
            sender.kill()  # after Ctrl-C; one that has ended stays as it is
            sender.wait()
    trackers = [each.tracker for each in permitted]
    missing = list(missing_sentences(folder, trackers, address))
    if missing:
        raise RunError(ExitCode.UNEXPECTED, "; ".join(missing))
    for tracker in trackers:
        place = read_state(folder, tracker).address
        line = f"{tracker.description} has all of this run{f': {place}' if place else ''}"
        console.print(Text(line), soft_wrap=True)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of each file that trackers write."""
    states = {}
    for path in (file for name in _WRITTEN for file in (folder / name).rglob("*") if file.is_file()):
        status = path.stat()
        states[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return states
