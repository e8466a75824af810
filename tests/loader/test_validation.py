"""What of an adapter is refused, and in which words."""

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.loader import write_adapter
from support.tiny import write_model

from rft_loader.base_model import TEXT_NAMES_MAPPED, read_base_model
from rft_loader.problems import Problem
from rft_loader.source import SourceFile
from rft_loader.tensors import Tensor, read_tensors
from rft_loader.validation import check_adapter, choose_files

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def read_base(base):
    return read_base_model(base)


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(dict(item for name, tensor in tensors.items() if (item := change(name, tensor))), folder / WEIGHTS)


def change_configuration(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(folder, size):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:size] if size >= 0 else content + b"more")


def misspell(name, tensor):
    return name.replace("layers.1.self_attn.q_proj", "layers.1.self_attention.q_proj"), tensor


def test_headers_say_what_the_library_says(base):
    path = base / "model.safetensors"
    expected = {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}
    read = read_tensors(path)
    assert {name: tensor.shape for name, tensor in read.items()} == expected
    assert read["lm_head.weight"] == Tensor("F32", expected["lm_head.weight"])


def test_good_adapters_pass(originals, read_base):
    check_adapter(originals / "one", read_base, 8)
    check_adapter(originals / "wide", read_base, 16)
    check_adapter(originals / "wide", None, 16)


def test_embeddings_and_the_head(tmp_path, base, read_base):
    modules = ("embed_tokens", "lm_head", "up_proj", "o_proj")
    adapter = write_adapter(tmp_path / "untied", base, modules=modules)
    change_weights(adapter, lambda name, tensor: (name, tensor) if "base_layer" not in name else None)
    check_adapter(adapter, read_base, 8)
    tied = write_model(tmp_path / "tied", hidden=128)
    check_adapter(adapter, read_base_model(tied), 8)


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (lambda f: cut(f, 20000), [WEIGHTS, "has 20000 bytes where", "copy it again"]),
        (lambda f: cut(f, 100), [WEIGHTS, "only the beginning", "copy it again"]),
        (lambda f: cut(f, 3), [WEIGHTS, "only the beginning"]),
        (lambda f: cut(f, 0), [WEIGHTS, "only the beginning"]),
        (lambda f: cut(f, -1), [WEIGHTS, "bytes where"]),
        (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 1000), [WEIGHTS, "is no safetensors file"]),
        (lambda f: change_weights(f, misspell), [WEIGHTS, "no module model.layers.1.self_attention.q_proj"]),
        (
            lambda f: change_weights(f, lambda n, t: (n.replace("layers.1", "layers.7"), t)),
            ["no module model.layers.7.mlp.down_proj", "trained on"],
        ),
        (
            lambda f: change_weights(f, lambda n, t: None if "layers.0.mlp.down_proj.lora_B" in n else (n, t)),
            ["model.layers.0.mlp.down_proj has no lora_B"],
        ),
        (
            lambda f: change_weights(f, lambda n, t: (n, t[:4].contiguous() if "lora_A" in n else t)),
            ["lora_A of", "[4, ", "does not fit r: 8"],
        ),
        (
            lambda f: change_weights(f, lambda n, t: (n.replace("lora_A.weight", "lora_magnitude_vector"), t)),
            ["lora_magnitude_vector is not served", "DoRA"],
        ),
        (lambda f: save_file({}, f / WEIGHTS), ["holds no tensors"]),
        (lambda f: change_configuration(f, peft_type="IA3"), ["adapter_config.json", "IA3", "only LORA"]),
        (lambda f: change_configuration(f, r=9), ["rank 9 is above the 8", "serving.maxAdapterRank"]),
        (lambda f: change_configuration(f, r=None), ["r is None"]),
        (lambda f: change_configuration(f, alpha_pattern={"q_proj": 4}), ["alpha_pattern", "vLLM ignores"]),
        (lambda f: (f / "adapter_config.json").write_text("{"), ["adapter_config.json", "is not JSON"]),
    ],
)
def test_what_is_broken_is_named(adapters, read_base, breaks, words):
    breaks(adapters / "one")
    with pytest.raises(Problem) as raised:
        check_adapter(adapters / "one", read_base, 8)
    assert all(word in str(raised.value) for word in words), raised.value


