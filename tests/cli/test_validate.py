"""`rft validate`: every mistake has its line, its field and a message that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.manifests import config_map, python_reward, reward_manifest

JOB = """\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {name: demo}
spec:
  model: {uri: "hf://Qwen/Qwen3-0.6B"}
  data:
    train:
    - {name: texts, uri: train.jsonl, reward: exact}
  hyperparameters:
    learningRate: "1e-5"
  output: {uri: out}
"""
REWARD = reward_manifest("exact", "builtin: {name: ExactMatch}\n")
PYTHON = python_reward("exact", "import json\n\ndef lambda_handler(event, context):\n    return []\n")
FROM_CONFIG_MAP = "---\n".join(
    (
        reward_manifest("exact", "python: {sourceFrom: {configMap: {name: code, key: reward.py}}}\n"),
        config_map("code", "reward.py", "def lambda_handler(event, context):\n    return []\n"),
    )
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    return tmp_path


def written(folder: Path, *documents: str) -> Path:
    file = folder / "job.yaml"
    file.write_text("---\n".join(documents), encoding="utf-8")
    return file


@pytest.mark.parametrize("reward", [REWARD, PYTHON, FROM_CONFIG_MAP])
def test_valid_manifests_are_listed(rft, folder, reward):
    result = rft("validate", written(folder, JOB, reward))
    assert (result.returncode, result.stderr) == (0, "")
    assert f"({folder / 'job.yaml'})" in result.stdout
    assert result.stdout.startswith("RFTJob ")
    assert result.stdout.endswith("2 resources are valid.\n")


def test_a_folder_stands_for_its_manifests(rft, folder):
    (folder / "reward.yml").write_text(REWARD, encoding="utf-8")
    (folder / "notes.txt").write_text("no manifest", encoding="utf-8")
    written(folder, JOB)
    assert rft("validate", folder).returncode == 0


# (what is replaced, by what, the line of the error, path and message)
WRONG_JOBS = {
    "unknown field": (
        "learningRate:",
        "learningrate:",
        10,
        "spec.hyperparameters.learningrate: unknown field; did you",
    ),
    "float": ('"1e-5"', "0.00001", 10, "spec.hyperparameters.learningRate: must be a string: write "),
    "range": ('"1e-5"', '"0.5"', 10, "spec.hyperparameters.learningRate: must be above 0 and at most 0.1"),
    "zero": ('"1e-5"', '"0"', 10, "spec.hyperparameters.learningRate: must be above 0 and at most 0.1"),
    "huge exponent": ('"1e-5"', '"1e999999999"', 10, "spec.hyperparameters.learningRate: must be above 0"),
    "no number": ('"1e-5"', "fast", 10, 'spec.hyperparameters.learningRate: must look like "0.5" or "1e-5"'),
    "wrong type": (
        'learningRate: "1e-5"',
        'epochs: "2"',
        10,
        "spec.hyperparameters.epochs: must be a whole number: write 2, without quotes",
    ),
    "reserved argument": (
        "  output:",
        "  sampling: {chatTemplateArguments: {tokenize: false}}\n  output:",
        11,
        "spec.sampling.chatTemplateArguments: chatTemplateArguments sets variables of the model's own chat template; "
        "remove the names that belong to its caller: tokenize",
    ),
    "null argument": (
        "  output:",
        "  sampling: {chatTemplateArguments: {enable_thinking: null}}\n  output:",
        11,
        "spec.sampling.chatTemplateArguments.enable_thinking: must be true, false, a number or a string",
    ),
    "greedy samples": (
        "  output:",
        "  evaluation: {samplesPerPrompt: 2}\n  output:",
        11,
        "spec.evaluation: samplesPerPrompt above 1 needs a temperature above 0",
    ),
    "no mapping": ("{uri: out}", "out", 11, "spec.output: must be a mapping of fields"),
    "missing": ("  output: {uri: out}\n", "", 4, "spec.output: is required"),
    "no apiVersion": ("apiVersion: rft.dev/v1alpha1\n", "", 1, "apiVersion: is required"),
    "other version": ("v1alpha1", "v2", 1, 'apiVersion: must be rft.dev/v1alpha1, not "rft.dev/v2"'),
    "kind": ("RFTJob", "RFTJobs", 2, "kind: must be one of RFTJob, RewardFunction, InferenceEndpoint"),
    "name": ("demo", "Demo_1", 3, "metadata.name: must look like my-name"),
    "no reward": (", reward: exact", "", 8, "spec.data.train[0].reward: is required"),
    "undefined reward": (
        "reward: exact",
        "reward: exakt",
        8,
        "spec.data.train[0].reward: RewardFunction exakt is not ",
    ),
    "no data": ("train.jsonl", "gone.jsonl", 8, "spec.data.train[0].uri: there is no file"),
    "unknown scheme": ("train.jsonl", "gs://b/k", 8, "spec.data.train[0].uri: gs:// is not supported here; use "),
    "no ConfigMap": ("train.jsonl", '"configmap://d/k"', 8, "spec.data.train[0].uri: ConfigMap d is not among"),
    "no model": ('"hf://Qwen/Qwen3-0.6B"', "model", 5, "spec.model.uri: there is no folder"),
    "hub name": ("Qwen/Qwen3-0.6B", "Qwen3", 5, "spec.model.uri: must look like hf://OWNER/NAME"),
    "micro batch": ('learningRate: "1e-5"', "microBatchSize: 7", 10, "spec.hyperparameters.microBatchSize: 7 does not"),
    "rule": ("  output:", "  tuning: {type: Full, rank: 8}\n  output:", 11, "spec.tuning: rank, alpha, lastLayers"),
    "twice": ("  output:", "  model: {uri: x}\n  output:", 11, "is not valid YAML: model is given twice"),
    "YAML": ("{uri: out}", "{uri: out", 12, "is not valid YAML"),
    "boolean": ("  output:", '  suspend: "yes"\n  output:', 11, "spec.suspend: must be true or false, without quotes"),
}


@pytest.mark.parametrize("case", WRONG_JOBS)
def test_a_wrong_job(rft, folder, case):
    old, new, line, message = WRONG_JOBS[case]
    assert old in JOB
    file = written(folder, JOB.replace(old, new, 1))
    reward = folder / "reward.yaml"
    reward.write_text(REWARD, encoding="utf-8")
    result = rft("validate", file, reward)
    assert result.returncode == 10
    assert result.stdout == ""
    assert f"{file}:{line}: {message}" in result.stderr
    assert "Traceback" not in result.stderr


WRONG_REWARDS = {
    "syntax": (PYTHON, "lambda_handler(event", "lambda_handler(event:", 9, "spec.python.source: is not valid Python"),
    "one argument": (
        PYTHON, "lambda_handler(event, context)", "lambda_handler(event)", 9,
        "spec.python.source: lambda_handler takes (event), but it is called with two arguments: (event, context)",
    ),
    "handler": (
        PYTHON, "lambda_handler", "grade", 6,
        "spec.python.source: defines no function lambda_handler: it defines gr",
    ),
    "two graders": (REWARD, "  builtin:", "  http: {url: 'http://x'}\n  builtin:", 4, "spec: set exactly one of pyth"),
    "no grader": (REWARD, "  builtin: {name: ExactMatch}", "  replicas: 1", 4, "spec: set exactly one of python, "),
    "no key": (FROM_CONFIG_MAP, "key: reward.py", "key: r.py", 5, "spec.python.sourceFrom.configMap: there is no"),
    "syntax in ConfigMap": (FROM_CONFIG_MAP, "return []", "return [", 13, "data.reward.py: is not valid Python"),
    "handler in ConfigMap": (
        FROM_CONFIG_MAP, "def lambda_h", "def h", 11,
        "data.reward.py: defines no function lambda_handler",
    ),
    "ConfigMap": (FROM_CONFIG_MAP, "  reward.py: |\n", "  n: 1\n  reward.py: |\n", 10, "data: must map keys to texts"),
    "pattern": (
        REWARD, "{name: ExactMatch}", '{name: ExactMatch, exactMatch: {pattern: "("}}', 5,
        "spec.builtin.exactMatch.pattern: is not a regular expression",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_REWARDS)
def test_a_wrong_reward(rft, folder, case):
    document, old, new, line, message = WRONG_REWARDS[case]
    assert old in document
    file = written(folder, document.replace(old, new, 1))
    result = rft("validate", file)
    assert result.returncode == 10
    assert f"{file}:{line}: {message}" in result.stderr


def test_all_errors_of_all_files_at_once(rft, folder):
    wrong = JOB.replace('"1e-5"', "1e-5x").replace("train.jsonl", "gone.jsonl")
    first = written(folder, wrong)
    second = folder / "second.yaml"
    second.write_text(JOB.replace("demo", "other").replace("reward: exact", "reward: nobody") + "---\n" + REWARD)
    result = rft("validate", first, second, folder / "third.yaml")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert "learningRate" in lines[0]
    assert "nobody" in lines[1]
    assert lines[2] == f"error: {folder / 'third.yaml'}: No such file or directory"


def test_a_wrong_reward_function_is_not_also_undefined(rft, folder):
    result = rft("validate", written(folder, JOB, REWARD.replace("ExactMatch", "Exact")))
    assert len(result.stderr.splitlines()) == 1


ENDPOINTS = """\
apiVersion: rft.dev/v1alpha1
kind: InferenceEndpoint
metadata: {name: base}
spec:
  model: {uri: "s3://models/base"}
  serving: {adapterSources: ["s3://runs/demo"]}
