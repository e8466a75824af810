"""Starts a process for each tracker of a run, and says in the end what has not reached them."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.foreign.files import read_document
from rft_api.model import format_location
from rft_api.run_folder import RunFolder
from rft_api.tracker_state import missing_sentences, read_state
from rft_api.trackers import Tracker, distinct_trackers, missing_packages
from rft_api.trainer_config import TrainerConfig
from rft_trainer.checkpoints import resume_point
from rft_trainer.metrics_log import rewind

log = logging.getLogger(__name__)

FINAL_SECONDS = 60.0
"""Seconds that the end of a run that has succeeded waits for its trackers, at most."""
STOPPED_SECONDS = 10.0
"""The same for a run that was stopped or has failed: its next start sends what is missing."""
_KILL_SECONDS = 5.0
"""Seconds after which a process that does not keep to its time is killed."""
_WATCH_SECONDS = 5.0
_RESTARTS = 5


def check_trackers(config: TrainerConfig) -> None:
    """Refuse a tracker that could never be sent anything, before training.

    Raises:
        RunError: CONFIGURATION_INVALID when a package is not installed, or a credential is not there.
    """
    problems = [f"{format_location(location)}: {problem}" for location, problem in missing_packages(config.trackers)]
    for index, tracker in enumerate(config.trackers):
        key = next((part.token_key for part in (tracker.mlflow, tracker.wandb) if part is not None), None)
        if key is not None and not os.environ.get(key):
            problems.append(
                f"spec.trackers[{index}].{tracker.kind}.tokenKey: there is no variable {key}; in a cluster, the Secret "
                f"of spec.credentials needs this key"
            )
    if problems:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "; ".join(problems))


def prepare_states(folder: RunFolder, config: TrainerConfig) -> None:
    """Write the state of each tracker that has none, so that a copy of the folder has the run's identity from now on.

    Raises:
        OSError: when the folder cannot be written.
    """
    for tracker in distinct_trackers(config.trackers):
        file = folder.tracker(tracker.key)
        if not file.exists():
            atomic_write(file, read_state(folder, tracker).model_dump_json(by_alias=True) + "\n")


class Followers:
    """The processes that send a run to its trackers, from their start to `finish`.

    Lines that the run is about to make again are removed before they start, so that no tracker gets them.

    Args:
        folder: the run's folder on this machine.
        config: the run's configuration.
    """

    def __init__(self, folder: RunFolder, config: TrainerConfig):
        self._folder = folder
        self._trackers = distinct_trackers(config.trackers)
        # The folder may be the copy of one in an object store, whose address stands in its configuration.
        self._address = read_document(folder.config, TrainerConfig).output
        self._ended = threading.Event()
        if self._trackers and folder.metrics.exists() and not folder.summary.exists():
            resume = resume_point(folder)
            rewind(folder, resume.step if resume else -1)
        self._processes = {tracker.key: self._start(tracker) for tracker in self._trackers}
        self._watch = threading.Thread(target=self._keep_alive, name="trackers", daemon=True)
        self._watch.start()

    def finish(self, code: ExitCode) -> list[str]:
        """Have the processes send the rest, and wait for them as long as the result allows.

        Return a sentence for each tracker that does not have all; the log says them, too.
        """
        self._ended.set()
        self._watch.join()
        seconds = FINAL_SECONDS if code == ExitCode.SUCCEEDED else STOPPED_SECONDS
        deadline = time.monotonic() + seconds + _KILL_SECONDS
        for tracker in self._trackers:
            if self._processes[tracker.key].poll() is not None:
                self._processes[tracker.key] = self._start(tracker)
        for process in self._processes.values():
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{int(code)} {seconds}\n".encode())
                process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        sentences = list(missing_sentences(self._folder, self._trackers, self._address))
        for sentence in sentences:
            log.warning("%s", sentence)
        return sentences

    def _start(self, tracker: Tracker) -> subprocess.Popen[bytes]:
        document = tracker.model_dump_json(by_alias=True)
        command: Sequence[str] = [sys.executable, "-m", "rft_trainer.trackers", str(self._folder.path), document]
        # Each has one thread of its own for computing, which it hardly needs.
        return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def _keep_alive(self) -> None:
        """Start processes again that have ended before the run, some times."""
        restarts = dict.fromkeys(self._processes, _RESTARTS)
        while not self._ended.wait(_WATCH_SECONDS):
            for tracker in self._trackers:
                code = self._processes[tracker.key].poll()
                if code is not None and restarts[tracker.key]:
                    restarts[tracker.key] -= 1
                    log.warning("the process for %s has ended with code %d; starting again", tracker.description, code)
                    self._processes[tracker.key] = self._start(tracker)
