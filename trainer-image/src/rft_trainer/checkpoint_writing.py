"""Turns what transformers writes while a trainer runs into complete checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_trainer import checkpoints, own_disks
from rft_trainer.checkpoint_failures import explained
from rft_trainer.distributed import rank, wait_for_all
from rft_trainer.progress import ProgressReporter


@contextmanager
def complete_checkpoint(
    folder: RunFolder, info: CheckpointInfo, keep: int, reporter: ProgressReporter
) -> Iterator[Path]:
    """Turn what is written inside the context into a complete checkpoint, or leave none.

    The context gets the folder to which transformers writes. All ranks enter it.

    Args:
        folder: the run's folder.
        info: what is said about the checkpoint.
        keep: number of checkpoints that stay resumable.
        reporter: where progress is published.

    Raises:
        RunError: OUTPUT_FAILED when it cannot be written.
    """
    reporter.update(message=f"saving checkpoint step-{info.step}")
    partial_checkpoint = folder.checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{info.step}"
    with explained(folder, info.step):
        with reporter.writing(partial_checkpoint, checkpoints.expected_bytes(folder)):
            yield partial_checkpoint
        wait_for_all()
        own_disks.collect(partial_checkpoint)
        if rank() == 0:
            checkpoints.complete(folder, partial_checkpoint, info, keep)
            if info.resumable:
                reporter.record_checkpoint()
    wait_for_all()
    reporter.update(message="")
