"""Sends a run to one of its trackers: started by the launcher for each tracker, and by `rft track`.

When the run has ended, the launcher writes its exit code to the standard input, and the seconds that are left for the
rest. If the input closes without it, the launcher has been killed, or there is none.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft_api.exit_codes import ExitCode
from rft_api.files import open_in_place
from rft_api.foreign.files import read_document
from rft_api.run_folder import RunFolder
from rft_api.trackers import Tracker
from rft_api.trainer_config import TrainerConfig
from rft_trainer.trackers.follower import POLL_SECONDS, Ending, Follower, TrackerClient

log = logging.getLogger("rft_trainer.trackers")

ABANDONED_SECONDS = 10.0
"""Seconds for the rest when the launcher has ended without a word."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 when all has been sent."""
    parser = argparse.ArgumentParser(prog="rft_trainer.trackers", description="Sends a run to one of its trackers.")
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("tracker", type=Tracker.model_validate_json, help="the tracker, as JSON as in job.json")
    parser.add_argument(
        "--seconds", type=float, default=ABANDONED_SECONDS, help="time for the rest when the launcher says none"
    )
    options = parser.parse_args(arguments)
    # The launcher says when the run has ended; signals are for the processes that train.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it says is in the errors of its users
    folder = RunFolder(options.folder)
    config = read_document(folder.config, TrainerConfig)
    tracker: Tracker = options.tracker
    ending = Ending()
    threading.Thread(target=_listen, args=(folder, ending, options.seconds), daemon=True).start()
    with _lock(folder, tracker, ending) as is_ours:
        if not is_ours:
            log.warning("%s: another process is sending this run", tracker.description)
            return 1
        return 0 if Follower(folder, config, tracker, connect(folder, tracker), ending).run() else 1


def _listen(folder: RunFolder, ending: Ending, seconds: float) -> None:
    """Wait for the end of the run."""
    match sys.stdin.buffer.readline(64).split():
        case [code, left]:
            ending.tell(ExitCode(int(code)), float(left))
        case _:
            ending.tell(ExitCode.SUCCEEDED if folder.summary.exists() else ExitCode.INTERRUPTED, seconds)


@contextmanager
def _lock(folder: RunFolder, tracker: Tracker, ending: Ending) -> Iterator[bool]:
    """Lock the tracker's state, for which another process may still be sending; yield whether it is ours."""
    file = folder.tracker(tracker.key).with_suffix(".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_in_place(file) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if ending.is_over:
                    yield False
                    return
                time.sleep(POLL_SECONDS / 4)
            else:
                yield True
                return


def connect(folder: RunFolder, tracker: Tracker) -> TrackerClient:
    """Return the connection to a tracker; its package takes a while to import."""
    if tracker.mlflow is not None:
        from rft_trainer.trackers.mlflow import MLflowTrackingClient

        return MLflowTrackingClient(tracker.mlflow)
    if tracker.wandb is not None:
        from rft_trainer.trackers.wandb import WandbClient

        return WandbClient(folder, tracker.wandb)
    from rft_trainer.trackers.tensorboard import TensorBoardClient

    return TensorBoardClient(folder)


if __name__ == "__main__":
    sys.exit(main())
