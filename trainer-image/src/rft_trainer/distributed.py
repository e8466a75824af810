"""Ranks, and collective operations on Python objects; with a single process the operations do nothing."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""How long a rank may wait for the others; it is long, because slow rewards or generation are no errors."""


def rank() -> int:
    """Return the rank of this process among all processes of the run."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the rank of this process among the processes of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks; every rank gets all values."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank; every rank gets the same answer."""
    return any_ranks(flag)[0]


def any_ranks(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set on any rank; every rank gets the same answers."""
    if world_size() == 1:
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]


def wait_for_all() -> None:
    """Wait until every rank has called this function."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def independent_passes(wrapped_model: torch.nn.Module) -> Iterator[None]:
    """Let each rank make as many forward passes as it needs, while the weights of ZeRO-3 are gathered.

    Until DeepSpeed has recorded the modules of a training step, its hook at the start of a forward pass compares them
    between the ranks, which is a collective operation. In generation the ranks make different numbers of passes, and
    without prompts none, so the ranks would wait for each other forever. `unwrap_model_for_generation` of TRL removes
    all hooks but this one.

    Args:
        wrapped_model: the model as DeepSpeed or DDP wraps it; without ZeRO-3 it has no such hook.
    """
    offload = getattr(getattr(wrapped_model, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    start_of_forward = offload.module._forward_pre_hooks[offload.fwd_pre_hook.id]
    offload.fwd_pre_hook.remove()
    try:
        yield
    finally:
        offload.fwd_pre_hook = offload.module.register_forward_pre_hook(start_of_forward)
