"""The devices of a job, for which its memory is planned: processes, GPUs, servers, and how they share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rft_api.quantities import quantity_value
from rft_api.training import DeepSpeed, TrainerCompute

Placement = Literal["InProcess", "Shared", "Dedicated"]
"""Where completions are generated: by the trainer itself, by vLLM on the trainer's GPUs, or by vLLM on GPUs of its
own."""


@dataclass(frozen=True)
class Devices:
    """The processes of the trainer, their devices, and those of the servers of rollouts."""

    trainers: int
    """Number of processes of the trainer; on GPUs, each has one."""
    on_gpus: bool
    """Whether they compute on GPUs."""
    placement: Placement = "InProcess"
    """Where completions are generated."""
    server_gpus: int = 1
    """GPUs over which each server divides the model (tensor parallel)."""
    memory_share: float | None = None
    """Stated share of each GPU's memory that a server may use; None for the default."""
    node_gpus: int = 1
    """GPUs of the trainer on each node."""
    deepspeed: DeepSpeed | None = None
    """How DeepSpeed partitions the state of training; None without DeepSpeed."""
    cpu_bytes: int = 4
    """Bytes of a weight with a LoRA adapter on CPUs: 2 in bfloat16."""
    gradient_checkpointing: bool | None = None
    """Whether layers keep only their inputs for the backward pass; None for the default, which is that GPUs do."""
    gpu_bytes: float | None = None
    """Memory of each GPU in bytes; None when it is not known."""

    @property
    def keeps_inputs_only(self) -> bool:
        """Whether layers keep only their inputs for the backward pass, and compute the rest again."""
        return self.on_gpus if self.gradient_checkpointing is None else self.gradient_checkpointing


def devices_of(compute: TrainerCompute, gpu_bytes: float | None = None) -> Devices:
    """Return the devices of a job.

    Args:
        compute: the trainer's part of `spec.compute`.
        gpu_bytes: memory of a GPU as its driver states it; where `gpuMemory` is set too, the smaller one counts.
    """
    stated = [gpu_bytes, None if compute.gpu_memory is None else quantity_value(compute.gpu_memory)]
    gpu_bytes = min((size for size in stated if size is not None), default=None)
    return Devices(
        trainers=compute.world_size,
        on_gpus=compute.on_gpus,
        placement="InProcess" if compute.rollout_engine == "InProcess" else compute.rollouts.placement,
        server_gpus=compute.rollouts.effective_gpus_per_server,
        memory_share=compute.rollouts.memory_share,
        node_gpus=compute.gpus_per_node,
        deepspeed=compute.effective_deepspeed,
        # With Auto, processors without instructions for bfloat16 compute in float32: the larger number is planned.
        cpu_bytes=2 if compute.precision == "BFloat16" else 4,
        gradient_checkpointing=compute.effective_gradient_checkpointing,
        gpu_bytes=gpu_bytes if compute.on_gpus else None,
    )
