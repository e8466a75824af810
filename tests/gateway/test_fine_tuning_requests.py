"""What is taken of a request for a fine-tuning job, and with which message and field anything else is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.fine_tuning import LAMBDA, SCORE_MODEL, STRING_CHECK, request

from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.request import read_request, read_validation

PYTHON = {"type": "python", "name": "code", "source": "def grade(sample, item):\n    return 1.0\n"}
LABEL = {
    "type": "label_model", "name": "label", "model": "judge", "labels": ["good", "bad"], "passing_labels": ["good"],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip
SIMILARITY = {
    "type": "text_similarity", "name": "similar", "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}", "evaluation_metric": "rouge_l",
}  # fmt: skip
MULTI = {
    "type": "multi", "name": "both", "graders": {"a": STRING_CHECK, "b": SIMILARITY}, "calculate_output": "a + 0.5 * b"
}  # fmt: skip
REWARD_FUNCTION = {"type": "reward_function", "name": "exact"}
ENDPOINT = {"type": "endpoint", "name": "ours", "url": "https://grade.example.com/api/grade", "rate_limit": 50}


@pytest.mark.parametrize(
    "grader",
    [STRING_CHECK, SIMILARITY, PYTHON, SCORE_MODEL, LABEL, MULTI, LAMBDA, ENDPOINT, REWARD_FUNCTION],
    ids=lambda grader: grader["type"],
)
def test_graders(grader):
    asked = read_request(request(grader)).method.reinforcement.grader
    assert asked.type == grader["type"]
    assert read_validation({"grader": grader}).grader == asked


def test_everything():
    settings = {
        "batch_size": 256, "n_epochs": 50, "learning_rate_multiplier": 2, "compute_multiplier": 0.5,
        "eval_interval": 1, "eval_samples": "auto", "reasoning_effort": "high",
    }  # fmt: skip
    fields = {"suffix": "My model", "seed": 0, "metadata": {"k" * 64: "v" * 512}, "validation_file": "file-v"}
    read = read_request(request(hyperparameters=settings, integrations=[], **fields))
    assert read.method.reinforcement.hyperparameters.model_dump() == settings
    assert {name: getattr(read, name) for name in fields} == fields


def test_a_supervised_job():
    settings = {"batch_size": 8, "n_epochs": 3, "learning_rate_multiplier": 2}
    method = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    read = read_request(request(method=method))
    assert read.reinforcement is None
    assert read.supervised.model_dump() == settings
    # As scripts have it that are older than methods, and as the least that there is.
    assert read_request(request(method=None) | {"hyperparameters": settings}).supervised == read.supervised
    assert read_request(request(method=None)).supervised.n_epochs == "auto"
    assert read_request(request(method={"type": "supervised"})).supervised.n_epochs == "auto"


def test_null_is_as_good_as_nothing():
    nulls = dict.fromkeys(("validation_file", "suffix", "seed", "metadata", "integrations", "hyperparameters"))
    assert read_request(request(**nulls)) == read_request(request())
    settings = {"batch_size": None, "n_epochs": "auto"}
    assert read_request(request(hyperparameters=settings)) == read_request(request())


def whole(low: str, high: str) -> str:
    return f'must be "auto" or a whole number from {low} to {high}'


SETTINGS = "method.reinforcement.hyperparameters"
GRADER = "method.reinforcement.grader"
REFUSED = [
    # the method
    (request(method={"type": "supervised", "reinforcement": {"grader": STRING_CHECK}}), "method.reinforcement",
     "belongs to type reinforcement, and the type is supervised"),
    (request() | {"method": {**request()["method"], "supervised": {}}}, "method.supervised", "belongs to type"),
    (request(method={"type": "supervised", "supervised": {"hyperparameters": {"eval_interval": 3}}}),
     "method.supervised.hyperparameters.eval_interval", "unknown field"),
    (request(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}}),
     "method.supervised.hyperparameters.n_epochs", 'must be "auto" or a whole number from 1 to 50'),
    (request(method=None) | {"hyperparameters": {"beta": 1}}, "hyperparameters.beta", "unknown field"),
    (request(method={"type": "dpo", "dpo": {}}), "method.type", "preferences"),
    (request(method={"type": "other"}), "method.type", "must be one of reinforcement, supervised"),
    (request(method={"type": "reinforcement"}), "method.reinforcement", "is required"),
    (request(method="reinforcement"), "method", "must be a mapping of fields"),
    (request(hyperparameters={"n_epochs": 3}) | {"hyperparameters": {"n_epochs": 3}}, "hyperparameters", "is no place"),
    # hyperparameters, at OpenAI's bounds
    (request(hyperparameters={"batch_size": 0}), f"{SETTINGS}.batch_size", whole("1", "256")),
    (request(hyperparameters={"batch_size": 257}), f"{SETTINGS}.batch_size", whole("1", "256")),
    (request(hyperparameters={"batch_size": 8.0}), f"{SETTINGS}.batch_size", whole("1", "256")),
    (request(hyperparameters={"batch_size": True}), f"{SETTINGS}.batch_size", whole("1", "256")),
    (request(hyperparameters={"batch_size": "8"}), f"{SETTINGS}.batch_size", whole("1", "256")),
    (request(hyperparameters={"n_epochs": 51}), f"{SETTINGS}.n_epochs", whole("1", "50")),
    (request(hyperparameters={"learning_rate_multiplier": 0}), f"{SETTINGS}.learning_rate_multiplier", "above 0"),
    (request(hyperparameters={"compute_multiplier": 1e-5}), f"{SETTINGS}.compute_multiplier", "at most 10"),
    (request(hyperparameters={"compute_multiplier": 10.5}), f"{SETTINGS}.compute_multiplier", "at most 10"),
    (request(hyperparameters={"eval_interval": 0}), f"{SETTINGS}.eval_interval", whole("1", "1,000,000")),
    (request(hyperparameters={"eval_samples": 129}), f"{SETTINGS}.eval_samples", whole("1", "128")),
    (request(hyperparameters={"reasoning_effort": "minimal"}), f"{SETTINGS}.reasoning_effort", "must be one of"),
    (request(hyperparameters={"epochs": 3}), f"{SETTINGS}.epochs", "unknown field; did you mean n_epochs?"),
    # graders
    (request({"name": "x"}), GRADER, "needs a type"),
    (request({"type": "code"}), GRADER, "needs a type"),
    (request({**ENDPOINT, "headers": {"X-Key": "secret"}}), f"{GRADER}.headers", "graders.endpoints"),
    (request({**ENDPOINT, "pass_threshold": 8}), f"{GRADER}.pass_threshold", "leave pass_threshold out"),
    (request({**ENDPOINT, "url": "ftp://x"}), f"{GRADER}.url", "must match the regular expression"),
    (request({**ENDPOINT, "rate_limit": 0}), f"{GRADER}.rate_limit", "must be at least 1"),
    (request({**STRING_CHECK, "operation": "is"}), f"{GRADER}.operation", "must be one of"),
    (request({**STRING_CHECK, "input": "{{ other.x }}"}), f"{GRADER}.input", "is not understood"),
    (request({**STRING_CHECK, "more": 1}), f"{GRADER}.more", "unknown field"),
    (request({**LAMBDA, "lambda": {"function": "reward"}}), f"{GRADER}.lambda.function", "must match"),
    (request({**REWARD_FUNCTION, "name": "Not a name"}), f"{GRADER}.name", "must look like my-name"),
    (request({**MULTI, "calculate_output": "a + c"}), f"{GRADER}.calculate_output", "there is no grader c"),
    (request({**MULTI, "graders": {"a": {**STRING_CHECK, "operation": 1}}}), f"{GRADER}.graders.a.operation", "must"),
    # other fields
    ({**request(), "model": ""}, "model", "must have at least 1 character"),
    ({key: value for key, value in request().items() if key != "training_file"}, "training_file", "is required"),
    ({**request(), "training_file": 7}, "training_file", "must be a string"),
    (request(suffix="x" * 65), "suffix", "must have at most 64 characters"),
    (request(seed=-1), "seed", "must be at least 0"),
    (request(seed=1.5), "seed", "must be a whole number"),
    (request(metadata={str(number): "" for number in range(17)}), "metadata", "must have at most 16 pairs, and has 17"),
    (request(metadata={"k" * 65: ""}), "metadata", "the key must have at most 64 characters"),
    (request(metadata={"k": "v" * 513}), "metadata.k", "must have at most 512 characters, and has 513"),
    (request(metadata={"k": 1}), "metadata.k", "must be a string"),
    (request(integrations=[{"type": "wandb", "wandb": {"project": "p"}}]), "integrations", "leave integrations out"),
    (request(nonsense=1), "nonsense", "unknown field"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "param", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_refused(document, param, message):
    with pytest.raises(ApiError) as refused:
        read_request(document)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.message.startswith(f"{param}: ")
    assert message in refused.value.message
    codes = {"is required": "missing_required_parameter", "unknown field": "unknown_parameter"}
    expected = next((code for words, code in codes.items() if message.startswith(words)), "invalid_value")
    assert refused.value.code == expected


GRADERS = [each for each in REFUSED if each[1].startswith(GRADER)]


@pytest.mark.parametrize(("document", "param", "message"), GRADERS, ids=[each[1] for each in GRADERS])
def test_a_grader_is_refused_as_in_a_job(document, param, message):
    with pytest.raises(ApiError) as refused:
        read_validation({"grader": document["method"]["reinforcement"]["grader"]})
    assert (refused.value.status, refused.value.param) == (400, param.removeprefix("method.reinforcement."))
    with pytest.raises(ApiError) as of_job:
        read_request(document)
    assert f"method.reinforcement.{refused.value.message}" == of_job.value.message


@pytest.mark.parametrize(
    ("document", "param"), [({}, "grader"), ({"grader": None}, "grader"), ({"model_sample": "x"}, "model_sample")]
)
def test_a_request_that_has_no_grader(document, param):
    with pytest.raises(ApiError) as refused:
        read_validation({"grader": STRING_CHECK, **document} if "model_sample" in document else document)
    assert refused.value.param == param


@pytest.mark.parametrize("field", ["response_format", "tools", "max_episode_steps"])
def test_what_cannot_be_honoured_is_refused(field):
    document = request()
    document["method"]["reinforcement"][field] = {"type": "text"}
    with pytest.raises(ApiError, match=f"leave {field} out") as refused:
        read_request(document)
    assert refused.value.param == f"method.reinforcement.{field}"


def test_several_problems_are_told_at_once():
    settings = {"batch_size": 0, "n_epochs": 0}
    with pytest.raises(ApiError) as refused:
        read_request(request(hyperparameters=settings, seed=-1))
    assert f"{SETTINGS}.batch_size" in refused.value.message
    assert f"{SETTINGS}.n_epochs" in refused.value.message
    assert "seed: must be at least 0" in refused.value.message


def test_a_gateway_without_the_api_does_not_import_it():
    code = "import sys, rft_gateway.main; print([name for name in sys.modules if '.fine_tuning' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
