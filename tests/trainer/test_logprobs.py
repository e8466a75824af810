"""Log-probabilities, entropies and gradients equal TRL's, and frozen layers stay out of the backward pass."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rft_trainer import logprobs
from rft_trainer.logprobs import completion_logprobs

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
TEMPERATURE = 0.8
PROMPTS = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 8], [9, 10], [9, 10], [11, 12, 13, 14, 15, 16, 17]]


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def eager():
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager"))


def sliding():
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))


def adapted():
    """LoRA in the last layer only."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], layers_to_transform=[2])
    model = get_peft_model(llama(), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def batch(lengths=(3, 9, 5, 0, 1, 7), completion=9):
    """Left-padded prompts and right-padded completions with other numbers in the padding."""
    width = max(map(len, PROMPTS))
    prompt_mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    prompt_ids = torch.tensor([[n] * (width - len(prompt)) + prompt for n, prompt in enumerate(PROMPTS)])
    completion_ids = torch.randint(4, 61, (len(PROMPTS), completion), generator=torch.Generator().manual_seed(1))
    completion_mask = (torch.arange(completion) < torch.tensor(lengths)[:, None]).long()
    return prompt_ids, prompt_mask, completion_ids, completion_mask


def of_trl(model, prompt_ids, prompt_mask, completion_ids, completion_mask, temperature, entropy):
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(inner, temperature=temperature, outputs=("log_probs", "entropy"))
    try:
        logps, entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies(
            SimpleNamespace(accelerator=Accelerator(cpu=True)),
            model,
            torch.cat([prompt_ids, completion_ids], 1),
            torch.cat([prompt_mask, completion_mask], 1),
            completion_ids.shape[1],
            compute_entropy=entropy,
        )
    finally:
        del inner.forward
    return logps, entropies


LOSSES = {
    "log-probabilities": lambda logps, entropies: logps,
    "entropies": lambda logps, entropies: entropies,
    "both": lambda logps, entropies: logps + entropies,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunk", [61, 1 << 21])
@pytest.mark.parametrize("make", [llama, eager, sliding, adapted])
def test_values_and_gradients_equal_those_of_trl(make, chunk, loss, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    torch.manual_seed(0)
    model, inputs = make(), batch()
    weights, entropy_weights = torch.randn(2, *inputs[2].shape)
    results = []
    for function in (of_trl, completion_logprobs):
        logps, entropies = function(model, *inputs, TEMPERATURE, True)
        LOSSES[loss](logps * weights, entropies * entropy_weights).sum().backward()
        results.append((logps.detach(), entropies.detach(), {n: p.grad for n, p in model.named_parameters()}))
        model.zero_grad()
    assert any(gradient is not None and gradient.any() for gradient in results[0][2].values())
    torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=1e-4)
    assert not results[1][0][inputs[3] == 0].any()
    assert not results[1][1][inputs[3] == 0].any()


def test_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    model, inputs = llama(), batch()
    expected, _ = completion_logprobs(model, *inputs, TEMPERATURE, False)
    logps, none = completion_logprobs(model.bfloat16(), *inputs, TEMPERATURE, False)
    assert none is None
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, expected, atol=0.3, rtol=0.05)


def test_nothing_to_score_is_a_differentiable_zero():
    model = llama()
    logps, _ = completion_logprobs(model, *batch(lengths=[0] * 6), TEMPERATURE, False)
    logps.sum().backward()
    assert not logps.any()
    assert all(not p.grad.any() for p in model.parameters())


def test_frozen_layers_below_the_adapter_save_nothing():
    model, tracked = adapted(), {}
    for number, layer in enumerate(model.get_base_model().model.layers):
        layer.register_forward_hook(
            lambda module, inputs, output, number=number: tracked.update({number: output.requires_grad})
        )
    completion_logprobs(model, *batch(), TEMPERATURE, False)
    assert tracked == {0: False, 1: False, 2: True}
