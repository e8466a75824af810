"""Adapted layers compute what peft computes, forward and backward, and only where they can."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rft_trainer.adapted_linear import adapters_in_few_operations

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "attention_bias": True,
}
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(dtype=torch.float32, **settings):
    """A model with adapters that change what its layers compute."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": NAMES, **settings}))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return tuned.train()


def replaced(model):
    """The number of layers that are computed in few operations at the moment."""
    return sum("forward" in vars(module) for module in model.modules())


def values_and_gradients(model):
    ids = torch.arange(40).view(2, 20)
    logits = model(input_ids=ids).logits
    (logits.float() * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), gradients


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_values_and_gradients_are_those_of_peft(rank_stabilized):
    model = adapted(use_rslora=rank_stabilized)
    expected, gradients = values_and_gradients(model)
    with adapters_in_few_operations(model):
        assert replaced(model) == 2 * len(NAMES)
        found, own = values_and_gradients(model)
    assert not replaced(model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert own.keys() == gradients.keys()
    assert len(own) == 2 * 2 * len(NAMES)
    assert all(distance(own[name], gradient.double()) < 1e-6 for name, gradient in gradients.items())
    with adapters_in_few_operations(model):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.neg_()
                break
        changed, _ = values_and_gradients(model)
    assert not torch.allclose(changed, expected, atol=1e-3), "changed weights have to be seen"


def test_bfloat16_is_as_close_to_float64_as_peft():
    low = adapted(torch.bfloat16)
    exact = adapted(torch.bfloat16).double()
    expected, gradients = values_and_gradients(exact)
    plain, of_peft = values_and_gradients(low)
    with adapters_in_few_operations(low):
        found, own = values_and_gradients(low)
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) <= 1.3 * distance(plain, expected)
    errors = [distance(own[name], gradient) for name, gradient in gradients.items()]
    errors_of_peft = [distance(of_peft[name], gradient) for name, gradient in gradients.items()]
    assert sum(errors) <= 1.3 * sum(errors_of_peft)


def distance(value, expected):
    return float((value.double() - expected).norm() / expected.norm())


def with_dropout():
    return adapted(lora_dropout=0.1)


def with_dora():
    return adapted(use_dora=True)


def with_adapter_bias():
    return adapted(lora_bias=True)


def with_trained_base():
    model = adapted()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def checkpointed():
    model = adapted()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    return model


def merged():
    model = adapted()
    model.merge_adapter()
    return model


@pytest.mark.parametrize("make", [with_dropout, with_dora, with_adapter_bias, with_trained_base, checkpointed, merged])
def test_other_layers_are_left_to_peft(make):
    model = make()
    with adapters_in_few_operations(model):
        assert not replaced(model)


def test_a_disabled_adapter_and_dropout_in_evaluation():
    model = adapted()
    with model.disable_adapter(), adapters_in_few_operations(model):
        assert not replaced(model)
    model = with_dropout().eval()
    expected, _ = values_and_gradients(model)
    with adapters_in_few_operations(model):
        assert replaced(model) == 2 * len(NAMES)
        torch.testing.assert_close(values_and_gradients(model)[0], expected, atol=1e-5, rtol=1e-5)
