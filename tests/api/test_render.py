"""From manifests to the trainer's configuration, against golden files (`RFT_UPDATE_GOLDEN=1` writes them)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rft_api.exit_codes import ExitCode, RunError
from rft_api.manifests import load_manifests
from rft_api.render import RewardAddress, render_trainer_config, reward_digest, reward_names
from rft_api.reward_function import RewardFunctionSpec
from rft_api.rft_job import RFTJob
from rft_api.trainer_config import TrainerConfig
from rft_api.training import DeepSpeed, Hyperparameters

GOLDEN = Path(__file__).parent / "golden"


def rendered(file: Path) -> TrainerConfig:
    found = load_manifests([file])
    (job,) = found.jobs
    addresses = {
        name: RewardAddress(f"http://{name}.rewards:8080", f"/secrets/{name}/token") for name in reward_names(job)
    }
    return render_trainer_config(job, found.reward_functions, addresses, locate=lambda uri: f"located:{uri}")


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.yaml")), ids=lambda file: file.stem)
def test_golden(file):
    config = rendered(file)
    golden = file.with_suffix(".json")
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        golden.write_text(json.dumps(config.to_json_object(), indent=2) + "\n", encoding="utf-8")
    assert config.to_json_object() == json.loads(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_configuration_survives_its_file(file):
    config = rendered(file)
    assert TrainerConfig.model_validate_json(config.model_dump_json(by_alias=True)) == config


@pytest.mark.parametrize(
    ("name", "micro_batch", "on_gpus", "processes", "deepspeed", "adapter", "validation"),
    [
        ("minimal", 256, True, (1, 1), None, ("LoRA", 16, 32), 0.1),
        ("cpu-processes", 15, False, (2, 2), DeepSpeed(zero_stage=2, offload="None"), None, 0.2),
        ("everything", 4, True, (8, 16), DeepSpeed(zero_stage=3, offload="Optimizer"), ("LoRA", 32, 64), 0.0),
    ],
)
def test_what_a_manifest_leaves_out_has_its_default(
    name, micro_batch, on_gpus, processes, deepspeed, adapter, validation
):
    config = rendered(GOLDEN / f"{name}.yaml")
    compute, tuning = config.compute, config.tuning
    assert config.effective_micro_batch_size == micro_batch
    assert compute.on_gpus is on_gpus
    assert (compute.effective_processes_per_node, compute.world_size) == processes
    assert compute.effective_deepspeed == deepspeed
    stated = None if tuning.type == "Full" else (tuning.type, tuning.effective_rank, tuning.effective_alpha)
    assert stated == adapter
    assert config.data.effective_validation_fraction == validation


def job(hyperparameters: dict[str, Any], processes: int = 1) -> RFTJob:
    return RFTJob.model_validate(
        {
            "metadata": {"name": "j"},
            "spec": {
                "model": {"uri": "m"},
                "data": {"train": [{"name": "a", "uri": "a", "reward": "r"}]},
                "output": {"uri": "o"},
                "compute": {"gpusPerNode": 0, "processesPerNode": processes},
                "hyperparameters": hyperparameters,
            },
        }
    )


FUNCTIONS = load_manifests([GOLDEN / "minimal.yaml"]).reward_functions


def micro_batch(batch: int, samples: int, processes: int = 1, **further: int) -> int:
    wanted = job({"batchSize": batch, "samplesPerPrompt": samples, **further}, processes)
    functions = {"r": FUNCTIONS["exact"]}
    return render_trainer_config(wanted, functions, {"r": RewardAddress("", None)}, str).effective_micro_batch_size


@pytest.mark.parametrize(
    ("batch", "samples", "processes", "expected"),
    [(32, 8, 1, 256), (3, 4, 1, 12), (6, 4, 4, 6)],
)
def test_passes_are_bounded_in_tokens_unless_completions_are_stated(batch, samples, processes, expected):
    assert micro_batch(batch, samples, processes) == expected
    assert micro_batch(batch, samples, processes, microBatchSize=2) == 2
    assert Hyperparameters().effective_tokens_per_micro_batch == 8192
    assert Hyperparameters(tokens_per_micro_batch=100).effective_tokens_per_micro_batch == 100
    assert Hyperparameters(micro_batch_size=3).effective_tokens_per_micro_batch is None


def test_batches_have_to_divide_over_processes():
    with pytest.raises(
        RunError, match=r"spec\.hyperparameters: .* = 9 completions do not divide evenly over 2"
    ) as raised:
        micro_batch(3, 3, processes=2)
    assert raised.value.code == ExitCode.CONFIGURATION_INVALID
    with pytest.raises(RunError, match=r"spec\.hyperparameters\.microBatchSize: 5 does not divide the 16"):
        micro_batch(4, 4, microBatchSize=5)


def test_a_process_needs_whole_prompts_for_a_reward_that_compares_them():
    exact = FUNCTIONS["exact"]
    function = exact.model_copy(
        update={"spec": RewardFunctionSpec.model_validate({"scope": "Group", "python": {"source": "x"}})}
    )

    def scope(functions: Any, processes: int) -> str | None:
        wanted = job({"batchSize": 6, "samplesPerPrompt": 2}, processes)
        config = render_trainer_config(wanted, functions, {"r": RewardAddress("", None)}, str)
        return config.rewards["r"].scope

    assert scope({"r": exact}, 4) is None
    assert scope({"r": function}, 3) == "Group"
    with pytest.raises(RunError, match=r"spec\.hyperparameters\.batchSize: reward r compares all completions of a pro"):
        scope({"r": function}, 4)


def test_an_undefined_reward_function_is_named():
    with pytest.raises(RunError, match=r"undefined RewardFunction r \(defined: exact\)") as raised:
        render_trainer_config(job({}), FUNCTIONS, {}, str)
    assert raised.value.code == ExitCode.CONFIGURATION_INVALID


def digest(**spec: Any) -> str:
    return reward_digest(RewardFunctionSpec.model_validate(spec))


def test_the_digest_is_of_what_computes_the_reward():
    math = {"name": "Math"}
    assert digest(builtin=math) == digest(builtin=math, replicas=3, timeout="5m", sandbox={"memory": "1Gi"})
    assert digest(builtin=math) != digest(builtin={"name": "ExactMatch"})
    assert digest(builtin=math) != digest(builtin={**math, "math": {"relativeTolerance": "0.1"}})
    assert digest(python={"source": "a"}) != digest(python={"source": "b"})


def test_how_fast_and_with_which_keys_others_are_asked_is_not_part_of_the_digest():
    def judge(**more: Any) -> dict[str, Any]:
        return {"template": "Reasoning", "model": {"url": "http://x", "name": "m"}, **more}

    faster = judge(limits={"concurrency": 2}, model={"url": "http://x", "name": "m", "tokenKey": "K"})
    assert digest(judge=judge()) == digest(judge=faster)
    assert digest(judge=judge()) != digest(judge=judge(votes=3))
    assert digest(judge=judge()) != digest(judge=judge(rubric="5: short"))
    terms = [{"name": "a", "http": {"url": "http://x"}}], [{"name": "a", "http": {"url": "http://x", "batchSize": 2}}]
    assert digest(combine={"terms": terms[0]}) == digest(combine={"terms": terms[1]})
    arn = "arn:aws:lambda:eu-west-1:1:function:f"
    assert digest(**{"lambda": {"functionArn": arn}}) == digest(**{"lambda": {"functionArn": arn, "concurrency": 1}})
