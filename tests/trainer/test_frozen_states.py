"""What frozen layers compute in generation is used again in the update, with the numbers of the plain way."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_api.memory_devices import Devices
from rft_api.memory_plan import plan_memory
from rft_api.model_shape import read_shape
from rft_api.training import Hyperparameters
from rft_api.tuning import Tuning
from rft_trainer.evaluation import Decoding, complete
from rft_trainer.frozen_states import FrozenStates
from rft_trainer.logprobs import completion_logprobs

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
PROMPTS = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 8], [9, 10], [9, 10], [11, 12, 13, 14, 15, 16, 17]]
END = 3
FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama, eager": lambda: transformers.LlamaConfig(**SIZES, attn_implementation="eager"),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "gemma, which scales the embedding": lambda: transformers.GemmaConfig(**SIZES, head_dim=8),
    "granite": lambda: transformers.GraniteConfig(**SIZES, embedding_multiplier=3.0, residual_multiplier=0.5),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
    ),
}


def adapted(configuration=None, layers=(2, 3), **settings):
    """A model with an adapter on some layers, which changes what they compute."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configuration or FAMILIES["llama"]())
    names = ["q_proj", "v_proj", "o_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=names, layers_to_transform=list(layers), **settings))
    change(tuned)
    return tuned.train()


def change(model):
    """Give the adapter new weights, as an update does."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for weight in module.lora_B.values():
                torch.nn.init.normal_(weight.weight, std=0.2)


def sample(model, states):
    torch.manual_seed(1)
    return complete(model, PROMPTS, Decoding(9, 1.0, [END], 0), frozen_states=states)


def update(model, completions, states, learnt=None):
    """Log-probabilities, entropies and gradients of completions; those that are not learnt are masked."""
    width, longest = max(map(len, PROMPTS)), max(map(len, completions))
    learnt = learnt or [True] * len(completions)
    mask = [
        [int(counts)] * len(row) + [0] * (longest - len(row)) for row, counts in zip(completions, learnt, strict=True)
    ]
    logps, entropies = completion_logprobs(
        model,
        torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS]),
        torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]),
        torch.tensor([row + [0] * (longest - len(row)) for row in completions]),
        torch.tensor(mask),
        0.8,
        True,
        states,
    )
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    if logps.requires_grad:  # not while the adapter is disabled
        (logps * weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logps.detach(), entropies, gradients


def runs_of_layers(model):
    """How often each layer has computed its attention; the count goes on."""
    layers = model.get_base_model().model.layers
    counts = [0] * len(layers)

    def count(number):
        counts[number] += 1

    for number, layer in enumerate(layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: count(number))
    return counts


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], expected[1], atol=2e-5, rtol=1e-4)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_leaves_frozen_layers_out_and_computes_the_same(family):
    model = adapted(FAMILIES[family]())
    states = FrozenStates(model)
    assert states.layers == 2
    completions = sample(model, states)
    assert completions == sample(model, None)
    assert len(set(map(len, completions))) > 1, "the case has to cover early ends"
    counts = runs_of_layers(model)
    expected = update(model, completions, None)
    assert counts == [1, 1, 1, 1]
    assert_same(update(model, completions, states), expected)
    assert counts == [1, 1, 2, 2]
    assert_same(update(model, completions, None), expected)


def test_an_adapter_that_has_changed_finds_no_stale_states():
    """The frozen layers do not know the adapter: after updates, their states are still those of the plain way."""
    model = adapted()
    states = FrozenStates(model)
    completions = sample(model, states)
    before = update(model, completions, states)
    change(model)
    after = update(model, completions, states)
    assert not torch.allclose(before[0], after[0], atol=1e-3)
    assert_same(after, update(model, completions, None))
    with model.disable_adapter():
        # The reference of the KL divergence.
        assert_same(update(model, completions, states), update(model, completions, None))


def test_masked_completions_are_known_and_other_tokens_are_computed():
    model = adapted()
    states = FrozenStates(model)
    completions = sample(model, states)
    counts = runs_of_layers(model)
    learnt = [number % 2 == 1 for number in range(len(completions))]
    assert_same(update(model, completions, states, learnt), update(model, completions, None, learnt))
    assert counts == [1, 1, 2, 2]
    others = [[*row[:-1], 60, 59] for row in completions]
    assert_same(update(model, others, states), update(model, others, None))
    assert counts == [3, 3, 4, 4]
    # The states of other completions have taken the place of those that were recorded before.
    torch.manual_seed(5)
    complete(model, [[20, 21]], Decoding(1, 1.0, [END], 0), frozen_states=states)
    before = counts[0]
    update(model, completions, states)
    assert counts[0] == before + 1


def test_bfloat16_is_close_to_the_plain_way():
    model = adapted().bfloat16()
    states = FrozenStates(model)
    completions = sample(model, states)
    torch.testing.assert_close(
        update(model, completions, states)[0], update(model, completions, None)[0], atol=0.3, rtol=0.05
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: adapted(layers=[0, 3]),
        lambda: adapted(modules_to_save=["embed_tokens"]),
        lambda: adapted(transformers.MistralConfig(**SIZES, sliding_window=4)),
        lambda: adapted(transformers.LlamaConfig(**SIZES, attention_dropout=0.1)),
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
        lambda: checkpointed(adapted()),
        lambda: divided(adapted()),
        lambda: reading_the_first_layer_again(adapted()),
    ],
    ids=["first layer", "embedding", "sliding", "dropout", "full", "gradient checkpointing", "ZeRO-3", "read again"],
)
def test_layers_that_cannot_be_left_out_are_computed(make):
    model = make()
    modes = [module.training for module in model.modules()]
    states = FrozenStates(model)
    assert states.layers == 0
    assert [module.training for module in model.modules()] == modes
    completions = sample(model, states)
    assert completions == sample(model, None)
    model.eval()
    assert_same(update(model, completions, states), update(model, completions, None))


def checkpointed(model):
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    return model


def divided(model):
    """As DeepSpeed marks the weights that it divides among processes."""
    model.get_base_model().model.layers[0].self_attn.q_proj.weight.ds_id = 1
    return model


def reading_the_first_layer_again(model):
    """A model whose last layer reads what is computed inside the first one, as some architectures do."""
    first, *_, last = model.get_base_model().model.layers
    inner = {}
    first.mlp.register_forward_hook(lambda module, inputs, output: inner.update(output=output.detach()))
    last.register_forward_hook(lambda module, inputs, output: output + inner.pop("output", 0.0))
    return model


@pytest.mark.parametrize("layers", [1, 4])
def test_the_memory_of_the_states_is_planned(layers):
    """Of prompts and completions of the longest lengths; nothing is kept when every layer has an adapter."""
    configuration = FAMILIES["llama"]()
    model = adapted(configuration, range(4 - layers, 4))
    states = FrozenStates(model)
    prompts = [[number] * 10 for number in (5, 6, 7) for _ in range(4)]
    complete(model, prompts, Decoding(30, 1.0, [], 0), frozen_states=states)
    shape = read_shape(json.loads(configuration.to_json_string(use_diff=False)))
    parameters = Hyperparameters(batch_size=3, samples_per_prompt=4, max_prompt_tokens=10, max_completion_tokens=30)
    plan = plan_memory(shape, parameters, Tuning(rank=4, last_layers=layers), Devices(1, on_gpus=False))
    for phase in plan.phases[1:]:
        assert phase.items.get("states of frozen layers", 0.0) == pytest.approx(bytes_kept(states), rel=0.05)
    on_gpus = plan_memory(shape, parameters, Tuning(rank=4, last_layers=layers), Devices(1, on_gpus=True))
    assert not any("states of frozen layers" in phase.items for phase in on_gpus.phases)


def bytes_kept(states):
    """Bytes of the memory behind all states, of which many are views of one tensor."""
    tensors = [*states._prompts.values(), *states._completions.values()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("budget", [{"microBatchSize": 8}, {"microBatchSize": None, "tokensPerMicroBatch": 60}])
def test_a_run_with_an_adapter_on_the_last_layer_leaves_the_first_one_out(
    tmp_path, model, data, rewards, monkeypatch, budget
):
    lay_out, known = FrozenStates._lay_out, []

    def note_states(*arguments):
        result = lay_out(*arguments)
        known.append(result is not None)
        return result

    monkeypatch.setattr(FrozenStates, "_lay_out", note_states)
    spec = job_spec(
        model, data, tmp_path / "out", tuning={"type": "LoRA", "rank": 4, "lastLayers": 1},
        hyperparameters=hyperparameters(maxSteps=2, klCoefficient="0.05", **budget),
    )  # fmt: skip
    trainer = train_in_process(render(spec, tmp_path, rewards.url, rewards.token_file))
    assert trainer.frozen_states.layers == 1
    assert len(known) > 2
    assert all(known)
