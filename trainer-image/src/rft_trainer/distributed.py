"""The few collective operations on Python objects that the run needs; without other processes they are no-ops."""

from __future__ import annotations

import datetime
import os
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""How long a rank may wait for the others: a slow judge or a long generation on one of them is not an error."""


def rank() -> int:
    """This process's number among all."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def gather(value: T) -> list[T]:
    """Return the value of every rank, in the ranks' order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on some rank; the same answer on all."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def wait_for_all() -> None:
    """Return when every rank has got here."""
    if world_size() > 1:
        dist.barrier()
