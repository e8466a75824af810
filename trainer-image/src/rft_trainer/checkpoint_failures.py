"""Says what to do when a checkpoint could not be written, and from where the next start goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_trainer import checkpoints, own_disks
from rft_trainer.distributed import rank
from rft_trainer.failures import first_line, write_failure


@contextmanager
def explained(folder: RunFolder, step: int) -> Iterator[None]:
    """Write the checkpoint of a step inside the context; remove what is left of it when that fails.

    Raises:
        RunError: OUTPUT_FAILED when the disk or the folder is the cause.
    """
    try:
        yield
    except Exception as error:
        advice = write_failure(error, folder.checkpoints)
        if rank() == 0:
            with suppress(OSError):
                checkpoints.remove_torn(folder)
        if advice is None:
            raise
        outlook = "it goes on from the last complete checkpoint"
        if own_disks.on_first_machine():
            last = checkpoints.resume_point(folder)
            outlook = f"it goes on from step {last.step}" if last else "it starts from the beginning"
        raise RunError(
            ExitCode.OUTPUT_FAILED,
            f"checkpoint step-{step} could not be written to {folder.checkpoints}: {first_line(error)}: "
            f"{advice} and start again: {outlook}",
        ) from error
