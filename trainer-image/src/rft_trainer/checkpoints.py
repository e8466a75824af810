"""Checkpoints on disk: completes them, decides which ones to keep, and finds the one to resume from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_api.files import atomic_write, sync
from rft_api.foreign.files import read_document
from rft_api.run_folder import CHECKPOINT_MARKER, CheckpointInfo, RunFolder
from rft_trainer.progress import folder_bytes

KEPT = 3
"""Checkpoints kept for their validation reward, besides the newest ones."""

_SAMPLER = "sampler"

# Files of a checkpoint that only a resumed run needs; the others are the model or adapter.
_RESUME_FILES = (
    "optimizer.*", "scheduler.pt", "rng_state*", "global_step*", "latest", "zero_to_fp32.py", "scaler.pt", _SAMPLER,
)  # fmt: skip


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are removed or reduced after a new one was written."""

    remove: list[int]
    """Steps whose checkpoints are removed."""
    thin: list[int]
    """Steps whose checkpoints keep only their weights."""


def plan_retention(checkpoints: Sequence[CheckpointInfo], keep: int) -> Retention:
    """Return the retention that keeps the best `KEPT` by validation reward, earlier ones first, and the newest.

    The `keep` newest resumable checkpoints stay resumable, with the best up to each of them: a run that goes on from
    there does not validate these again, and may validate the later ones otherwise.
    """
    newest = max(info.step for info in checkpoints)
    resumable = sorted((info.step for info in checkpoints if info.resumable), reverse=True)[:keep]
    kept_steps = {newest, *resumable}
    for step in kept_steps.copy():
        kept_steps |= {info.step for info in best_first([info for info in checkpoints if info.step <= step])[:KEPT]}
    return Retention(
        remove=[info.step for info in checkpoints if info.step not in kept_steps],
        thin=[info.step for info in checkpoints if info.step in kept_steps and info.step not in resumable],
    )


def is_among_best(checkpoints: Sequence[CheckpointInfo], reward: float | None) -> bool:
    """Return whether the weights of a new validation with this reward would be kept for it."""
    if reward is None:
        return False
    best = best_first(checkpoints)[:KEPT]
    return len(best) < KEPT or reward > (best[-1].validation_reward or 0.0)


def best_first(checkpoints: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return the validated checkpoints, best first."""
    validated = [info for info in checkpoints if info.validation_reward is not None]
    return sorted(validated, key=lambda info: (-(info.validation_reward or 0.0), info.step))


def best_or_newest(folder: RunFolder) -> CheckpointInfo:
    """Return the best checkpoint of a run, or the newest if none was validated."""
    checkpoints = complete_checkpoints(folder)
    return next(iter(best_first(checkpoints)), None) or max(checkpoints, key=lambda info: info.step)


def complete_checkpoints(folder: RunFolder) -> list[CheckpointInfo]:
    """Return the complete checkpoints of a run, sorted by step."""
    checkpoints = []
    for marker in folder.checkpoints.glob(f"step-*/{CHECKPOINT_MARKER}"):
        checkpoints.append(read_document(marker, CheckpointInfo))
    return sorted(checkpoints, key=lambda info: info.step)


def resume_point(folder: RunFolder) -> CheckpointInfo | None:
    """Return the newest complete checkpoint that training can resume from; None without one."""
    return max((info for info in complete_checkpoints(folder) if info.resumable), key=lambda i: i.step, default=None)


def expected_bytes(folder: RunFolder) -> int | None:
    """Return how many bytes a new resumable checkpoint will have: those of the newest one; None without one."""
    newest = resume_point(folder)
    return folder_bytes(folder.checkpoint(newest.step)) if newest is not None else None


def remove_torn(folder: RunFolder) -> list[str]:
    """Remove incomplete checkpoints of an interrupted write; return the names of their folders."""
    torn = [
        path
        for path in (folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ())
        if path.is_dir() and not (path / CHECKPOINT_MARKER).exists()
    ]
    for path in torn:
        shutil.rmtree(path)
    return sorted(path.name for path in torn)


def remove_after(folder: RunFolder, step: int) -> None:
    """Remove the checkpoints of later steps, which a resumed run makes again."""
    _remove(folder, [info.step for info in complete_checkpoints(folder) if info.step > step])


def complete(folder: RunFolder, partial: Path, info: CheckpointInfo, keep: int) -> None:
    """Turn the folder `partial` into a complete checkpoint, and apply the retention; `keep` stay resumable.

    The marker is written last, after all other files have reached the disk, so a checkpoint with a marker is complete.
    """
    target = folder.checkpoint(info.step)
    _sync_tree(partial)
    if target.exists():
        # It is of an earlier start and not resumable, so that the run has made its step again.
        shutil.rmtree(target)
    partial.rename(target)
    write_marker(target, info)
    retention = plan_retention(complete_checkpoints(folder), keep)
    _remove(folder, retention.remove)
    for step in retention.thin:
        _thin(folder.checkpoint(step))


def _remove(folder: RunFolder, steps: Sequence[int]) -> None:
    for step in steps:
        # The marker is removed first, so that an interrupted removal leaves a checkpoint that counts as incomplete.
        (folder.checkpoint(step) / CHECKPOINT_MARKER).unlink()
        shutil.rmtree(folder.checkpoint(step))


def _thin(checkpoint: Path) -> None:
    info = read_document((checkpoint / CHECKPOINT_MARKER), CheckpointInfo)
    if info.resumable:
        write_marker(checkpoint, info.model_copy(update={"resumable": False}))
    # Also where the marker says so already: a kill may have left files behind, here or in the object store.
    for pattern in _RESUME_FILES:
        for path in checkpoint.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def sampler(checkpoint: Path) -> Path:
    """Return where a checkpoint holds the version from which the next step was being sampled, if it is another one.

    The folder is two levels deep, because transformers loads an adapter from every folder of a checkpoint that has one.
    """
    return checkpoint / _SAMPLER / "version"


def write_marker(checkpoint: Path, info: CheckpointInfo) -> None:
    """Write or replace the marker of a complete checkpoint, atomically."""
    atomic_write(checkpoint / CHECKPOINT_MARKER, info.model_dump_json(by_alias=True), durable=True)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)
