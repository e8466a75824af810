"""Plans the memory of a run before the weights of its model are fetched or read, and ends it when they cannot fit.

In a cluster a pod has planned before, with what the manifest or the nodes say. Only the trainer knows its GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from rft_api.exit_codes import ExitCode, RunError
from rft_api.hub_address import HubAddress
from rft_api.memory_verdict import judge_configuration, permitted, refusal
from rft_api.model_files import read_model_configuration
from rft_api.progress import MemoryVerdict
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
    gpus = [(gpu_bytes, "")]
    return judge_configuration(lambda: read_model_configuration(_configuration_file(config, commit)), config, gpus)


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
        raise RunError(ExitCode.DOES_NOT_FIT, refusal(verdict))
    if verdict.fits is False:
        verdict = permitted(verdict)
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
