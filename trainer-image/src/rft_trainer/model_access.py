"""Finds the transformers model inside its wrappers, and adapts its output layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


def language_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside wrappers of PEFT, DeepSpeed or DDP."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


@contextmanager
def contiguous_head(model: torch.nn.Module) -> Iterator[None]:
    """Make the input of the output layer contiguous inside the context.

    Otherwise, for a slice of positions, torch copies the whole weight of the output layer once for each row.
    """
    head: torch.nn.Module = language_model(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()
