"""Judges the memory of a job from the config.json of its model alone, and says what follows from the verdict.

The pod that plans before a job gets GPUs, the trainer, and the operator say the same in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rft_api.foreign.text import one_line
from rft_api.memory_advice import Fields, judge_memory
from rft_api.memory_devices import devices_of
from rft_api.memory_plan import trained_weights
from rft_api.model import format_location
from rft_api.model_shape import UnknownShape, read_shape
from rft_api.progress import MemoryVerdict
from rft_api.storage_error import StorageError
from rft_api.trainer_config import TrainerConfig
from rft_api.vllm_models import ENGINE, vllm_problem

NOT_PLANNED = "a warm-up alone takes the memory of its longest conversations, which only the data show"


def judge_configuration(
    read: Callable[[], Any], config: TrainerConfig, gpus: Sequence[tuple[float | None, str]]
) -> MemoryVerdict:
    """Return whether the memory of a run fits its GPUs.

    Args:
        read: returns what the model's config.json holds; it may raise a StorageError, an OSError or a ValueError.
        config: the run's configuration.
        gpus: the memory of a GPU in bytes (None when it is not known, or the configuration states it), and where that
            is known from, or why it is not (empty when the GPU itself was asked); first of the smallest GPU that the
            run may get, then of the largest if it is another.
    """
    if not config.is_reinforced:
        return unplanned(NOT_PLANNED)
    try:
        configuration = read()
        problem = vllm_problem(configuration, config.compute.rollout_engine, config.tuning)
        if problem is not None:
            return unplanned(f"{format_location(ENGINE)}: {problem}")
        shape = read_shape(configuration)
        trained_weights(shape, config.tuning)
    except (StorageError, UnknownShape, OSError, ValueError) as error:
        return unplanned(str(error))
    verdicts = [
        judge_memory(shape, Fields(config.hyperparameters, config.tuning, devices_of(config.compute, size)), source)
        for size, source in gpus
    ]
    return _agreed(verdicts[0], verdicts[-1])


def _agreed(smallest: MemoryVerdict, largest: MemoryVerdict) -> MemoryVerdict:
    """Return the verdict for a job that may get GPUs of several sizes: it is not known where they disagree.

    Args:
        smallest: the verdict for the smallest of them.
        largest: the verdict for the largest of them.
    """
    if smallest.fits is False and largest.fits:
        text = (
            f"the job does not fit all GPUs that it may get: {smallest.message}. Or choose nodes whose GPUs have more"
        )
        return MemoryVerdict(fits=None, message=f"{text} memory, with compute.pod.nodeSelector")
    return largest if smallest.fits is False else smallest


def unplanned(why: str) -> MemoryVerdict:
    """Return the verdict for a job whose memory cannot be planned."""
    return MemoryVerdict(fits=None, message=f"the memory cannot be planned: {one_line(why)}")


def refusal(verdict: MemoryVerdict) -> str:
    """Return why a job that does not fit does not start, with what to do."""
    return f"{verdict.message}. To train nevertheless, set spec.compute.ignoreMemoryPlan: true"


def permitted(verdict: MemoryVerdict) -> MemoryVerdict:
    """Return the verdict for a job that does not fit, and starts because its manifest says so."""
    text = f"{verdict.message}. It trains nevertheless (spec.compute.ignoreMemoryPlan)"
    return verdict.model_copy(update={"message": text})
