"""Models with experts, for images, or quantized: what is trained is what is stated, or they are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.trainer import hyperparameters, job_spec, render, train_in_process
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_api.tuning import Tuning
from rft_api.vllm_models import NO_EXPERTS, vllm_problem
from rft_loader.base_model import read_base_model
from rft_loader.validation import check_adapter
from rft_trainer.architecture import expert_weights
from rft_trainer.base_model import BaseModel
from rft_trainer.inference import merged_adapter
from rft_trainer.modeling import add_adapter, check_base_model, export_adapter, export_model, load_adapter, load_model
from rft_trainer.progress import ProgressReporter

SHAPE = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
TEXT_AND_IMAGES = {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
REPORTER = ProgressReporter("team", "tax")
LORA = Tuning(type="LoRA", rank=4)


def text_shape(tokenizer) -> dict[str, int]:
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return {**SHAPE, **special, "vocab_size": len(tokenizer)}


def make(folder: Path, tokens: Path, kind: str) -> Path:
    """Writes a tiny model with random weights and the tests' tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tokens)
    shape = text_shape(tokenizer)
    configurations = {
        "Qwen3Moe": lambda: transformers.Qwen3MoeConfig(**shape, **EXPERTS),
        "Qwen2Moe": lambda: transformers.Qwen2MoeConfig(
            **{name: value for name, value in shape.items() if name != "head_dim"},
            **EXPERTS, shared_expert_intermediate_size=32,
        ),
        "Mixtral": lambda: transformers.MixtralConfig(**shape, **LOCAL_EXPERTS),
        "DeepseekV3": lambda: transformers.DeepseekV3Config(
            **{**shape, "num_key_value_heads": 4, "head_dim": 8}, q_lora_rank=32, kv_lora_rank=16, qk_rope_head_dim=8,
            qk_nope_head_dim=8, v_head_dim=16, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1,
            topk_group=1, moe_intermediate_size=32, first_k_dense_replace=1,
        ),
        "Qwen3Next": lambda: transformers.Qwen3NextConfig(
            **shape, **EXPERTS, shared_expert_intermediate_size=32, linear_num_key_heads=2, linear_num_value_heads=2,
            linear_key_head_dim=16, linear_value_head_dim=16, layer_types=["linear_attention", "full_attention"],
        ),
        "GptOss": lambda: transformers.GptOssConfig(**shape, **LOCAL_EXPERTS),
        "Gemma3": lambda: transformers.Gemma3Config(
            text_config=shape, **TEXT_AND_IMAGES, image_token_index=3, boi_token_index=3, eoi_token_index=3,
            eos_token_id=tokenizer.eos_token_id,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configurations[kind]())
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id], pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def base_of(folder: Path) -> BaseModel:
    return BaseModel(str(folder), None, str(folder))


def adapted(model: PeftModel) -> set[str]:
    """The layers that carry an adapter, without the number of their layer."""
    names = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    return {".".join(part for part in name.split(".") if not part.isdigit()) for name in names}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 20)[None]).logits


