"""graders.run by the real openai package: every type of grader, in a real reward server, with OpenAI's metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from support.fine_tuning import LAMBDA, STRING_CHECK, condition
from support.gateway_files import connect
from support.gateway_in_cluster import ClusterGateway, Team
from support.patience import PATIENCE_SECONDS, wait_until
from support.reward_operator import RewardOperator
from support.services import Answer, Asked, Service, chat

from rft_api.object_labels import FINE_TUNING_RUN, FINE_TUNING_USED

SIMILAR = {
    "type": "text_similarity", "name": "close", "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}",
    "evaluation_metric": "rouge_l",
}  # fmt: skip
JUDGE = {
    "type": "score_model", "name": "judge", "model": "judge", "range": [0, 10],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip
LABEL = {
    "type": "label_model", "name": "label", "model": "judge", "labels": ["good", "bad"], "passing_labels": ["good"],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip
PYTHON = {
    "type": "python", "name": "code",
    "source": (
        "import os\n\n"
        "def grade(sample, item):\n"
        "    if sample['output_text'] == 'fail':\n"
        "        raise ValueError('no such amount')\n"
        "    if sample['output_text'] == 'loop':\n"
        "        while True: pass\n"
        "    return item['price'] / 4 + len(os.environ.get('RFT_GATEWAY_LEDGER', ''))\n"
    ),
}  # fmt: skip
MULTI = {
    "type": "multi", "name": "both", "graders": {"exact": STRING_CHECK, "close": SIMILAR},
    "calculate_output": "0.5 * exact + 0.25 * close",
}  # fmt: skip


def answer(asked: Asked) -> Answer:
    """Answers with what the sample says."""
    text = str(asked.json()["messages"][-1]["content"])
    return Answer(b"down", 500) if text == "down" else chat(text)


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    service = Service(answer)
    yield f"{service.url}/v1"
    service.close()


@pytest.fixture
def operator(team: Team, tmp_path) -> Iterator[RewardOperator]:
    with RewardOperator(team, tmp_path / "rewards") as operator:
        yield operator


@pytest.fixture
def client(tuning_gateway: ClusterGateway, team: Team, judge: str) -> Iterator[openai.OpenAI]:
    team.enable_fine_tuning(graders=json.dumps({"models": {"judge": {"url": judge, "name": "small"}}, "timeout": "5s"}))
    with connect(tuning_gateway, team.add_key("ci")) as client:
        yield client


def run(client: openai.OpenAI, grader: dict[str, Any], sample: str, **item: Any) -> Any:
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)  # type: ignore[arg-type]


def raised(result: Any) -> set[str]:
    """The names of the errors that a run has."""
    return {name for name, value in result.to_dict()["metadata"]["errors"].items() if value is True}


def test_graders_without_a_model(client, operator):
    exact = run(client, STRING_CHECK, "42", answer="42")
    assert (exact.reward, exact.sub_rewards, exact.metadata.scores) == (1.0, {}, {"exact": 1.0})
    assert (exact.metadata.name, exact.metadata.type, raised(exact)) == ("exact", "string_check", set())
    assert 0 < exact.metadata.execution_time < PATIENCE_SECONDS
    assert run(client, STRING_CHECK, "41", answer="42").reward == 0.0
    assert len(operator.servers) == 1, "the same grader has the same server"
    missing = run(client, STRING_CHECK, "42")
    assert (missing.reward, raised(missing)) == (0.0, {"invalid_variable_error"})
    both = run(client, MULTI, "a b", answer="a b c d")
    assert both.sub_rewards == {"exact": 0.0, "close": pytest.approx(2 / 3)}
    assert both.reward == pytest.approx(1 / 6)


def test_an_endpoint_grader_is_asked(client, operator, judge):
    server = Service(lambda asked: Answer({"score": float(asked.json()["item"]["answer"])}))
    try:
        grader = {"type": "endpoint", "name": "ours", "url": f"{server.url}/grade"}
        scored = run(client, grader, "x", answer=3)
        assert (scored.reward, scored.sub_rewards, raised(scored)) == (3.0, {}, set())
        assert (scored.metadata.name, scored.metadata.type) == ("ours", "endpoint")
        assert server.asked[0].json()["sample"]["output_text"] == "x"
        server.respond = lambda asked: Answer({"scores": [1]})
        failed = run(client, grader, "x", answer=3)
        assert (failed.reward, raised(failed)) == (0.0, {"other_error"})
        assert "no JSON object with a score" in failed.to_dict()["metadata"]["error"]
    finally:
        server.close()


def test_code_runs_in_the_reward_server(client, operator):
    assert run(client, PYTHON, "x", price=3).reward == 0.75
    failed = run(client, PYTHON, "fail", price=3)
    assert (failed.reward, raised(failed)) == (0.0, {"python_grader_runtime_error"})
    assert "ValueError: no such amount" in failed.metadata.errors.python_grader_runtime_error_details
    endless = run(client, PYTHON, "loop", price=3)
    assert (endless.reward, raised(endless)) == (0.0, {"python_grader_server_error"})
    assert endless.metadata.errors.python_grader_server_error_type


def test_graders_that_ask_a_model(client, operator):
    scored = run(client, JUDGE, '{"result": 7, "steps": []}')
    assert (scored.reward, scored.metadata.scores, raised(scored)) == (7.0, {"judge": 7.0}, set())
    assert raised(run(client, JUDGE, "seven")) == {"model_grader_parse_error"}
    down = run(client, JUDGE, "down")
    assert raised(down) == {"model_grader_server_error"}
    assert down.metadata.errors.api_model_grader_server_error_details
    assert run(client, LABEL, '{"steps": [], "result": "good", "label": "good"}').reward == 1.0


def test_a_reward_function_of_the_namespace_is_run_as_it_is(client, operator, team):
    ours = {"type": "reward_function", "name": "exact"}
    with pytest.raises(openai.BadRequestError, match="there is no RewardFunction exact"):
        run(client, ours, "42", answer="42")
    spec = {"openai": {"grader": STRING_CHECK}}
    team.apply({
        "apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "exact"}, "spec": spec
    })  # fmt: skip
    assert run(client, ours, "42", answer="42").reward == 1.0
    assert list(operator.servers) == ["exact"]


def test_a_request_that_is_wrong(client, team, tuning_gateway):
    for grader, param in (
        ({**STRING_CHECK, "operation": "is"}, "grader.operation"),
        ({**JUDGE, "model": "x"}, "grader.model"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            run(client, grader, "42", answer="42")
        assert refused.value.param == param
    for fields, param in (
        ({"model_sample": 7}, "model_sample"),
        ({"model_sample": "x", "item": [1]}, "item"),
        ({}, "model_sample"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/fine_tuning/alpha/graders/run", body={"grader": STRING_CHECK, **fields}, cast_to=object)
        assert refused.value.param == param
    assert not team.read("rewardfunctions")["items"]
    headers = {"Authorization": f"Bearer {client.api_key}"}
    answer = httpx.get(
        f"{tuning_gateway.url}/v1/fine_tuning/alpha/graders/run", headers=headers, timeout=PATIENCE_SECONDS,
        trust_env=False,
    )  # fmt: skip
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def the_run(team: Team) -> dict[str, Any]:
    """The RewardFunction that a run has made."""
    (function,) = wait_until(lambda: team.read("rewardfunctions")["items"], lambda: "there is none")
    return dict(function)


def test_a_server_that_cannot_start_is_said(client, team):
    asked = client.with_options(max_retries=0)
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(run, asked, LAMBDA, "42")
        # Others of the namespace are answered meanwhile.
        assert client.fine_tuning.jobs.list().data == []
        function = the_run(team)
        assert not asking.done()
        wrong = condition("Ready", "False", "ConfigurationInvalid", "spec.lambda: may not be invoked")
        team.set_reward_status(function["metadata"]["name"], wrong)
        with pytest.raises(openai.BadRequestError, match=r"ConfigurationInvalid: spec\.lambda: may not be") as refused:
            asking.result()
    assert (refused.value.param, refused.value.code) == ("grader", "grader_failing")
    assert function["metadata"]["labels"][FINE_TUNING_RUN] == "true"
    assert function["spec"]["lambda"]["functionArn"] == LAMBDA["lambda"]["function"]


def test_few_graders_run_at_the_same_time_and_servers_without_use_go(client, operator, team, kubeconfig, tmp_path):
    hasty = client.with_options(max_retries=0)
    graders = [{**STRING_CHECK, "name": f"check{number}"} for number in range(8)]
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(run, hasty, grader, "42", answer="42") for grader in graders]
        errors = [failure for each in asked if (failure := each.exception()) is not None]
    assert [each.result().reward for each in asked if each.exception() is None] == [1.0] * 4
    assert {(type(error), error.code) for error in errors} == {(openai.RateLimitError, "too_many_graders")}
    (oldest, *others) = list(operator.servers)
    note_use(team, oldest, time.time() - 100)
    assert run(client, STRING_CHECK, "42", answer="42").reward == 1.0
    assert oldest not in names(team)
    note_use(team, others[0], time.time() - 700)
    # A gateway looks for them when it starts, those of others, too.
    with ClusterGateway(tmp_path / "another", kubeconfig, "--fine-tuning") as another:
        wait_until(lambda: others[0] not in names(team), lambda: another.log)
    assert set(others[1:]) < names(team)


def names(team: Team) -> set[str]:
    return {function["metadata"]["name"] for function in team.read("rewardfunctions")["items"]}


def note_use(team: Team, name: str, moment: float) -> None:
    team("annotate", "--overwrite", "rewardfunction", name, f"{FINE_TUNING_USED}={moment:.0f}")
