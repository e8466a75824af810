"""Writes complete checkpoints while a trainer runs, and says what to do when one cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_trainer import checkpoints, own_disks
from rft_trainer.distributed import rank, wait_for_all
from rft_trainer.failures import first_line, write_failure
from rft_trainer.progress import ProgressReporter


@contextlib.contextmanager
def complete_checkpoint(
    folder: RunFolder, info: CheckpointInfo, keep: int, reporter: ProgressReporter
) -> Iterator[None]:
    """Turn what transformers writes inside of the context into a complete checkpoint, or leave none.

    Args:
        folder: the run's folder; transformers writes to its `checkpoints/checkpoint-STEP`.
        info: what is said about the checkpoint.
        keep: number of checkpoints that stay resumable.
        reporter: where progress is published.

    Raises:
        RunError: OUTPUT_FAILED when it cannot be written.
    """
    reporter.update(message=f"saving checkpoint step-{info.step}")
    partial_checkpoint = folder.checkpoints / f"checkpoint-{info.step}"
    try:
        yield
        wait_for_all()
        own_disks.collect(partial_checkpoint)
        if rank() == 0:
            checkpoints.complete(folder, partial_checkpoint, info, keep)
            if info.resumable:
                reporter.record_checkpoint()
    except Exception as error:
        advice = write_failure(error, folder.checkpoints)
        if rank() == 0:
            with contextlib.suppress(OSError):
                checkpoints.remove_torn(folder)
        if advice is None:
            raise
        outlook = "it goes on from the last complete checkpoint"
        if own_disks.on_first_machine():
            last = checkpoints.resume_point(folder)
            outlook = f"it goes on from step {last.step}" if last else "it starts from the beginning"
        raise RunError(
            ExitCode.OUTPUT_FAILED,
            f"checkpoint step-{info.step} could not be written to {folder.checkpoints}: {first_line(error)}: "
            f"{advice} and start again: {outlook}",
        ) from error
    wait_for_all()
    reporter.update(message="")
