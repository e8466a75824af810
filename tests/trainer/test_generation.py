"""Sampling gives what `generate` gives and merged adapters leave no trace."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from rft_trainer.generation import sample_completions
from rft_trainer.inference import merged_adapter

VOCABULARY, PAD, ENDS = 61, 0, [1, 2, 3]
PROMPTS = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 8], [11], [9, 10], [12, 13, 14, 15, 16, 17, 18], [9, 10], [11]]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": ENDS,
    "pad_token_id": PAD,
}


def llama(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype).eval()


def mistral() -> PreTrainedModel:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)).eval()


def with_adapter(model: PreTrainedModel) -> PreTrainedModel:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight, std=0.2)
    return adapted.eval()


def sample(model: PreTrainedModel, temperature: float, generator: torch.Generator | None = None) -> list[list[int]]:
    return sample_completions(
        model,
        PROMPTS,
        max_new_tokens=16,
        temperature=temperature,
        eos_token_ids=ENDS,
        pad_token_id=PAD,
        generator=generator,
    )


def reference(model: PreTrainedModel, temperature: float) -> list[list[int]]:
    width = max(map(len, PROMPTS))
    output = model.generate(
        input_ids=torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in PROMPTS]),
        attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]),
        max_new_tokens=16,
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=0,
    )
    rows = output[:, width:].tolist()
    lengths = [next((n + 1 for n, token in enumerate(row) if token in ENDS), 16) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@pytest.mark.parametrize("make", [llama, mistral, lambda: with_adapter(llama())], ids=["llama", "sliding", "adapter"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_same_tokens_and_same_random_state_as_generate(make, temperature):
    model = make()
    completions, states = [], []
    for run in (reference, sample):
        for seed in range(4):
            torch.manual_seed(seed)
            completions.append(run(model, temperature))
            states.append(torch.get_rng_state())
    assert completions[:4] == completions[4:]
    assert all(map(torch.equal, states[:4], states[4:]))
    if temperature:
        assert len({len(row) for rows in completions for row in rows}) > 3, "the case has to cover early ends"


def test_random_numbers_are_those_of_exponential():
    torch.manual_seed(7)
    drawn = torch.empty(40, 1000).exponential_()
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(40, 1000, dtype=torch.float64).neg_().log1p_().neg_().float())


def test_a_generator_of_its_own_leaves_the_global_one_alone():
    model, before = llama(), torch.get_rng_state()
    first, second = (sample(model, 1.0, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


def test_model_comes_back_as_it_was():
    model = llama(torch.bfloat16).train()
    model.lm_head.eval()
    text = repr(model.config)
    sample(model, 1.0)
    assert repr(model.config) == text
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert not model.lm_head.training
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model.lm_head._forward_pre_hooks


def test_bfloat16_with_packed_weights_stays_close_to_generate():
    model = llama(torch.bfloat16)
    same = total = 0
    for ours, theirs in zip(sample(model, 0.0), reference(model, 0.0), strict=True):
        same += sum(a == b for a, b in zip(ours, theirs, strict=False))
        total += max(len(ours), len(theirs))
    assert same >= 0.7 * total


def test_no_prompts_and_empty_prompts():
    arguments = {"max_new_tokens": 4, "temperature": 1.0, "eos_token_ids": ENDS, "pad_token_id": PAD}
    assert sample_completions(llama(), [], **arguments) == []
    with pytest.raises(ValueError, match="empty prompt"):
        sample_completions(llama(), [[5], []], **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_bit_identical_after_merging(dtype):
    model = with_adapter(llama(dtype))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for error in (None, KeyError):
        try:
            with merged_adapter(model):
                changed = [not torch.equal(before[name], weight) for name, weight in model.state_dict().items()]
                assert sum(changed) == 3 * 7
                if error:
                    raise error
        except KeyError:
            pass
        assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
        assert not any(module.merged for module in model.modules() if isinstance(module, LoraLayer))


def test_layers_that_share_a_weight_are_restored():
    plain = llama()
    first, second, _ = plain.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    model = with_adapter(plain)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    shared = first.mlp.up_proj.base_layer.weight.clone()
    with merged_adapter(model):
        assert not torch.equal(first.mlp.up_proj.base_layer.weight, shared)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_merged_model_computes_the_same_and_plain_models_are_left_alone():
    model, ids = with_adapter(llama()), torch.tensor([[5, 6, 7]])
    expected = model(input_ids=ids).logits
    with merged_adapter(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    with model.disable_adapter(), merged_adapter(model):
        assert not torch.allclose(model(input_ids=ids).logits, expected)
    with merged_adapter(llama()):
        pass
