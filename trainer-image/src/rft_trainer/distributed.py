"""Ranks, and collective operations on Python objects; with a single process the operations do nothing."""

from __future__ import annotations

import datetime
import os
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
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def wait_for_all() -> None:
    """Wait until every rank has called this function."""
    if world_size() > 1:
        dist.barrier()
