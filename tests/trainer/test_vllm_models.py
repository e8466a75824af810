"""Models that vLLM cannot take over are refused from their config.json: those that the installed vLLM lacks."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.trainer import job_spec, render
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rft_api.exit_codes import ExitCode, RunError
from rft_api.memory_verdict import judge_configuration
from rft_api.tuning import Tuning
from rft_api.vllm_models import EXPERT_COUNTS, NO_EXPERTS, WITHOUT_ADAPTERS, vllm_problem
from rft_trainer.base_model import BaseModel
from rft_trainer.modeling import check_base_model

PAGE = Path(__file__).parents[2] / "docs/rollouts.md"
LORA, FULL = Tuning(type="LoRA"), Tuning(type="Full")


def folder_of(package: str) -> Path:
    """Where a package is installed; it is not imported, which takes vLLM as long as some hundred of these tests."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


VLLM = folder_of("vllm")
MODELS = VLLM / "model_executor/models"


def registry() -> dict[str, tuple[str, str]]:
    """Module and class by which vLLM computes each architecture of language models."""
    tree = ast.parse((MODELS / "registry.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_TEXT_GENERATION_MODELS":
            return ast.literal_eval(node.value)
    raise AssertionError("vLLM's registry has another form")


def source(module: str) -> Path:
    """The file of a module, by its name in vLLM's registry or in an import."""
    path = VLLM.parent / module.replace(".", "/") if module.startswith("vllm.") else MODELS / module
    return next(file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists())


@cache
def parsed(file: Path) -> tuple[dict[str, ast.ClassDef], dict[str, tuple[str, str]]]:
    """The classes of a file, and module and name of what it imports from vLLM."""
    classes, imports = {}, {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            classes.setdefault(node.name, node)
        if isinstance(node, ast.ImportFrom):
            folder = ".".join(file.relative_to(VLLM.parent).parent.parts[: 1 - node.level or None])
            module = ".".join(filter(None, [folder, node.module])) if node.level else node.module or ""
            imports |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    return classes, imports


def has_adapters(file: Path, name: str) -> bool:
    """Whether a class of vLLM, or one that it is derived from, declares that it takes adapters."""
    if name == "SupportsLoRA":
        return True
    classes, imports = parsed(file)
    if name in classes:
        return any(has_adapters(file, ast.unparse(base).partition("[")[0]) for base in classes[name].bases)
    module, original = imports.get(name, ("", ""))
    return module.startswith("vllm.") and has_adapters(source(module), original)


def test_models_that_vllm_computes_without_adapters_are_known():
    classes = registry()
    lacking = {
        kind
        for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if isinstance(architecture, str)
        and architecture in classes
        and not has_adapters(source(classes[architecture][0]), classes[architecture][1])
    }
    assert lacking == WITHOUT_ADAPTERS
    assert ", ".join(sorted(WITHOUT_ADAPTERS)) in PAGE.read_text(encoding="utf-8")


def test_the_number_of_experts_has_a_known_name_in_every_configuration():
    names = set()
    for file in folder_of("transformers").glob("models/*/configuration_*.py"):
        names |= set(re.findall(r"^    (\w*n(?:um)?_\w*experts): int", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert {name for name in names if "shared" not in name} == set(EXPERT_COUNTS)


@pytest.mark.parametrize(
    "configuration",
    [
        {"model_type": "qwen3_moe", "num_experts": 128},
        {"model_type": "deepseek_v3", "n_routed_experts": 256},
        {"model_type": "mixtral", "num_local_experts": 8},
        {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 16}},
        {"model_type": "llama4", "text_config": {"num_local_experts": 16}},
    ],
    ids=lambda configuration: configuration["model_type"],
)
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["LoRA", "Full"])
def test_experts_are_not_for_vllm(configuration, tuning):
    assert vllm_problem(configuration, "vLLM", tuning) == NO_EXPERTS
    assert vllm_problem(configuration, "InProcess", tuning) is None


def test_what_vllm_takes_over_is_not_refused():
    for kind in ("qwen3", "llama", "gemma3_text", "granite"):
        assert vllm_problem({"model_type": kind}, "vLLM", LORA) is None
    # Dense models of families that also have experts.
    assert vllm_problem({"model_type": "granitemoehybrid", "num_local_experts": 0}, "vLLM", LORA) is None
    assert vllm_problem({"model_type": "gemma4_text", "num_experts": None}, "vLLM", LORA) is None
    assert vllm_problem({"model_type": "doge", "is_moe": False, "num_experts": 16384}, "vLLM", LORA) is None
    assert vllm_problem({"model_type": ["gpt_neox"]}, "vLLM", LORA) is None
    assert vllm_problem([], "vLLM", LORA) is None


def test_the_trainer_and_the_pod_that_plans_refuse_before_anything_starts(tmp_path, model, data):
    folder = tmp_path / "model"
    folder.mkdir()
    configuration = {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 48,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"never read")

    def config(tuning, **rollouts):
        compute = {"gpusPerNode": 1, "rollouts": rollouts}
        spec = job_spec(model, data, tmp_path / "out", compute=compute, tuning={"type": tuning})
        return render(spec, tmp_path, "http://127.0.0.1:1", None)

    base = BaseModel(str(folder), None, str(folder))
    check_base_model(config("LoRA", engine="InProcess"), base)
    check_base_model(config("Full"), base)
    with pytest.raises(RunError, match=r"rollouts.engine: vLLM cannot load adapters into models") as raised:
        check_base_model(config("LoRA"), base)
    assert raised.value.code is ExitCode.CONFIGURATION_INVALID
    verdict = judge_configuration(lambda: configuration, config("LoRA"), [(80 * 2**30, "")])
    assert verdict.fits is None
    assert raised.value.message in verdict.message
