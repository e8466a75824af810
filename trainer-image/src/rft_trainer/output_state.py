"""Prepares the output folder at a start of a run: removes what is incomplete, and finds where to go on."""

from __future__ import annotations

import logging

from rft_api.exit_codes import ExitCode, RunError
from rft_api.progress import Report
from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_trainer import checkpoints, own_disks
from rft_trainer.distributed import gather, rank, wait_for_all
from rft_trainer.metrics_log import rewind

log = logging.getLogger(__name__)


def prepare_output(folder: RunFolder, is_reinforced: bool, report: Report) -> CheckpointInfo | None:
    """Clean up the files of an earlier start, and copy them to all machines; return the checkpoint to resume from.

    Args:
        folder: the run's folder.
        is_reinforced: whether the run learns from rewards, and is not its warm-up alone.
        report: gets the bytes that have been copied, and the number of all.

    Raises:
        RunError: OUTPUT_FAILED when processes see different checkpoints.
    """
    inherited_files = [
        folder.metrics, folder.preflight, folder.after_warmup(is_reinforced), folder.evaluation("base").parent
    ]  # fmt: skip
    if rank() == 0:
        removed = checkpoints.remove_torn(folder)
        if removed:
            log.warning("removed incomplete checkpoints %s", ", ".join(removed))
        resume = checkpoints.resume_point(folder)
        checkpoints.remove_after(folder, resume.step if resume else -1)
        rewind(folder, resume.step if resume else -1)
        inherited_files += [folder.checkpoint(resume.step)] if resume else []
    own_disks.spread(folder.path, inherited_files, report)
    wait_for_all()
    resume = checkpoints.resume_point(folder)
    resume_steps = gather(resume.step if resume else None)
    if len(set(resume_steps)) > 1:
        raise RunError(
            ExitCode.OUTPUT_FAILED,
            f"{folder.checkpoints}: processes see different checkpoints to go on from: steps {resume_steps}; "
            f"start again when the folder is the same on all machines",
        )
    return resume
