"""Computes linear layers with a LoRA adapter on CPUs in fewer operations than peft, with the same numbers.

peft computes the adapter in float32 beside a layer in bfloat16, in a dozen operations that each write a tensor of the
size of the layer's output. For the few rows of a step on a CPU they take as long as the products of matrices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from rft_trainer.inference import has_one_plain_adapter
from rft_trainer.model_access import language_model
from rft_trainer.partitions import is_divided


@contextmanager
def adapters_in_few_operations(model: torch.nn.Module) -> Iterator[None]:
    """Make the adapted linear layers of a model use `_AdaptedLinear` inside the context, where it computes the same.

    Layers of other kinds are computed as peft does it, and all of them are on other devices, under ZeRO-3, which
    gathers weights when peft's own modules run, and with gradient checkpointing, which runs layers again later.
    """
    base = language_model(model)
    is_possible = base.device.type == "cpu" and not base.is_gradient_checkpointing
    layers = [module for module in model.modules() if _is_supported(module)] if is_possible else []
    for layer in layers:
        vars(layer)["forward"] = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _is_supported(module: torch.nn.Module) -> bool:
    if not isinstance(module, LoraLinear) or not has_one_plain_adapter(module):
        return False
    dropout = module.lora_dropout[module.active_adapters[0]]
    return (
        not module.merged
        and not module.disable_adapters
        and (isinstance(dropout, torch.nn.Identity) or not dropout.training)
        and not module.get_base_layer().weight.requires_grad
        and not any(map(is_divided, module.parameters()))
    )


def _forward(layer: LoraLinear, inputs: torch.Tensor) -> torch.Tensor:
    (adapter,) = layer.active_adapters
    base = layer.get_base_layer()
    result: torch.Tensor = _AdaptedLinear.apply(
        inputs,
        base.weight,
        base.bias,
        layer.lora_A[adapter].weight,
        layer.lora_B[adapter].weight,
        layer.scaling[adapter],
    )
    return result


class _AdaptedLinear(torch.autograd.Function):
    """(inputs x [..., I], W [O, I], bias [O]?, A [r, I], B [O, r], scaling s) -> x W^T + bias + s x A^T B^T [..., O].

    W and the bias have no gradient. As in peft, W is applied in the dtype of the inputs, the adapter in its own, and
    their sum is rounded to the dtype of the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        outputs = linear(inputs, weight, bias)
        between = inputs.flatten(0, -2).to(down.dtype) @ down.t()
        # The output is a new tensor, so that the sum may take its place.
        total = outputs.flatten(0, -2).to(up.dtype).addmm_(between, up.t(), alpha=scaling)
        ctx.save_for_backward(inputs, weight, down, up, between)
        ctx.scaling = scaling
        return total.to(outputs.dtype).view_as(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, down, up, between = ctx.saved_tensors
        exact = gradient.flatten(0, -2).to(up.dtype)
        of_between = (exact @ up).mul_(ctx.scaling)
        of_up = (between.t() @ exact).t() * ctx.scaling
        of_down = of_between.t() @ inputs.flatten(0, -2).to(down.dtype)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_base = gradient @ weight
            total = of_base.flatten(0, -2).to(down.dtype).addmm_(of_between, down)
            of_inputs = total.to(inputs.dtype).view_as(inputs)
        return of_inputs, None, None, of_down, of_up, None