@pytest.mark.parametrize("kind", ["Qwen3Moe", "Mixtral", "GptOss"])
def test_an_adapter_leaves_experts_and_routers(tmp_path, model, kind, caplog):
    loaded = load_model(str(make(tmp_path / "model", model, kind)), torch.float32)
    assert expert_weights(loaded) > 0
    with caplog.at_level("INFO"):
        tuned = add_adapter(loaded, LORA, 0)
    attention = {f"base_model.model.model.layers.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert adapted(tuned) == attention
    assert "the adapter does not train the experts" in caplog.text


def test_shared_experts_are_linear_layers(tmp_path, model):
    tuned = add_adapter(load_model(str(make(tmp_path / "model", model, "Qwen2Moe")), torch.float32), LORA, 0)
    inside = {name.rpartition(".")[2] for name in adapted(tuned) if "shared_expert" in name}
    assert inside == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("kind", ["DeepseekV3", "Qwen3Next"])
def test_shared_experts_that_peft_takes_for_the_others_are_left_and_that_is_said(tmp_path, model, kind, caplog):
    loaded = load_model(str(make(tmp_path / "model", model, kind)), torch.float32)
    with caplog.at_level("INFO"):
        tuned = add_adapter(loaded, LORA, 0)
    assert adapted(tuned)
    assert not any(".mlp." in name for name in adapted(tuned))
    assert "nor the linear layers down_proj, gate_proj, up_proj, for which peft would adapt the experts" in caplog.text
    configuration = tuned.peft_config["default"]
    assert not configuration.target_parameters
    assert not configuration.rank_pattern


@pytest.mark.parametrize("kind", ["Qwen2Moe", "DeepseekV3", "Qwen3Next"])
def test_generation_leaves_every_weight_of_the_base_as_it_was(tmp_path, model, kind):
    tuned = add_adapter(load_model(str(make(tmp_path / "model", model, kind)), torch.float32), LORA, 0)
    assert_unchanged_by_merging(tuned)


def test_adapters_that_share_a_base_layer_are_restored(tmp_path, model):
    """Peft wraps stacked experts once for each of their weights; every wrapper has the same base layer."""
    loaded = load_model(str(make(tmp_path / "model", model, "Qwen3Moe")), torch.float32)
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert_unchanged_by_merging(get_peft_model(loaded, LoraConfig(r=4, target_modules=[], target_parameters=experts)))


def assert_unchanged_by_merging(tuned: PeftModel) -> None:
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    separate = logits(tuned)
    for _ in range(3):
        with merged_adapter(tuned):
            assert torch.allclose(logits(tuned), separate, atol=1e-4)
            assert any(not torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
        assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert torch.equal(logits(tuned), separate)


def test_an_exported_adapter_is_accepted_by_the_loader_and_loads_in_peft(tmp_path, model, data, rewards):
    folder = make(tmp_path / "model", model, "DeepseekV3")
    spec = job_spec(
        folder, data, tmp_path / "out", tuning={"type": "LoRA", "rank": 4}, hyperparameters=hyperparameters(maxSteps=1)
    )
    trainer = train_in_process(render(spec, tmp_path, rewards.url, rewards.token_file))
    export_adapter(RunFolder(tmp_path / "out").checkpoint(1), base_of(folder), tmp_path / "best", REPORTER)
    check_adapter(tmp_path / "best", read_base_model(folder), 8)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "best"))
    assert torch.allclose(logits(loaded), logits(trainer.model), atol=1e-5)


def test_an_adapter_is_on_the_language_model_alone(tmp_path, model):
    folder = make(tmp_path / "model", model, "Gemma3")
    tuned = add_adapter(load_model(str(folder), torch.float32), LORA, 0)
    assert adapted(tuned) == {
        f"base_model.model.model.language_model.layers.{name}"
        for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj",
        )
    }  # fmt: skip
    last = add_adapter(load_model(str(folder), torch.float32), Tuning(type="LoRA", rank=4, last_layers=1), 0)
    assert {name.split(".layers.")[1][0] for name, p in last.named_parameters() if p.requires_grad} == {"1"}


