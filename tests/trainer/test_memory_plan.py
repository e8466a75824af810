"""The planned memory is that which torch allocates: shapes, layers, and steps of the real trainer, item by item."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
import torch
import transformers
from accelerate.utils import convert_outputs_to_fp32
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from peft import LoraConfig, PeftModel, get_peft_model
from support.allocations import Allocations
from support.model_configurations import LLAMA_3_1_8B, QWEN3_8B, QWEN3_30B_A3B, QWEN3_32B
from support.smollm2 import prepare_model
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_api.memory_devices import Devices, devices_of
from rft_api.memory_layers import Pass, tree_pass
from rft_api.memory_plan import (
    BUCKET_ELEMENTS,
    GATHERED_ELEMENTS,
    SUB_GROUP_ELEMENTS,
    choose_precision,
    plan_memory,
)
from rft_api.model_shape import read_shape
from rft_api.training import DeepSpeed, Hyperparameters
from rft_api.tuning import Tuning
from rft_trainer import logprobs
from rft_trainer.architecture import adapted_layers
from rft_trainer.grpo import RFTTrainer
from rft_trainer.logprobs import completion_logprobs
from rft_trainer.micro_batches import split_by_tokens
from rft_trainer.model_checks import build_skeleton
from rft_trainer.token_tree import token_trees

SMALL = {
    "vocab_size": 500, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
CONFIGURATIONS = {
    "llama": transformers.LlamaConfig(**SMALL),
    "llama with biases": transformers.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "granite": transformers.GraniteConfig(**{**SMALL, "head_dim": 32}),
    "mistral": transformers.MistralConfig(**SMALL),
    "phi3": transformers.Phi3Config(**{**SMALL, "head_dim": 32}, pad_token_id=0),
    "qwen2": transformers.Qwen2Config(**{name: value for name, value in SMALL.items() if name != "head_dim"}),
    "qwen3": transformers.Qwen3Config(**SMALL),
    "qwen3 with biases": transformers.Qwen3Config(**SMALL, attention_bias=True),
    "qwen3, tied": transformers.Qwen3Config(**SMALL, tie_word_embeddings=True),
    "smollm3": transformers.SmolLM3Config(**{n: v for n, v in SMALL.items() if n != "head_dim"}, pad_token_id=0),
    "mixtral": transformers.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": transformers.Qwen3MoeConfig(**SMALL, moe_intermediate_size=64, num_experts=8, num_experts_per_tok=2),
    "Qwen3-8B": transformers.AutoConfig.for_model(**QWEN3_8B),
    "Qwen3-32B": transformers.AutoConfig.for_model(**QWEN3_32B),
    "Qwen3-30B-A3B": transformers.AutoConfig.for_model(**QWEN3_30B_A3B),
    "Llama-3.1-8B": transformers.AutoConfig.for_model(**LLAMA_3_1_8B),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shape_has_the_weights_and_the_adapted_layers_that_transformers_creates(name):
    skeleton = build_skeleton(CONFIGURATIONS[name])
    skeleton.tie_weights()
    shape = shape_of(CONFIGURATIONS[name])
    assert shape.weights == sum(parameter.numel() for parameter in skeleton.parameters())
    modules = [sum(own.numel() for own in module.parameters(recurse=False)) for module in skeleton.modules()]
    assert shape.largest_module == max(modules)
    for tuning in (Tuning(rank=8), Tuning(rank=8, last_layers=2), Tuning(rank=8, target_modules=["o_proj"])):
        adapter = 0
        for layer in adapted_layers(skeleton, tuning):
            linear = skeleton.get_submodule(layer)
            adapter += 8 * (linear.in_features + linear.out_features)
        assert shape.adapter_weights(8, tuning.last_layers, tuning.target_modules) == adapter


@pytest.mark.parametrize(("prompt", "completion", "samples"), [(1024, 512, 8), (100, 300, 8), (1000, 100, 16)])
@pytest.mark.parametrize("hidden", [576, 4096])
@pytest.mark.parametrize("tokens", [4096, 8192])
def test_a_planned_pass_is_as_large_as_the_trees_of_the_longest_sequences(prompt, completion, samples, hidden, tokens):
    sequences = [
        [group] * prompt + [1000 + group * samples + sample] * completion
        for group in range(64)
        for sample in range(samples)
    ]
    trees = [
        token_trees([sequences[place][:-1] for place in part], hidden) for part in split_by_tokens(sequences, tokens)
    ]
    largest = max(tree.ids.numel() for tree in trees)
    load = tree_pass(hidden, prompt, completion, samples, tokens)
    assert load.tokens == pytest.approx(largest, rel=0.1)


def test_what_deepspeed_allocates_by_default_is_planned():
    settings = DeepSpeedZeroConfig()
    assert settings.reduce_bucket_size == BUCKET_ELEMENTS
    assert settings.sub_group_size == SUB_GROUP_ELEMENTS
    assert settings.max_live_parameters + settings.prefetch_bucket_size == GATHERED_ELEMENTS


# How a model is computed: on CPUs; on a GPU without DeepSpeed, and with it, which casts everything to bfloat16. The
# dtypes and the gradient checkpointing of GPUs work on CPUs, too.
MODES = {
    "CPU": Devices(1, on_gpus=False),
    "CPU in bfloat16": Devices(1, on_gpus=False, cpu_bytes=2),
    "GPU": Devices(1, on_gpus=True),
    "GPU with DeepSpeed": Devices(1, on_gpus=True, deepspeed=DeepSpeed(zero_stage=0)),
}
LORA, FULL = Tuning(rank=16), Tuning(type="Full")
ACTIVATIONS, LOGITS, MLP = "mostly activations", "mostly logits", "mostly the MLP"
# Each item of the plan is measured in each mode and family; sizes alternate, because a case takes half a minute.
MEASURED = [
    ("llama", "CPU", LORA, ACTIVATIONS), ("llama", "CPU", LORA, LOGITS), ("llama", "CPU", LORA, MLP),
    ("llama", "CPU", FULL, LOGITS), ("llama", "CPU", Tuning(rank=16, last_layers=2), MLP),
    ("llama", "CPU in bfloat16", LORA, ACTIVATIONS), ("llama", "CPU in bfloat16", LORA, LOGITS),
    ("llama", "GPU", LORA, LOGITS), ("llama", "GPU", FULL, MLP), ("llama", "GPU", FULL, ACTIVATIONS),
    ("llama", "GPU with DeepSpeed", LORA, LOGITS), ("llama", "GPU with DeepSpeed", FULL, ACTIVATIONS),
    ("qwen3", "CPU", LORA, MLP), ("qwen3", "CPU", FULL, ACTIVATIONS), ("qwen3", "GPU", LORA, ACTIVATIONS),
    ("qwen3", "GPU", FULL, LOGITS), ("qwen3", "GPU with DeepSpeed", FULL, MLP),
]  # fmt: skip
SIZES = {
    ACTIVATIONS: {"vocab_size": 48, "intermediate_size": 384},
    LOGITS: {"vocab_size": 4000, "intermediate_size": 384},
    MLP: {"vocab_size": 48, "intermediate_size": 2000},
}


def shape_of(configuration):
    return read_shape(json.loads(configuration.to_json_string(use_diff=False)))


def build_model(configuration, tuning, devices, precision):
    """A model in the dtypes and wrappers in which the trainer, accelerate and DeepSpeed compute it."""
    dtypes = {2: torch.bfloat16, 4: torch.float32}
    model = transformers.AutoModelForCausalLM.from_config(configuration).to(dtypes[precision.weights])
    if tuning.type == "LoRA":
        settings = LoraConfig(
            r=tuning.rank,
            lora_alpha=16,
            lora_dropout=tuning.effective_dropout,
            target_modules=adapted_layers(model, tuning),
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, settings, autocast_adapter_dtype=precision.adapter == 4)
    model.train()
    if devices.keeps_inputs_only:
        model.gradient_checkpointing_enable()
        if tuning.type == "LoRA":
            model.enable_input_require_grads()
    if precision.autocast:
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    return model


PROMPTS = torch.arange(20).repeat(4, 1)
COMPLETIONS = torch.arange(4 * 100).view(4, 100) % 47


def one_pass(model):
    ones = torch.ones_like
    logps, _ = completion_logprobs(model, PROMPTS, ones(PROMPTS), COMPLETIONS, ones(COMPLETIONS), 1.0, True)
    logps.sum().backward()


def bytes_of(tensors):
    return sum(tensor.nbytes for tensor in tensors)


def gradients(model):
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


class Passes:
    """Notes the size of every forward pass that has gradients, where the model and the logits are seen."""

    def __init__(self, model, monkeypatch):
        self.loads: list[Pass] = []
        self._shapes: list[torch.Size] = []
        apply = logprobs._TokenLogps.apply

        def watch(logits, *rest):
            if torch.is_grad_enabled():
                rows, width = self._shapes[-1]
                self.loads.append(Pass(rows * width, width, len(logits), shared=True))
            return apply(logits, *rest)

        monkeypatch.setattr(logprobs._TokenLogps, "apply", watch)
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        base.model.embed_tokens.register_forward_pre_hook(lambda module, args: self._shapes.append(args[0].shape))


SOME = Tuning(rank=16, target_modules=["q_proj", "down_proj"], dropout="0.1")


@pytest.mark.parametrize(
    ("devices", "tuning"),
    [(Devices(1, on_gpus=True, gradient_checkpointing=False), LORA), (Devices(1, on_gpus=False), SOME)],
    ids=["GPU that keeps activations", "dropout on some layers"],
)
def test_settings_of_memory_are_planned(monkeypatch, devices, tuning):
    compare_pass(monkeypatch, "llama", devices, tuning, "mostly the MLP")


@pytest.mark.parametrize(("family", "mode", "tuning", "size"), MEASURED)
def test_a_pass_allocates_what_is_planned(monkeypatch, family, mode, tuning, size):
    compare_pass(monkeypatch, family, MODES[mode], tuning, size)


def compare_pass(monkeypatch, family, devices, tuning, size):
    configuration = transformers.AutoConfig.for_model(
        family, **{**SMALL, **SIZES[size], "num_hidden_layers": 6, "dtype": "bfloat16"}
    )
    shape = shape_of(configuration)
    model = build_model(configuration, tuning, devices, choose_precision(shape, tuning, devices))
    passes = Passes(model, monkeypatch)
    one_pass(model)
    # All passes of a step but the first one add to gradients.
    with Allocations([*model.parameters(), *model.buffers(), *gradients(model)]) as allocations:
        one_pass(model)
    plan = plan_memory(shape, Hyperparameters(), tuning, devices, passes.loads[0])
    update = next(phase for phase in plan.phases if phase.phase == "update")
    print(family, devices, tuning, size, allocations.peak, update.items, passes.loads[0])
    # Nothing was generated before.
    of_generation = [update.items.get(name, 0) for name in ("packed weights", "states of frozen layers")]
    others = update.items["optimizer"] + sum(of_generation)
    assert update.total - others == pytest.approx(allocations.peak, rel=0.1)


class MeasuredTrainer(RFTTrainer):
    """The real trainer, whose steps are measured from their first pass, which is computed while rewards are."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.allocations = Allocations()
        self.kept = {}
        self._measuring = ExitStack()

    def compute_ahead(self):
        parameters = list(self.model.parameters())
        states = [
            value
            for state in self.optimizer.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        self.kept = {
            "weights": bytes_of(p for p in parameters if self._config.tuning.type == "Full" or not p.requires_grad),
            "adapter": bytes_of(p for p in parameters if self._config.tuning.type == "LoRA" and p.requires_grad),
            "optimizer": bytes_of(states),
        }
        self.allocations = self._measuring.enter_context(Allocations([*parameters, *gradients(self.model), *states]))
        super().compute_ahead()

    def training_step(self, *args, **kwargs):
        with self._measuring:
            loss = super().training_step(*args, **kwargs)
        self.kept["gradients"] = bytes_of(gradients(self.model))
        return loss


@pytest.mark.parametrize("tuning", [{"type": "LoRA", "rank": 4}, {"type": "Full"}], ids=["LoRA", "Full"])
@pytest.mark.parametrize("name", ["tiny", "SmolLM2-135M"])
def test_a_step_of_the_trainer_allocates_what_is_planned(
    tmp_path, model, data, rewards, monkeypatch, capsys, name, tuning
):
    folder = model if name == "tiny" else prepare_model(print)
    parameters = hyperparameters(
        microBatchSize=None, tokensPerMicroBatch=120, maxSteps=2, evalInterval=100, maxPromptTokens=64
    )
    spec = job_spec(folder, data, tmp_path / "out", tuning=tuning, hyperparameters=parameters)
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    passes = []

    class Watched(MeasuredTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            passes.append(Passes(self.model, monkeypatch))

        def compute_ahead(self):
            passes[0].loads.clear()
            super().compute_ahead()

    trainer = train_in_process(config, Watched)
    shape = read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    plans = [
        plan_memory(shape, config.hyperparameters, config.tuning, devices_of(config.compute), load)
        for load in passes[0].loads
    ]
    updates = [phase for plan in plans for phase in plan.phases if phase.phase == "update"]
    # The first pass of a step begins without gradients.
    peaks = [update.total - update.items["gradients"] * (number == 0) for number, update in enumerate(updates)]
    update = updates[0]
    with capsys.disabled():
        print(f"\n{name} {tuning['type']}: {len(plans)} passes, planned {update.items}, kept {trainer.kept}")
        print(f"planned {max(peaks):.0f}, allocated {trainer.allocations.peak}")
    assert len(plans) > 1
    for item, size in trainer.kept.items():
        assert update.items.get(item, 0) == pytest.approx(size, rel=0.01), item
    assert max(peaks) == pytest.approx(trainer.allocations.peak, rel=0.1)
