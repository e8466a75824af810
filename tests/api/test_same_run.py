"""What may change in a manifest between two starts of a run, and while it runs; field by field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rft_api.render import RewardAddress, render_trainer_config, reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob, RFTJobSpec
from rft_api.same_run import MAY_CHANGE, NOT_READ, changes_of_job, changes_of_run, with_live_fields
from rft_api.trainer_config import TrainerConfig

SPEC: dict[str, Any] = {
    "model": {"uri": "m"},
    "data": {"train": [{"name": "a", "uri": "a", "reward": "r"}]},
    "hyperparameters": {"learningRate": "1e-3"},
    "compute": {"gpusPerNode": 0},
    "output": {"uri": "o"},
}
# A field, another value of it, and the paths that differ then.
CHANGES: list[tuple[str, Any, list[str]]] = [
    ("model.uri", "n", ["model"]),
    ("data.train", [{"name": "a", "uri": "b", "reward": "r"}], ["data.train[0].uri"]),
    ("data.train", [{"name": "a", "uri": "a", "reward": "s"}], ["data.train[0].reward", "rewards.r", "rewards.s"]),
    ("data.validationFraction", "0.2", ["data.validationFraction"]),
    ("shadowRewards", ["s"], ["rewards.s", "shadows"]),
    ("warmup", {"data": [{"name": "w", "uri": "w"}]}, ["warmup"]),
    ("algorithm", "DAPO", ["algorithm"]),
    ("hyperparameters.learningRate", "2e-3", ["hyperparameters.learningRate"]),
    ("hyperparameters.maxSteps", 5, ["hyperparameters.maxSteps"]),
    ("hyperparameters.seed", 1, ["hyperparameters.seed"]),
    ("hyperparameters.scaleRewards", "Batch", ["hyperparameters.scaleRewards"]),
    ("hyperparameters.maskTruncatedCompletions", True, ["hyperparameters.maskTruncatedCompletions"]),
    ("hyperparameters.warmupRatio", "0.1", ["hyperparameters.warmupRatio"]),
    ("hyperparameters.adamBeta2", "0.99", ["hyperparameters.adamBeta2"]),
    (
        "tuning.type",
        "Full",
        ["tuning.alpha", "tuning.dropout", "tuning.rank", "tuning.rankStabilized", "tuning.type"],
    ),
    ("sampling.systemPrompt", "Sort.", ["sampling.systemPrompt"]),
    (
        "sampling.chatTemplateArguments",
        {"enable_thinking": False},
        ["sampling.chatTemplateArguments.enable_thinking"],
    ),
    ("sampling.stop", ["."], ["sampling.stop"]),
    ("evaluation.temperature", "0.5", ["evaluation.temperature"]),
    ("evaluation", {"temperature": "0", "samplesPerPrompt": 1}, []),
    (
        "evaluation",
        {"temperature": "1", "samplesPerPrompt": 2},
        ["evaluation.samplesPerPrompt", "evaluation.temperature"],
    ),
    ("tuning.targetModules", ["q_proj"], ["tuning.targetModules"]),
    ("tuning.dropout", "0.1", ["tuning.dropout"]),
    ("tuning.rankStabilized", True, ["tuning.rankStabilized"]),
    ("tuning.alpha", 64, ["tuning.alpha"]),
    ("compute.nodes", 2, ["compute.deepspeed", "compute.nodes"]),
    ("compute.gpusPerNode", 1, ["compute.gpusPerNode", "compute.rollouts.engine"]),
    ("compute.rollouts", {"engine": "vLLM", "servers": 2}, ["compute.rollouts.engine"]),
    ("compute.precision", "Float32", ["compute.precision"]),
    ("earlyStopping", {"patience": 3}, ["earlyStopping"]),
    # Defaults that are stated, and other spellings.
    ("hyperparameters.learningRate", "0.001", []),
    ("data.validationFraction", "0.1", []),
    ("tuning.rank", 16, []),
    ("tuning.alpha", 32, []),
    ("tuning.dropout", "0", []),
    ("tuning.rankStabilized", False, []),
    ("hyperparameters.scaleRewards", "Group", []),
    ("hyperparameters.adamBeta2", "0.999", []),
    ("compute.processesPerNode", 1, []),
    ("compute.rollouts", {"engine": "InProcess"}, []),
    # What may change.
    ("output.uri", "p", []),
    ("hyperparameters.microBatchSize", 4, []),
    ("hyperparameters.tokensPerMicroBatch", 4096, []),
    ("compute.gradientCheckpointing", True, []),
    ("checkpoints.interval", 5, []),
    ("checkpoints.keep", 2, []),
    ("trackers", [{"tensorboard": {}}], []),
    ("preflight.action", "Warn", []),
    ("suspend", True, []),
    ("limits.retries", 9, []),
    ("endpoint", {"name": "e"}, []),
    ("credentials", {"secretName": "s"}, []),
    ("queueName", "q", []),
    ("compute.pod", {"resources": {"limits": {"memory": "9Gi"}}}, []),
    ("compute.gpuResource", "amd.com/gpu", []),
]


def changed(path: str, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *folders, last = path.split(".")
    inner = spec
    for name in folders:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return spec


def function(name: str, spec: dict[str, Any] | None = None) -> RewardFunction:
    document = {"metadata": {"name": name}, "spec": {"builtin": {"name": "Math"}, **(spec or {})}}
    return RewardFunction.model_validate(document)


def config(spec: dict[str, Any], reward: dict[str, Any] | None = None, **address: Any) -> TrainerConfig:
    job = RFTJob.model_validate({"metadata": {"name": "j"}, "spec": spec})
    functions = {name: function(name, reward) for name in reward_names(job)}
    where = RewardAddress(**{"url": "http://a", "token_file": None, **address})
    return render_trainer_config(job, functions, dict.fromkeys(functions, where), str)


@pytest.mark.parametrize(("path", "value", "paths"), CHANGES)
def test_what_makes_another_run(path, value, paths):
    found = changes_of_run(config(SPEC), config(changed(path, value)))
    assert sorted(change.path for change in found) == paths


def test_every_part_of_a_spec_is_looked_at():
    top = {path.split(".")[0] for path, *_ in CHANGES}
    assert top == {field.alias or name for name, field in RFTJobSpec.model_fields.items()}
    compute = {path.split(".")[1] for path, *_ in CHANGES if path.startswith("compute.")}
    tested_elsewhere = {"deepspeed", "gpuMemory", "ignoreMemoryPlan"}
    model = RFTJobSpec.model_fields["compute"].annotation
    assert compute | tested_elsewhere == {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("stated", [{"gpuMemory": "80Gi"}, {"ignoreMemoryPlan": True}])
def test_what_is_stated_about_the_memory_of_gpus_may_change(stated):
    before = config({**SPEC, "compute": {"gpusPerNode": 1}})
    after = config({**SPEC, "compute": {"gpusPerNode": 1, **stated}})
    assert before != after
    assert changes_of_run(before, after) == []


def test_where_and_how_long_rewards_are_asked_may_change():
    before = config(SPEC, token_file="/a/token")
    assert changes_of_run(before, config(SPEC, {"timeout": "5m"}, url="http://b", token_file="/b/token")) == []
    (change,) = changes_of_run(before, config(SPEC, {"builtin": {"name": "Math", "math": {"relativeTolerance": "1"}}}))
    assert change.path == "rewards.r.digest"


def test_a_change_has_both_values():
    (change,) = changes_of_run(config(SPEC), config(changed("hyperparameters.learningRate", "2e-3")))
    assert (change.path, change.before, change.after) == ("hyperparameters.learningRate", "0.001", "0.002")


def test_another_number_of_sources_is_one_change():
    two = [*SPEC["data"]["train"], {"name": "b", "uri": "b", "reward": "r"}]
    assert [change.path for change in changes_of_run(config(SPEC), config(changed("data.train", two)))] == [
        "data.train"
    ]


@pytest.mark.parametrize(("path", "value", "paths"), CHANGES)
def test_a_trainer_that_runs_goes_on_exactly_where_it_reads_nothing_of_a_change(path, value, paths):
    """What the trainer does not read may change; everything that it reads is kept, also what another start takes."""
    before, after = RFTJobSpec.model_validate(SPEC), RFTJobSpec.model_validate(changed(path, value))
    read_anew = config(SPEC) != config(changed(path, value))
    stated_default = not paths and tuple(path.split(".")) not in {*NOT_READ, *MAY_CHANGE, *SPELLED_BY_FIELD}
    found = changes_of_job(before, after)
    assert bool(found) == (read_anew and not stated_default)
    kept = with_live_fields(before, after)
    assert changes_of_job(before, kept) == []
    if not found:
        assert kept == after or stated_default


# Fields in which a manifest states what MAY_CHANGE and NOT_READ name as a whole.
SPELLED_BY_FIELD = {
    ("output", "uri"), ("preflight", "action"), ("limits", "retries"), ("checkpoints", "interval"),
    ("checkpoints", "keep"),
}  # fmt: skip


def test_what_is_live_is_taken_over_whatever_else_changed():
    before = RFTJobSpec.model_validate(SPEC)
    document = changed("algorithm", "DAPO")
    for path, value, _ in CHANGES:
        location = tuple(path.split("."))
        if location in NOT_READ or location[:1] in NOT_READ:
            inner = document
            for name in location[:-1]:
                inner = inner.setdefault(name, {})
            inner[location[-1]] = value
    after = RFTJobSpec.model_validate(document)
    assert [change.path for change in changes_of_job(before, after)] == ["algorithm"]
    assert with_live_fields(before, after) == after.model_copy(update={"algorithm": "GRPO"})


@pytest.mark.parametrize("table", [MAY_CHANGE, NOT_READ])
def test_every_field_that_may_change_says_why(table):
    assert all(why.endswith(".") for why in table.values())
