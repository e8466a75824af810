"""The transformers model inside whatever is around it, and its output layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


def language_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model itself, whatever is around it: PEFT, DeepSpeed, DDP."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


@contextmanager
def contiguous_head(model: torch.nn.Module) -> Iterator[None]:
    """Make the input of the LM head contiguous: for a slice of positions torch copies the whole head once a row."""
    head: torch.nn.Module = language_model(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()
