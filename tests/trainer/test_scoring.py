"""Scoring beside other work: completions are sent as they finish, and shadows can neither stop nor hold up training."""

import json
import time

import pyarrow.parquet as pq
import pytest
from prometheus_client import generate_latest
from support.patience import PATIENCE_SECONDS, wait_until
from support.reward_server import RewardServer
from support.sequential import SequentialStep, SequentialTrainer
from support.trainer import curve, hyperparameters, job_spec, render, train_in_process

from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import RewardTarget
from rft_trainer import update
from rft_trainer.data import Prompt
from rft_trainer.grpo import RFTTrainer
from rft_trainer.reward_transport import Rollout
from rft_trainer.rewards import RewardClient

LENGTH = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": float(len(s["messages"][-1]["content"]))} for s in event]
"""
# Fails for some completions only, and takes its time for others.
CAPRICIOUS = """
import time

def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        if text == "slow":
            time.sleep(60)
        rows.append({"id": sample["id"], "error": "cannot"} if text == "bad" else
                    {"id": sample["id"], "aggregate_reward_score": -float(len(text))})
    return rows
"""
PROMPT = Prompt("p-1", "p", "r", [{"role": "user", "content": "q"}], "a", {})


def rollouts(*texts):
    return [Rollout(PROMPT, text) for text in texts]


@pytest.fixture(scope="module")
def length(tmp_path_factory):
    with RewardServer(tmp_path_factory.mktemp("length"), {"python": {"source": LENGTH}}) as server:
        yield server


@pytest.fixture(scope="module")
def capricious(tmp_path_factory):
    spec = {"python": {"source": CAPRICIOUS}, "timeout": "10s"}
    with RewardServer(tmp_path_factory.mktemp("capricious"), spec) as server:
        yield server


def target(server, seconds=PATIENCE_SECONDS, url=None):
    return RewardTarget(url=url or server.url, token_file=str(server.token_file), timeout_seconds=seconds, digest="d")


@pytest.fixture
def client(length, capricious):
    client = RewardClient({"r": target(length), "s": target(capricious)}, shadows=["s"])
    yield client
    client.close()


def test_what_was_sent_early_is_scored_once_and_in_order(client):
    scoring = client.begin()
    texts = ["x" * number for number in range(200)]
    for start in range(0, 150, 3):
        scoring.send_early({index: Rollout(PROMPT, texts[index]) for index in range(start, start + 3)})
    scoring.send(rollouts(*texts))
    assert [score.aggregate_reward_score for score in scoring.wait()] == [float(number) for number in range(200)]
    assert scoring.request_seconds > 0
    assert [shadow.reward for shadow in scoring.wait_for_shadows()["s"]] == [-float(n) for n in range(200)]


def test_a_completion_that_turns_out_different_is_scored_as_it_is_at_last(client):
    scoring = client.begin()
    scoring.send_early({0: Rollout(PROMPT, "x"), 1: Rollout(PROMPT, "early")})
    scoring.send(rollouts("x", "at last"))
    assert [score.aggregate_reward_score for score in scoring.wait()] == [1.0, 7.0]
    assert [shadow.reward for shadow in scoring.wait_for_shadows()["s"]] == [-1.0, -7.0]


def test_a_failing_shadow_masks_nothing(client):
    for _ in range(20):
        scoring = client.begin()
        scoring.send(rollouts(*["bad"] * 9, "good"))
        assert all(score.error is None for score in scoring.wait())
        shadows = scoring.wait_for_shadows()["s"]
        assert [shadow.reward for shadow in shadows] == [None] * 9 + [-4.0]
        assert shadows[0].error == "cannot"
    assert client.failed_total == 0


@pytest.mark.parametrize("fault", ["away", "wrong token", "wrong path"])
def test_a_shadow_that_cannot_be_asked_has_its_reason(length, tmp_path, fault):
    token = tmp_path / "token"
    token.write_text("wrong")
    broken = {
        "away": target(length, seconds=0.3, url=f"http://127.0.0.1:{free_port()}"),
        "wrong token": target(length).model_copy(update={"token_file": str(token)}),
        "wrong path": target(length, url=f"{length.url}/none"),
    }[fault]
    client = RewardClient({"r": target(length), "s": broken}, shadows=["s"])
    scoring = client.begin()
    scoring.send(rollouts("one", "three"))
    assert [score.aggregate_reward_score for score in scoring.wait()] == [3.0, 5.0]
    shadows = scoring.wait_for_shadows()["s"]
    said = {"away": "cannot be reached", "wrong token": "answered 401", "wrong path": "answered 404"}[fault]
    assert [shadow.reward for shadow in shadows] == [None, None]
    assert all(said in shadow.error or "no answer within" in shadow.error for shadow in shadows)
    client.close()


def test_a_late_shadow_is_waited_for_once(length, capricious):
    client = RewardClient({"r": target(length), "s": target(capricious, seconds=0.2)}, shadows=["s"])
    errors = []
    for texts in (["slow"], ["slow"], ["quick"]):
        scoring = client.begin()
        scoring.send(rollouts(*texts))
        assert scoring.wait()[0].error is None
        errors.append(scoring.wait_for_shadows()["s"][0].error)
    assert errors[0] == "no answer within 0 s after the step"
    assert errors[1] == errors[0]
    # As soon as it has answered by itself, it is waited for again.

    def is_quick():
        scoring = client.begin()
        scoring.send(rollouts("quick"))
        scoring.wait()
        time.sleep(0.3)
        return scoring.wait_for_shadows()["s"][0].reward == -5.0

    def is_waited_for():
        scoring = client.begin()
        scoring.send(rollouts("quick"))
        return scoring.wait_for_shadows()["s"][0].reward == -5.0

    # On a busy machine, an answer may take more than the 0.2 s again.
    wait_until(lambda: is_quick() and is_waited_for())
    client.close()


@pytest.mark.parametrize("beta", ["0", "0.05"])
def test_the_order_of_requests_changes_no_number(tmp_path, model, data, rewards, beta, monkeypatch):
    used, matches = [], update._EarlyPass.matches
    monkeypatch.setattr(update._EarlyPass, "matches", lambda *inputs: used.append(matches(*inputs)) or used[-1])

    def train(name, kind):
        spec = job_spec(
            model, data, tmp_path / name / "out",
            tuning={"type": "LoRA", "rank": 4, "alpha": 8},
            hyperparameters=hyperparameters(maxSteps=8, klCoefficient=beta, maxCompletionTokens=24),
        )  # fmt: skip
        config = render(spec, tmp_path / name, rewards.url, rewards.token_file)
        train_in_process(config, kind)
        return [json.loads(line) for line in RunFolder(config.output).metrics.read_text().splitlines()]

    SequentialStep.early = 0
    overlapped, sequential = train("overlapped", RFTTrainer), train("sequential", SequentialTrainer)
    assert SequentialStep.early > 0, "nothing finished early: both did the same"
    assert used == [True] * 8, "a forward pass was computed in vain"
    assert curve(overlapped) == curve(sequential)
    assert len({line["reward"] for line in overlapped}) > 1


def test_shadows_are_recorded_and_change_no_number(tmp_path, model, data, rewards, length, capricious):
    def train(name, shadows):
        spec = job_spec(
            model, data, tmp_path / name / "out", shadowRewards=shadows, hyperparameters=hyperparameters(maxSteps=4)
        )
        urls = {"digits": rewards.url, "length": length.url, "broken": f"http://127.0.0.1:{free_port()}"}
        config = render(spec, tmp_path / name, urls, rewards.token_file)
        reporter = train_in_process(config)._reporter
        return RunFolder(config.output), reporter

    plain, _ = train("plain", [])
    folder, reporter = train("shadowed", ["length", "broken"])
    without, lines = ([json.loads(line) for line in f.metrics.read_text().splitlines()] for f in (plain, folder))
    new = ("shadows", "comparisons")
    assert [line["step"] for line in lines if line["split"] == "validation"] == [0, 2, 4]
    assert curve([{k: v for k, v in line.items() if k not in new} for line in lines if line["step"]]) == curve(
        [{k: v for k, v in line.items() if k not in new} for line in without]
    )

    for step in (line for line in lines if line["split"] == "train"):
        table = pq.read_table(folder.rollout(step["step"])).to_pylist()
        given = [row["shadow/length"] for row in table]
        assert given == [len(row["completion"]) for row in table]
        assert step["shadows"]["length"] == {"reward": pytest.approx(sum(given) / len(given)), "failed": 0}
        assert step["shadows"]["broken"] == {"reward": None, "failed": 16}
        assert all(row["error"] is None and row["shadowError/broken"] for row in table)
        assert step["rewardsFailed"] == 0
    assert pq.read_table(folder.validation(4)).num_rows == 8
    text = generate_latest(reporter.registry).decode()
    labels = 'job="test",namespace="default",shadow="{}"'
    assert f'rft_train_shadow_reward_mean{{{labels.format("length")},split="validation"}}' in text
    # 4 steps of 16 completions, and 3 validations of 8.
    assert f"rft_train_shadow_rewards_failed_total{{{labels.format('broken')}}} 88.0" in text
    assert reporter.progress.reward_hacking.suspected is None
