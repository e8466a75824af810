"""Weights of ZeRO stage 3: divides them among all ranks while a model is loaded, and gathers them to be used whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from rft_api.training import TrainerCompute
from rft_trainer.deepspeed_config import build_deepspeed_config


@contextmanager
def divided_weights(compute: TrainerCompute, dtype: torch.dtype) -> Iterator[None]:
    """Make transformers divide the models that it loads inside the context among all ranks, at ZeRO stage 3.

    Each weight is divided when its module is constructed. Then rank 0 reads the weights of one module after the other
    from files that are mapped into memory, and each rank keeps its part of them. So no rank ever holds more than its
    parts and one whole module. All ranks have to load the same models. At other stages nothing changes.

    Args:
        compute: how the run is distributed; DeepSpeed must have been initialized.
        dtype: that of the weights on CPUs; on GPUs DeepSpeed computes in bfloat16.
    """
    settings = build_deepspeed_config(compute, compute.on_gpus)
    if settings is None or settings["zero_optimization"]["stage"] != 3:
        yield
        return
    settings = {name: value for name, value in settings.items() if value != "auto"}
    # DeepSpeed asks for a batch size, although only training uses one, for which transformers will state the real one.
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["bf16"] = {"enabled": compute.on_gpus or dtype is torch.bfloat16}
    # transformers keeps a weak reference to it.
    active = HfDeepSpeedConfig(settings)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del active


def is_divided(parameter: torch.nn.Parameter) -> bool:
    """Return whether a weight is divided among the ranks, so that this one sees it only while it is gathered."""
    return hasattr(parameter, "ds_id")


def full_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Return the shape of a weight, also of a divided one."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def gathered(parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[Any]:
    """Return a context in which every rank has the given weights whole, to be read; all ranks enter it together."""
    divided = [parameter for parameter in parameters if is_divided(parameter)]
    if not divided:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(divided)
    return context