---
apiVersion: rft.dev/v1alpha1
kind: InferenceEndpoint
metadata: {name: tuned}
spec:
  baseEndpoint: base
  adapter: {uri: "s3://runs/demo/best"}
"""


def test_a_base_endpoint_that_does_not_serve_the_adapter(rft, folder):
    job = JOB.replace("{uri: out}", '{uri: "s3://runs/demo"}\n  endpoint: {name: served, baseEndpoint: base}')
    assert rft("validate", written(folder, job, REWARD, ENDPOINTS)).returncode == 0
    narrow = ENDPOINTS.replace('["s3://runs/demo"]', '["s3://runs/other"]')
    result = rft("validate", written(folder, job, REWARD, narrow))
    advice = (
        "InferenceEndpoint base does not serve adapters from s3://runs/demo/best; add this address, or a folder above "
        "it, to its spec.serving.adapterSources"
    )
    assert result.returncode == 10
    assert result.stderr.splitlines()[:2] == [
        f"{folder / 'job.yaml'}:12: spec.endpoint.baseEndpoint: {advice}",
        f"{folder / 'job.yaml'}:32: spec.adapter.uri: {advice}",
    ]


def test_a_pattern_of_a_log_that_is_none(rft, tmp_path):
    logs = {"uri": "s3://logs", "credentials": {"secretName": "s3"}, "redact": {"patterns": [{"pattern": "("}]}}
    endpoint = {
        "apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint", "metadata": {"name": "tax"},
        "spec": {"model": {"uri": "s3://models/tax"}, "logs": logs},
    }  # fmt: skip
    (tmp_path / "tax.yaml").write_text(json.dumps(endpoint))
    result = rft("validate", tmp_path / "tax.yaml")
    assert result.returncode == 10
    assert "spec.logs.redact.patterns[0].pattern: is not a regular expression that RE2 knows" in result.stderr


def test_duplicate_names_point_to_each_other(rft, folder):
    file = written(folder, REWARD, REWARD)
    result = rft("validate", file)
    assert f"{file}:9: metadata.name: RewardFunction exact is already defined in {file}, line 1" in result.stderr


@pytest.mark.parametrize(
    ("engine", "line"),
    [("", 4), ("  compute: {rollouts: {engine: vLLM}}\n", 9), ("  compute: {rollouts: {engine: InProcess}}\n", None)],
    ids=["default", "vLLM", "InProcess"],
)
def test_a_model_in_a_folder_that_vllm_cannot_take_over(rft, folder, engine, line):
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text('{"model_type": "gpt_neox"}', encoding="utf-8")
    job = JOB.replace('"hf://Qwen/Qwen3-0.6B"', "model").replace(
        "  hyperparameters:\n", f"{engine}  hyperparameters:\n"
    )
    result = rft("validate", written(folder, job, REWARD))
    if line is None:
        assert result.returncode == 0, result.stderr
        return
    message = (
        "spec.compute.rollouts.engine: vLLM cannot load adapters into models of type gpt_neox; set InProcess, or "
        "spec.tuning.type: Full"
    )
    assert result.returncode == 10
    assert result.stderr.splitlines() == [f"{folder / 'job.yaml'}:{line}: {message}"]


def test_a_file_that_is_no_text(rft, tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert f"{tmp_path}/x.yaml:2: is not UTF-8 text" in rft("validate", tmp_path / "x.yaml").stderr


def test_usage_errors_are_2(rft):
    assert rft("validate").returncode == 2


def test_code_that_is_too_large_for_a_cluster(folder, rft):
    """844 kB of code fit into the user's own ConfigMap, and as JSON not into that which the operator makes from it."""
    term = "    - {{name: t{}, python: {{sourceFrom: {{configMap: {{name: code, key: reward.py}}}}}}}}\n"
    spec = "  combine:\n    terms:\n" + "".join(term.format(number) for number in range(4))
    manifest = FROM_CONFIG_MAP.replace(
        "  python: {sourceFrom: {configMap: {name: code, key: reward.py}}}\n", spec
    ) + "".join(f'    W{number} = "a"\n' for number in range(17_500))  # fmt: skip
    file = written(folder, manifest)
    result = rft("validate", file)
    assert result.returncode == 10
    (message,) = [line for line in result.stderr.splitlines() if "spec.combine" in line]
    assert f"{file}:6: spec.combine.terms: has 1,076,112 bytes" in message
    assert "Kubernetes allows 1,048,576: move data out of the code, into a file that pod.volumes mounts" in message


def test_code_that_is_longer_than_any_code_may_be(folder, rft):
    file = written(folder, FROM_CONFIG_MAP + f"    {'#' * 262_144}\n")
    result = rft("validate", file)
    assert result.returncode == 10
    assert (
        f"{file}:5: spec.python.sourceFrom.configMap: key reward.py of ConfigMap code has 262,195 characters"
        in result.stderr
    )
    assert "and the code of a reward 262,144 at most: move data out of the code" in result.stderr


def test_files_without_a_resource_are_an_error(rft, tmp_path):
    (tmp_path / "service.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", encoding="utf-8")
    result = rft("validate", tmp_path)
    assert result.returncode == 10
    assert f"{tmp_path}: no resource of rft.dev, so nothing was checked" in result.stderr
