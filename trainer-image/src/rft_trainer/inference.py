"""Makes a model faster on CPUs while it only generates; afterwards every weight is bit-identical to before."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
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
    """Merge the adapters of a PEFT model into its base weights inside the context, and restore the weights after it.

    The restored weights are the same memory as before: what is merged is a copy. Subtracting the adapter again would
    change the weights in bfloat16. All copies are made before the first merge, because several adapters may share a
    base layer: those of stacked experts do. A model without adapters, or with disabled adapters, is not changed. Under
    ZeRO-3, use it inside the context that gathers the weights.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and not layer.merged and not layer.disable_adapters
    ]
    originals: list[tuple[torch.Tensor, torch.Tensor]] = []
    simple = [layer for layer in layers if _has_one_usual_adapter(layer)]
    others = [layer for layer in layers if not _has_one_usual_adapter(layer)]
    weights = {id(weight): weight for layer in others for weight in layer.get_base_layer().parameters()}
    try:
        for weight in weights.values():
            originals.append((weight, weight.data))
            weight.data = weight.data.clone()
        for layer in others:
            layer.merge()
        for layer in simple:
            weight = layer.get_base_layer().weight
            originals.append((weight, weight.data))
            weight.data = _merge(layer, weight.data)
            layer.merged_adapters.extend(layer.active_adapters)
        yield
    finally:
        for layer in layers:
            # `unmerge` would subtract the adapter instead.
            layer.merged_adapters.clear()
        # In reversed order, because layers may share a weight.
        for weight, original in reversed(originals):
            weight.data = original


def _has_one_usual_adapter(layer: BaseTunerLayer) -> bool:
    """Return whether a layer is a linear one with one usual LoRA adapter, and nothing else."""
    return (
        type(layer) is LoraLinear
        and type(layer.get_base_layer()) is torch.nn.Linear
        and len(layer.active_adapters) == 1
        and layer.active_adapters[0] in layer.lora_A
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


def _merge(layer: LoraLinear, weight: torch.Tensor) -> torch.Tensor:
    """Return the merged weight of a simple layer, without peft's many copies of the size of the weight."""
    (adapter,) = layer.active_adapters
    up, down = layer.lora_B[adapter].weight.detach().float(), layer.lora_A[adapter].weight.detach().float()
    return torch.addmm(weight.float(), up, down, alpha=layer.scaling[adapter]).to(weight.dtype)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of one new token in each row; query heads that share a key head become its positions.

    transformers instead repeats keys and values for every query head, and then runs a kernel for long queries, which
    takes ten times as long in bfloat16.
    """
    rows, heads, length, width = query.shape
    if length != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, key.shape[1], -1, width)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(DECODING, _attend)
# The mask is additive, because a boolean one would be converted again in every layer.
AttentionMaskInterface.register(DECODING, eager_mask)


@contextmanager
def decoding_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use `_attend` instead of torch's attention inside the context, if the model uses that and allows another one."""
    base = language_model(model)
    implementation = base.config._attn_implementation
    if implementation != "sdpa" or model.device.type != "cpu" or not base._supports_attention_backend:
        yield
        return
    base.set_attn_implementation(DECODING)
    try:
        yield
    finally:
        base.set_attn_implementation(implementation)


@contextmanager
def packed_weights(model: torch.nn.Module) -> Iterator[None]:
    """Make linear layers use a copy of their weights in the memory layout of oneDNN inside the context.

    Otherwise oneDNN reorders every weight at every call, which for few rows takes longer than the multiplication.
    The copies, which are as large as the weights, are made each time, because an adapter may have been merged since.
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
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Switch the model's layers of dropout off inside the context."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch the model to evaluation mode inside the context.

    In training mode, dropout would change the samples, and gradient checkpointing would disable the cache.
    """
    training_modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training_modules:
            module.training = True
