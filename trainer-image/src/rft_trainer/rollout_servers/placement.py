"""Decides how many rollout servers a machine has, on which devices, and with how much memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PretrainedConfig

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.memory_devices import devices_of
from rft_api.memory_layers import BLOCK
from rft_api.memory_plan import plan_memory
from rft_api.memory_servers import DEDICATED_SHARE
from rft_api.model_files import read_model_configuration
from rft_api.model_shape import UnknownShape, read_shape
from rft_api.trainer_config import TrainerConfig
from rft_api.training import TrainerCompute
from rft_trainer.evaluation import CPU_CACHE_BYTES, cache_bytes
from rft_trainer.rollout_servers.command import SEQUENCES, Dtype, ServerSettings

_DTYPES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16",
}  # fmt: skip


def server_settings(
    config: TrainerConfig, model: str, architecture: PretrainedConfig, dtype: torch.dtype, threads: int
) -> list[ServerSettings]:
    """Return what each server of a machine with CPUs is started with, or of one with GPUs, but without those.

    Args:
        config: the run's configuration.
        model: folder of the base model.
        architecture: its configuration.
        dtype: the dtype in which the servers compute.
        threads: threads of all processes of the trainer on this machine, which compute in turns with the servers.
    """
    tuning, tokens, count = config.tuning, config.hyperparameters.max_tokens, config.compute.servers_per_node
    settings = ServerSettings(
        model=model,
        dtype=_DTYPES[dtype],
        tokens=tokens,
        lora_rank=tuning.effective_rank if tuning.type == "LoRA" else None,
        threads=max(1, threads // count),
        cache_bytes=None if config.compute.on_gpus else server_cache_bytes(architecture, tokens, dtype),
    )
    return [settings] * count


def on_devices(
    settings: list[ServerSettings], compute: TrainerCompute, memory_share: float, visible: str | None
) -> list[ServerSettings]:
    """Return the settings of each server with its GPUs and its share of their memory.

    Servers with GPUs of their own have those after the trainer's.

    Args:
        settings: the settings of all servers of a machine.
        compute: the job's processes and devices.
        memory_share: the share.
        visible: CUDA's list of the GPUs that this process may use; None for all.
    """
    names = visible.split(",") if visible else [str(number) for number in range(compute.pod_gpus)]
    first = 0 if compute.rollouts.placement == "Shared" else compute.gpus_per_node
    size = compute.rollouts.effective_gpus_per_server
    return [
        replace(each, devices=tuple(names[start : start + size]), memory_share=memory_share)
        for each, start in zip(settings, range(first, len(names), size), strict=True)
    ]


def server_cache_bytes(architecture: PretrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Return the memory of a server on CPUs for keys and values: 2 GiB, or less if all sequences need less.

    There is always room for two sequences of `tokens` tokens, each of which takes whole blocks.
    """
    blocks = math.ceil(tokens / BLOCK) + 1
    sequence = cache_bytes(architecture, dtype, blocks * BLOCK)
    return max(2 * sequence, min(CPU_CACHE_BYTES, SEQUENCES * sequence))


def gpu_memory_share(config: TrainerConfig, model: str, total_bytes: float) -> float:
    """Return the share of each GPU's memory for a server: as stated, or as planned.

    Args:
        config: the run's configuration.
        model: folder of the base model.
        total_bytes: memory of a GPU.

    Raises:
        RunError: CONFIGURATION_INVALID when the memory of the model cannot be planned.
    """
    if config.compute.rollouts.memory_share is not None:
        return config.compute.rollouts.memory_share
    if config.compute.rollouts.placement == "Dedicated":
        return DEDICATED_SHARE
    try:
        shape = read_shape(read_model_configuration(Path(model) / "config.json"))
    except UnknownShape as error:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"the memory of vLLM beside the trainer cannot be planned: {one_line(str(error))}; state "
            f"spec.compute.rollouts.memoryShare, or set placement: Dedicated",
        ) from error
    devices = devices_of(config.compute, total_bytes)
    share = plan_memory(shape, config.hyperparameters, config.tuning, devices).memory_share
    assert share is not None
    return share
