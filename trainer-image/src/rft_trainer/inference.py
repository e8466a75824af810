"""Makes a model compute faster on CPUs while it only generates; afterwards it is bit for bit what it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from rft_trainer.model_access import language_model

DECODING = "rft_decoding"
"""Name of `_attend` among transformers' attention functions."""


@contextmanager
def merged_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Adapters of a PEFT model are part of its base weights inside; every weight is bit-identical to before after it.

    The touched weights are kept and copied back instead of subtracting the adapter again, which drifts in bfloat16.
    Nothing happens in a model without adapters, or where they are switched off. Under ZeRO-3 it belongs inside the
    context that gathers the weights.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and not layer.merged and not layer.disable_adapters
    ]
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for layer in layers:
            saved += [(weight, weight.detach().clone()) for weight in layer.get_base_layer().parameters()]
            layer.merge()
        yield
    finally:
        for layer in layers:
            # Instead of `unmerge`, which would compute the adapter's weights once more to subtract them.
            layer.merged_adapters.clear()
        with torch.no_grad():
            for weight, copy in saved:
                weight.copy_(copy)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row: query heads that share a key head go through together, as its positions.

    The usual way repeats keys and values for every query head and then runs a kernel made for long queries, which in
    bfloat16 takes ten times as long.
    """
    rows, heads, length, width = query.shape
    if length != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, key.shape[1], -1, width)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(DECODING, _attend)
# An additive mask: a boolean one would be converted again in every layer.
AttentionMaskInterface.register(DECODING, eager_mask)


@contextmanager
def decoding_attention(model: PreTrainedModel) -> Iterator[None]:
    """`_attend` instead of torch's attention, where the model uses that one and lets it be exchanged."""
    base = language_model(model)
    before = base.config._attn_implementation
    if before != "sdpa" or model.device.type != "cpu" or not base._supports_attention_backend:
        yield
        return
    base.set_attn_implementation(DECODING)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


@contextmanager
def packed_weights(model: torch.nn.Module) -> Iterator[None]:
    """Linear layers use a copy of their weights in oneDNN's own order.

    Otherwise oneDNN reorders every weight at every call, which for a few rows takes longer than the multiplication.
    The copies (as large as the weights) are made anew each time, because an adapter may have been merged since.
    """
    supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    layers = [
        layer
        for layer in model.modules()
        if supported
        and type(layer) is torch.nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.bfloat16
    ]
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
        vars(layer)["forward"] = partial(_packed_linear, packed, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _packed_linear(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode: dropout would blur the samples, and checkpointing in training mode switches the cache off."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
