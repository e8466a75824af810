"""Plans the memory of a run before the weights of its model are fetched or read, and ends it when they cannot fit.

The trainer is the first that can: the operator reads no models, and only the pod knows its GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.hub_address import HubAddress
from rft_api.memory_advice import Fields, judge_memory
from rft_api.memory_devices import devices_of
from rft_api.memory_plan import trained_weights
from rft_api.model_files import read_model_configuration
from rft_api.model_shape import UnknownShape, read_shape
from rft_api.progress import MemoryVerdict
from rft_api.storage_error import StorageError
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import hub_address
from rft_trainer.distributed import gather, rank

log = logging.getLogger(__name__)


def judge_run(config: TrainerConfig, commit: str | None, gpu_bytes: float | None) -> MemoryVerdict:
    """Return whether the memory of a run fits its GPUs, from the config.json of its model alone.

    Args:
        config: the run's configuration.
        commit: the commit of a model on the hub; None for a folder.
        gpu_bytes: the memory of the smallest GPU; None when it is not known.
    """
    try:
        path = _configuration_file(config, commit)
        shape = read_shape(read_model_configuration(path))
        trained_weights(shape, config.tuning)
    except (StorageError, UnknownShape, OSError, ValueError) as error:
        return MemoryVerdict(fits=None, message=f"the memory cannot be planned: {one_line(str(error))}")
    devices = devices_of(config.compute, gpu_bytes)
    return judge_memory(shape, Fields(config.hyperparameters, config.tuning, devices))


def check_memory(config: TrainerConfig, commit: str | None) -> MemoryVerdict:
    """Return the verdict for the smallest GPU of all processes; it is the same on all, so that all end with it.

    Args:
        config: the run's configuration.
        commit: the commit of a model on the hub; None for a folder.

    Raises:
        RunError: DOES_NOT_FIT.
    """
    sizes = [size for size in gather(_gpu_memory()) if size is not None]
    verdict = gather(judge_run(config, commit, min(sizes, default=None)) if rank() == 0 else None)[0]
    assert verdict is not None
    return refuse_unfit(config, verdict)


def refuse_unfit(config: TrainerConfig, verdict: MemoryVerdict) -> MemoryVerdict:
    """Return the verdict to report; end the run when it does not fit, unless the configuration says to go on.

    Raises:
        RunError: DOES_NOT_FIT.
    """
    if verdict.fits is False and not config.compute.ignore_memory_plan:
        raise RunError(
            ExitCode.DOES_NOT_FIT,
            f"{verdict.message}. To train nevertheless, set spec.compute.ignoreMemoryPlan: true",
        )
    if verdict.fits is False:
        text = f"{verdict.message}. It trains nevertheless (spec.compute.ignoreMemoryPlan)"
        verdict = verdict.model_copy(update={"message": text})
    log.log(logging.INFO if verdict.fits else logging.WARNING, "memory: %s", verdict.message)
    return verdict


def _gpu_memory() -> float | None:
    """Return the memory of this process's GPU in bytes; None when torch sees no GPU."""
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _configuration_file(config: TrainerConfig, commit: str | None) -> Path:
    """Return the path of the model's config.json, which is fetched from the hub by itself."""
    address = hub_address(config.model)
    if address is None or commit is None:
        return Path(config.model) / "config.json"
    from rft_api.hub import HubModel

    return HubModel(HubAddress(address.repository, commit)).fetch("config.json")
