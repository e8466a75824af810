"""The RewardFunction and RFTJob of requests, against golden files (`RFT_UPDATE_GOLDEN=1` writes them)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from support.fine_tuning import LAMBDA, SCORE_MODEL, STRING_CHECK, base_endpoint, config_map, request

from rft_api.object_labels import CREATED_FOR, FINE_TUNING_DIGESTS, FINE_TUNING_REQUEST
from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.defaults import DefaultsError, read_defaults
from rft_gateway.fine_tuning.graders import make_function
from rft_gateway.fine_tuning.request import read_request, read_validation
from rft_gateway.fine_tuning.translation import DataFile, JobObjects, make_objects

GOLDEN = Path(__file__).parent / "golden"
NAME = "ftjob-0123456789abcdef01234567"
TRAINING = DataFile("file-train", "s3://files/team/train.jsonl", "ab" * 32)
VALIDATION = DataFile("file-valid", "s3://files/team/valid.jsonl", "cd" * 32)
EVERYTHING = config_map(
    credentials="secretName: storage",
    compute="{gpusPerNode: 2, gpuMemory: 80Gi}",
    hyperparameters='{learningRate: "2e-5", samplesPerPrompt: 6, maxCompletionTokens: 2048}',
    tuning="{rank: 32}",
    limits='{gpuHours: "24", retries: 1}',
    preflight="{action: Warn}",
    sampling="{systemPrompt: Be brief.}",
    queueName="research",
    algorithm="DAPO",
    graders="""
      models:
        gpt-4o: {url: "https://judge.example.com/v1", name: large, tokenKey: JUDGE_TOKEN}
      credentials: {secretName: judge}
      egress: [{cidr: 203.0.113.0/24}]
      timeout: 2m
    """,
)
CASES = {
    "minimal": (request(), config_map(), (TRAINING, None)),
    "everything": (
        request(
            {**SCORE_MODEL, "model": "gpt-4o", "range": [0, 10]},
            {
                "batch_size": 64, "n_epochs": 3, "learning_rate_multiplier": 3, "compute_multiplier": 1.5,
                "eval_interval": 20, "eval_samples": 4, "reasoning_effort": "high",
            },
            suffix="My Model!", seed=11, metadata={"team": "pricing", "über": "Größe 1"},
        ),
        EVERYTHING,
        (TRAINING, VALIDATION),
    ),
    "lambda": (request(LAMBDA), config_map(graders="{credentials: {secretName: aws}}"), (TRAINING, None)),
    "endpoint": (
        request({"type": "endpoint", "url": "https://grade.example.com/api/grade", "rate_limit": 50}),
        config_map(
            graders="""
              endpoints:
                - {url: "https://grade.example.com/", tokenKey: OTHER}
                - {url: "https://grade.example.com/api/", headers: {X-Functions-Key: FUNCTIONS_KEY}, concurrency: 50}
              credentials: {secretName: graders}
              egress: [{cidr: 203.0.113.7/32}]
              replicas: 2
            """,
        ),
        (TRAINING, None),
    ),
    "reward-function": (request({"type": "reward_function", "name": "exact"}), config_map(), (TRAINING, None)),
    "supervised": (
        request(
            method={
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2}
                },
            },
            suffix="Tone", seed=5, metadata={"team": "support"},
        ),
        config_map(
            hyperparameters='{learningRate: "2e-5", maxSteps: 100, weightDecay: "0.1"}',
            warmup='{learningRate: "1e-4", epochs: 2}',
            sampling="{systemPrompt: Be brief.}", algorithm="DAPO", preflight="{action: Warn}",
            evaluation="{samplesPerPrompt: 1}",
        ),
        (TRAINING, VALIDATION),
    ),
    "supervised-minimal": (
        {"model": "base", "training_file": "file-train"},
        config_map(),
        (TRAINING, None),
    ),
    "full-weights": (request(), config_map(tuning="{type: Full}", deletionPolicy="Keep"), (TRAINING, None)),
    "python": (
        request({"type": "python", "source": "import numpy\n\ndef grade(sample, item):\n    return float(numpy.pi)\n"}),
        config_map(),
        (TRAINING, None),
    ),
}  # fmt: skip


def objects(document, config=None, files=(TRAINING, None), base=None) -> JobObjects:
    defaults = read_defaults(config or config_map())
    return make_objects(read_request(document), document, ("team", NAME), defaults, base or base_endpoint(), files)


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    document, config, files = CASES[case]
    base = base_endpoint(credentials={"secretName": "storage"}) if case == "everything" else None
    made = objects(document, config, files, base)
    file = GOLDEN / f"fine-tuning-{case}.yaml"
    documents = [each for each in (made.reward_function, made.job) if each is not None]
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True))
    assert documents == list(yaml.safe_load_all(file.read_text()))


def test_what_a_job_has_no_field_for_can_be_read_back_from_it():
    document, config, files = CASES["everything"]
    base = base_endpoint(credentials={"secretName": "storage"})
    annotations = objects(document, config, files, base).job["metadata"]["annotations"]
    assert json.loads(annotations[FINE_TUNING_REQUEST]) == document
    assert json.loads(annotations[FINE_TUNING_DIGESTS]) == {
        TRAINING.id: TRAINING.digest,
        VALIDATION.id: VALIDATION.digest,
    }


def test_a_seed_of_its_own_for_each_job_that_asks_for_none():
    defaults, read = read_defaults(config_map()), read_request(request())
    seeds = set()
    for number in range(5):
        made = make_objects(read, request(), ("team", f"ftjob-{number}"), defaults, base_endpoint(), (TRAINING, None))
        seeds.add(made.job["spec"]["hyperparameters"]["seed"])
    assert len(seeds) == 5
    assert objects(request(seed=0)).job["spec"]["hyperparameters"]["seed"] == 0


def test_an_older_temperature_stays_with_several_completions_of_a_validation_prompt():
    asked = request(hyperparameters={"eval_samples": 3})
    assert objects(asked).job["spec"]["evaluation"] == {"samplesPerPrompt": 3, "temperature": "1"}
    config = config_map(evaluation='{temperature: "0.7"}')
    assert objects(asked, config).job["spec"]["evaluation"] == {"temperature": "0.7", "samplesPerPrompt": 3}


SETTINGS = "method.reinforcement.hyperparameters"
GRADER = "method.reinforcement.grader"
COSINE = {**STRING_CHECK, "type": "text_similarity", "evaluation_metric": "cosine"}
COSINE.pop("operation")
TWO_JUDGES = {
    "type": "multi", "calculate_output": "a + b", "graders": {"a": SCORE_MODEL, "b": {**SCORE_MODEL, "model": "other"}}
}  # fmt: skip
REFUSED = [
    (
        request(hyperparameters={"learning_rate_multiplier": 20000}),
        f"{SETTINGS}.learning_rate_multiplier",
        "makes the learning rate 0.2",
    ),
    (request(hyperparameters={"compute_multiplier": 0.1}), f"{SETTINGS}.compute_multiplier", "makes 1 completions"),
    (request(suffix="模型"), "suffix", "needs a letter"),
    (
        request(method={"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 1e5}}}),
        "method.supervised.hyperparameters.learning_rate_multiplier",
        "makes the learning rate 2, which has to be above 0 and at most 0.1; the default is 2e-05",
    ),
    (request({**SCORE_MODEL, "model": "GPT_4"}), f"{GRADER}.model", "there is no model GPT_4"),
    (request(COSINE), GRADER, "cosine needs a model for embeddings"),
    (request(TWO_JUDGES), GRADER, "judge and other; all of them have to ask one model"),
    (request({"type": "python", "source": "x" * 250_000}), GRADER, "may have 204,800"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "param", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_refused(document, param, message):
    with pytest.raises(ApiError) as refused:
        objects(document)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert message in refused.value.message


OF_TWO = {**TWO_JUDGES, "graders": {"a": STRING_CHECK, "b": {**SCORE_MODEL, "model": "GPT_4"}}}


@pytest.mark.parametrize(
    ("grader", "config", "param", "message"),
    [
        ({**SCORE_MODEL, "model": "GPT_4"}, {}, "grader.model", "grader.model: there is no model GPT_4"),
        (OF_TWO, {}, "grader.graders.b.model", "grader.graders.b.model: there is no model GPT_4"),
        (COSINE, {}, "grader", "grader: cosine needs a model for embeddings"),
        (TWO_JUDGES, {}, "grader", "grader: its parts ask judge and other; all of them have to ask one model"),
        (COSINE, {"graders": "{embeddings: {endpoint: base}}"}, "grader", "the RewardFunction of this request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_grader_alone_is_refused_with_its_own_path(grader, config, param, message):
    defaults = read_defaults(config_map(**config))
    with pytest.raises(ApiError) as refused:
        make_function(read_validation({"grader": grader}).grader, ("team", "grader"), defaults, "grader")
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.message.startswith(message)


def test_the_model_of_a_part_is_refused_with_its_path():
    with pytest.raises(ApiError) as refused:
        objects(request(OF_TWO))
    assert refused.value.param == f"{GRADER}.graders.b.model"


def test_a_base_that_would_not_serve_the_adapter():
    with pytest.raises(ApiError, match=r"does not serve adapters from s3://runs/jobs/.*adapterSources") as refused:
        objects(request(), base=base_endpoint(serving={"adapterSources": ["s3://other"]}))
    assert (refused.value.param, refused.value.code) == ("model", "model_not_tunable")
    with pytest.raises(ApiError, match="the adapter is fetched with the credentials of base"):
        objects(request(), config_map(credentials="{secretName: storage}"))


def test_a_base_that_the_operator_has_made_serves_the_adapters_of_all_jobs():
    base = base_endpoint(serving={"adapterSources": []})
    labelled = base.model_copy(update={"metadata": base.metadata.model_copy(update={"labels": {CREATED_FOR: "older"}})})
    assert objects(request(), base=labelled).job["spec"]["endpoint"]["baseEndpoint"] == "base"


def test_keys_are_for_the_servers_that_the_namespace_names():
    graders = """
      endpoints: [{url: "https://grade.example.com/api/", tokenKey: KEY}]
      credentials: {secretName: graders}
      egress: [{cidr: 203.0.113.7/32}]
    """
    for url, key in (
        ("https://grade.example.com/api/", "KEY"),
        ("https://grade.example.com/api/v1/grade?kind=a..b", "KEY"),
        ("https://grade.example.com/api", None),
        ("https://grade.example.com/api/../other", None),
        ("https://grade.example.com/api/v1/%2E%2e/%2e./other", None),
        ("https://grade.example.com/api/..", None),
        ("https://grade.example.com.evil.example/api/", None),
    ):
        function = objects(request({"type": "endpoint", "url": url}), config_map(graders=graders)).reward_function
        assert function["spec"]["http"].get("tokenKey") == key, url


def test_a_rate_that_all_pods_cannot_keep():
    with pytest.raises(ApiError, match="must be at least 4, because so many reward server pods send") as refused:
        objects(
            request({"type": "endpoint", "url": "https://x/y", "rate_limit": 3}), config_map(graders="{replicas: 4}")
        )
    assert refused.value.param == f"{GRADER}.rate_limit"


def test_an_adapter_cannot_be_tuned():
    adapter = base_endpoint(model=None, serving=None, baseEndpoint="base", adapter={"uri": "s3://runs/jobs/x"})
    with pytest.raises(ApiError, match="is an adapter; name the endpoint of its base") as refused:
        objects(request(), base=adapter)
    assert refused.value.code == "model_not_tunable"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"warmup": "{data: []}"}, "data.warmup.data: unknown field"),
        ({"output": "/tmp/runs"}, "data.output: must be an address that pods can write to"),
        ({"compute": "{gpus: 1}"}, "data.compute.gpus: unknown field"),
        ({"compute": "{gpusPerNode: one}"}, "data.compute.gpusPerNode: must be a whole number"),
        ({"compute": "{gpusPerNode: 1"}, "data.compute: is not valid YAML"),
        ({"limits": "---\n---\n"}, "data.limits: must have one YAML value, and has 2"),
        ({"learningRate": "1"}, "data.learningRate: unknown field"),
        ({"graders": "{models: {gpt-4o: {url: 'https://x/v1'}}}"}, "data.graders.models.gpt-4o: name goes with url"),
        ({"evaluation": "{samplesPerPrompt: 4}"}, "data.evaluation: samplesPerPrompt above 1 needs a temperature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_config_map_names_its_key(data, message):
    with pytest.raises(DefaultsError) as refused:
        read_defaults(config_map(**data))
    assert str(refused.value).startswith("ConfigMap team/rft-fine-tuning: ")
    assert message in str(refused.value)


def test_a_config_map_without_output():
    config = config_map()
    del config["data"]
    with pytest.raises(DefaultsError, match=r"data\.output: is required"):
        read_defaults(config)


def test_addresses_of_data_that_requests_may_name():
    defaults = read_defaults(config_map(data="['s3://data/sets/', 'configmap://rows/train.jsonl']"))
    assert defaults.admits_data("s3://data/sets/a/b.jsonl")
    assert defaults.admits_data("configmap://rows/train.jsonl")
    for other in ("s3://data/setsx", "s3://data/sets", "configmap://rows/train.jsonl2", "configmap://rows/other.jsonl"):
        assert not defaults.admits_data(other)
