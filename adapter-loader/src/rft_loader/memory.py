"""Plans the memory of a job from the config.json of its model, in a pod of its own, before the job gets GPUs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_api.foreign.files import read_document
from rft_api.memory_verdict import judge_configuration, unplanned
from rft_api.model_files import MAXIMUM_CONFIGURATION, read_model_configuration
from rft_api.progress import MemoryVerdict
from rft_api.termination import TERMINATION_FILE, memory_message
from rft_api.trainer_config import TrainerConfig
from rft_loader.problems import Problem
from rft_loader.sources import Sources

_CONFIGURATION = "config.json"


def plan_job(job: Path, uri: str, gpus: Sequence[tuple[int | None, str]]) -> MemoryVerdict:
    """Return whether a job fits its GPUs; that its model cannot be read is a verdict, too.

    Args:
        job: the file with the configuration of the trainer.
        uri: the address of the model, or the path of its folder.
        gpus: as `judge_configuration`.

    Raises:
        ValueError: when the file holds no configuration of this version.
        OSError: when it cannot be read.
    """
    config = read_document(job, TrainerConfig)
    try:
        return judge_configuration(lambda: _read_configuration(uri), config, gpus)
    except Problem as problem:
        return unplanned(str(problem))


def leave_verdict(verdict: MemoryVerdict) -> None:
    """Write the verdict to the pod's termination message, from which the operator reads it."""
    target = os.environ.get(TERMINATION_FILE)
    if target:
        Path(target).write_text(memory_message(verdict), encoding="utf-8")


def _read_configuration(uri: str) -> Any:
    """Return what the model's config.json holds; no other file is fetched.

    Raises:
        Problem: when it cannot be had.
        OSError, ValueError: when it cannot be read.
    """
    source = Sources().open(uri)
    file = next((file for file in source.files() if file.name == _CONFIGURATION), None)
    if file is None:
        raise Problem(f"{uri}: is no model: it holds no {_CONFIGURATION}")
    if file.size > MAXIMUM_CONFIGURATION:
        raise Problem(f"{uri}: {_CONFIGURATION} is larger than {MAXIMUM_CONFIGURATION:,} bytes")
    with tempfile.TemporaryDirectory() as scratch:
        source.fetch(file, Path(scratch))
        return read_model_configuration(Path(scratch) / _CONFIGURATION)