def test_an_adapter_of_another_model(tmp_path, originals):
    narrow = read_base_model(write_model(tmp_path / "narrow", hidden=64))
    with pytest.raises(Problem, match=r"maps 256 inputs to 128 outputs, in the base model 128 to 64"):
        check_adapter(originals / "one", narrow, 8)
    shallow = read_base_model(write_model(tmp_path / "shallow", hidden=128, layers=1))
    with pytest.raises(Problem, match=r"no module model\.layers\.1\.mlp\.down_proj"):
        check_adapter(originals / "one", shallow, 8)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["adapter_config.json", "adapter_model.bin"],
            ["holds no adapter_model.safetensors", "adapter_model.bin is not"],
        ),
        (["adapter_config.json"], ["holds no adapter_model.safetensors"]),
        (["adapter_model.safetensors"], ["is no adapter", "no adapter_config.json"]),
        (["config.json", "model.safetensors"], ["it is a whole model", "spec.model"]),
    ],
)
def test_what_is_no_adapter(names, words):
    with pytest.raises(Problem) as raised:
        choose_files("s3://bucket/x", [SourceFile(name, 1, "") for name in names])
    assert all(word in str(raised.value) for word in ["s3://bucket/x", *words]), raised.value


def rewrite_base(base, folder, rename, **configuration):
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(dict(rename(name, tensor) for name, tensor in tensors.items()), folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **configuration}))
    return read_base_model(folder)


def test_bases_that_are_stored_otherwise(tmp_path, base, adapters):
    one = adapters / "one"

    def packed(name, tensor):
        return name.replace("proj.weight", "proj.qweight"), torch.zeros(3, 3, dtype=torch.int32)

    check_adapter(one, rewrite_base(base, tmp_path / "quantized", packed, quantization_config={}), 8)
    check_adapter(one, rewrite_base(base, tmp_path / "headless", lambda n, t: (n.removeprefix("model."), t)), 8)
    nested = rewrite_base(base, tmp_path / "nested", lambda n, t: (f"language_model.{n}", t), text_config={})
    change_weights(one, lambda n, t: (n.replace(".model.layers", ".model.language_model.layers"), t))
    check_adapter(one, nested, 8)
    change_weights(one, misspell)
    with pytest.raises(Problem, match="self_attention"):
        check_adapter(one, nested, 8)


def test_a_base_that_cannot_be_read_is_not_compared_with(tmp_path, caplog):
    assert read_base_model(tmp_path) is None
    assert f"not compared with the base model: {tmp_path}" in caplog.text


@pytest.mark.parametrize(
    ("model_type", "accepted"),
    [("gemma3", False), ("qwen3_vl", False), ("llava", False), ("qwen2_5_vl", True), ("mistral3", True)],
)
def test_text_adapters_on_a_model_for_images(tmp_path, base, adapters, model_type, accepted):
    def inside(name, tensor):
        return f"model.language_model.{name.removeprefix('model.')}", tensor

    nested = rewrite_base(base, tmp_path / "nested", inside, text_config={}, model_type=model_type)
    if accepted:
        check_adapter(adapters / "one", nested, 8)
    else:
        with pytest.raises(Problem, match=r"is a module of a text model, .* vLLM would not apply the adapter; train"):
            check_adapter(adapters / "one", nested, 8)
    change_weights(adapters / "one", lambda n, t: (n.replace(".model.layers", ".model.language_model.layers"), t))
    check_adapter(adapters / "one", nested, 8)


def mapped_by_vllm(module, name):
    """The name that vLLM's `hf_to_vllm_mapper` gives to a weight: the first prefix that fits is replaced."""
    vllm = Path(importlib.util.find_spec("vllm").origin).parent
    tree = ast.parse((vllm / f"model_executor/models/{module}.py").read_text())
    calls = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hf_to_vllm_mapper"
    ]
    arguments = [keyword for keyword in calls[-1].keywords if keyword.arg == "orig_to_new_prefix"]
    for old, new in ast.literal_eval(arguments[0].value).items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def test_names_of_text_models_are_those_that_vllm_maps():
    """What is accepted is what vLLM applies: `model.layers.0` has to become a module of its text model."""
    # The modules of these models cannot be imported without torchvision, so their source is read.
    models = {
        "gemma3": "gemma3_mm", "gemma3n": "gemma3n_mm", "gemma4": "gemma4_mm", "llava": "llava",
        "mistral3": "mistral3", "qwen2_5_vl": "qwen2_5_vl", "qwen2_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl",
    }  # fmt: skip
    name = "model.layers.0.mlp.down_proj"
    mapped = {kind for kind, module in models.items() if mapped_by_vllm(module, name) == f"language_model.{name}"}
    assert mapped == TEXT_NAMES_MAPPED
