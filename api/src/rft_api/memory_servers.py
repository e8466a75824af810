"""Plans the memory of a vLLM server on each of its GPUs: what it holds, and which share of the GPU's memory it gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rft_api.memory_layers import cache_bytes_per_sequence
from rft_api.model_shape import ModelShape

UNUSABLE_SHARE = 0.08
"""Share of a GPU's memory for the CUDA context, libraries and fragments; vLLM leaves it free by default
(`CacheConfig.gpu_memory_utilization` is 0.92)."""
DEDICATED_SHARE = 1 - UNUSABLE_SHARE
"""Share of a GPU's memory for a server that has the GPU for itself."""
LOADED_ADAPTERS = 2
"""Adapters that a server holds at once: those of the current version of the policy and of the one before."""
_PLANNED_WITHIN = 0.1
"""By what part more than planned the trainer may need without running out of memory; tests measure that it is less."""
_TOKENS = 8192
"""Tokens that vLLM computes at once (`default_max_num_batched_tokens` of its API server on GPUs of 70 GiB and more)."""
_UNIT = 2
"""Bytes of an element: servers compute in bfloat16 on GPUs."""
_STEPS = 1000
"""A share is a whole number of thousandths."""


@dataclass(frozen=True)
class ServerNeed:
    """What a server needs on each of its GPUs."""

    items: Mapping[str, float]
    """Bytes by item, without the cache."""
    sequence_bytes: float
    """Bytes of the cache for one sequence of the longest length."""

    @property
    def least(self) -> float:
        """Bytes with which it can generate one sequence at a time."""
        return sum(self.items.values()) + self.sequence_bytes


def server_need(shape: ModelShape, adapter_weights: int, tokens: int, gpus: int) -> ServerNeed:
    """Return what a server needs on each of its GPUs.

    Args:
        shape: the model.
        adapter_weights: number of weights of an adapter; 0 where all weights are trained.
        tokens: longest length of a sequence.
        gpus: GPUs over which the server divides the model (tensor parallel).
    """
    items = {"weights": shape.weights * _UNIT / gpus}
    if adapter_weights:
        items["adapters"] = float(LOADED_ADAPTERS * adapter_weights * _UNIT)
    width = 2 * shape.hidden + shape.query_width + 2 * shape.key_value_width
    width += 3 * shape.intermediate * max(1, shape.experts_per_token)
    items["activations"] = float(_TOKENS * width * _UNIT)
    # vLLM has keys and values on each GPU for at least one head.
    sequence = cache_bytes_per_sequence(shape, _UNIT, tokens) / min(gpus, shape.key_value_heads)
    return ServerNeed(items, sequence)


def shared_share(gpu_bytes: float, trainer_bytes: float, server: ServerNeed) -> float:
    """Return the share of a GPU's memory for a server that shares the GPU with the trainer: all that the trainer
    leaves.

    It is never less than what the server needs to start. Where that does not suffice for the trainer, nothing would.

    Args:
        gpu_bytes: memory of the GPU.
        trainer_bytes: what the trainer needs in the phase that needs most.
        server: what the server needs.
    """
    rest = 1 - UNUSABLE_SHARE - (1 + _PLANNED_WITHIN) * trainer_bytes / gpu_bytes
    return max(math.floor(rest * _STEPS), math.ceil(server.least / gpu_bytes * _STEPS)) / _STEPS