def test_training_everything_leaves_the_part_for_images(tmp_path, model):
    loaded = load_model(str(make(tmp_path / "model", model, "Gemma3")), torch.float32)
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert {name.split(".layers.")[0] for name in trained} == {
        "model.language_model", "model.language_model.embed_tokens.weight", "model.language_model.norm.weight",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "tuning"),
    [
        ("Qwen3Moe", {"type": "LoRA", "rank": 4}),
        ("Qwen3Moe", {"type": "Full"}),
        ("Qwen2Moe", {"type": "LoRA", "rank": 4}),
        ("DeepseekV3", {"type": "LoRA", "rank": 4}),
        ("Qwen3Next", {"type": "LoRA", "rank": 4}),
        ("GptOss", {"type": "LoRA", "rank": 4}),
        ("Gemma3", {"type": "LoRA", "rank": 4}),
        ("Gemma3", {"type": "Full"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["type"],
)
def test_what_was_trained_is_exported_and_loads_again(tmp_path, model, data, rewards, kind, tuning):
    folder = make(tmp_path / "model", model, kind)
    learning = hyperparameters(maxSteps=2, learningRate="1e-2")
    spec = job_spec(folder, data, tmp_path / "out", tuning=tuning, hyperparameters=learning)
    trainer = train_in_process(render(spec, tmp_path, rewards.url, rewards.token_file))
    checkpoint, target = RunFolder(tmp_path / "out").checkpoint(2), tmp_path / "best"
    if tuning["type"] == "LoRA":
        export_adapter(checkpoint, base_of(folder), target, REPORTER)
        loaded = load_adapter(load_model(str(folder), torch.float32), target, trainable=False)
    else:
        export_model(checkpoint, base_of(folder), target, REPORTER)
        loaded = load_model(str(target), torch.float32)
    trained, before = logits(trainer.model), logits(load_model(str(folder), torch.float32))
    assert torch.allclose(logits(loaded), trained, atol=1e-5)
    assert not torch.allclose(trained, before, atol=1e-3)


def quantize(folder: Path) -> None:
    """Packs the experts of a tiny gpt-oss as those of the published models are packed."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    set_quantization(folder, "mxfp4")


def set_quantization(folder: Path, method: str) -> None:
    file = folder / "config.json"
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings = {"quant_method": method, "modules_to_not_convert": left}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": settings}))


def refusal(tmp_path, model, data, folder, **changes) -> str:
    config = render(job_spec(model, data, tmp_path / "out", **changes), tmp_path / "run", "http://127.0.0.1:1", None)
    with pytest.raises(RunError) as raised:
        check_base_model(config, base_of(folder))
    assert raised.value.code is ExitCode.MODEL_INVALID
    return raised.value.message.removeprefix(f"model {folder}: ")


def test_quantized_weights_are_dequantized_for_an_adapter_or_refused(tmp_path, model, data):
    folder = make(tmp_path / "model", model, "GptOss")
    quantize(folder)
    config = render(job_spec(model, data, tmp_path / "out", tuning={"type": "LoRA"}), tmp_path, "http://1", None)
    check_base_model(config, base_of(folder))
    loaded = load_model(str(folder), torch.float32)
    assert loaded.model.layers[0].mlp.experts.gate_up_proj.dtype == torch.float32
    tuned = add_adapter(loaded, LORA, 0)
    tuned(input_ids=torch.arange(4, 20)[None]).logits.float().pow(2).mean().backward()
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)
    assert refusal(tmp_path, model, data, folder, tuning={"type": "Full"}) == (
        "its weights are quantized (mxfp4), and cannot be saved after training; set tuning.type: LoRA"
    )
    set_quantization(folder, "gptq")
    assert refusal(tmp_path, model, data, folder, tuning={"type": "LoRA"}).startswith(
        "its weights are quantized (gptq), and cannot be trained"
    )


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (transformers.Qwen2_5_VLConfig, "models of type qwen2_5_vl are not language models for text"),
        (transformers.Qwen3_5Config, "it is a model of type qwen3_5 for more than text"),
        (transformers.Phi4MultimodalConfig, "models of type phi4_multimodal mix parts for text and for images"),
    ],
)
def test_models_whose_language_model_cannot_be_trained_alone(tmp_path, model, data, configuration, words):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    configuration().save_pretrained(folder)
    message = refusal(tmp_path, model, data, folder)
    assert message.startswith(words)
    assert message.endswith("use a text-only model")


def test_a_checkpoint_that_lacks_weights_is_not_exported(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"lacks weights .*: model.layers.1.mlp.up_proj.weight"):
        export_model(folder, base_of(model), tmp_path / "best", REPORTER)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("kind", ["Qwen3Moe", "Qwen2Moe", "Mixtral", "DeepseekV3", "Qwen3Next", "GptOss"])
def test_vllm_takes_no_experts_over(tmp_path, model, data, kind):
    """It is refused before weights are read, and is known from config.json alone."""
    experts = make(tmp_path / "experts", model, kind)
    configuration = json.loads((experts / "config.json").read_text(encoding="utf-8"))
    assert vllm_problem(configuration, "vLLM", LORA) == NO_EXPERTS

    def config(**rollouts):
        spec = job_spec(model, data, tmp_path / "out", compute={"gpusPerNode": 1, "rollouts": rollouts})
        return render(spec, tmp_path, "http://127.0.0.1:1", None)

    check_base_model(config(engine="vLLM"), base_of(model))
    check_base_model(config(engine="InProcess"), base_of(experts))
    (experts / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(
        RunError, match=r"engine: vLLM is not supported for models with experts .* set InProcess"
    ) as raised:
        check_base_model(config(), base_of(experts))
    assert raised.value.code is ExitCode.CONFIGURATION_INVALID
