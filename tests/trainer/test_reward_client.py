"""The reward client against real reward servers: failures are named, masked and bounded, outages are waited for."""

import json
import threading
import zlib

import pytest
from support.patience import PATIENCE_SECONDS
from support.raw_server import drip, drip_headers, endless, raw_server
from support.reward_server import RewardServer
from support.services import Answer, Service

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.trainer_config import RewardTarget
from rft_trainer import reward_transport
from rft_trainer.data import Prompt
from rft_trainer.reward_transport import Rollout
from rft_trainer.rewards import RewardClient

TIMEOUT = 30
"""Seconds in which a hung batch ends; each of its samples then gets an eighth of them, however busy the machine is."""
SOURCE = """
import time

def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        if text == "raise":
            raise ValueError("no reward for this")
        if text == "hang":
            time.sleep(3600)
        if text == "missing":
            continue
        value = {"nan": float("nan"), "text": "0.5"}.get(text, float(len(text)))
        rows.insert(0, {"id": sample["id"], "aggregate_reward_score": value,
                        "metrics_list": [{"name": "length", "value": len(text), "type": "Reward"}]})
    return rows
"""


def rollouts(*texts):
    prompt = Prompt("p-1", "p", "r", [{"role": "user", "content": "q"}], "a", {"level": 1})
    return [Rollout(prompt, text) for text in texts]


def score(client, batch):
    """Scores a batch as training does whose completions are all there at once."""
    scoring = client.begin(with_shadows=False)
    scoring.send(batch)
    return scoring.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    spec = {"python": {"source": SOURCE}, "timeout": f"{PATIENCE_SECONDS:.0f}s"}
    with RewardServer(tmp_path_factory.mktemp("client"), spec) as server:
        yield server


def target(server, seconds=PATIENCE_SECONDS):
    return {"r": RewardTarget(url=server.url, token_file=str(server.token_file), timeout_seconds=seconds, digest="d")}


@pytest.fixture
def client(server):
    client = RewardClient(target(server))
    yield client
    client.close()


def test_scores_come_back_in_order_over_many_batches(client):
    texts = ["x" * (i % 7) for i in range(300)]
    scores = score(client, rollouts(*texts))
    assert [s.aggregate_reward_score for s in scores] == [float(len(t)) for t in texts]
    assert scores[3].metrics_list[0].name == "length"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("raise", "no reward for this"),
        ("nan", "not a finite number"),
        ("text", "a string, not a number"),
        ("missing", "no row with this id"),
    ],
)
def test_a_failed_sample_has_an_error_and_no_reward(client, bad, reason):
    scores = score(client, rollouts("one", bad, "three"))
    assert [s.aggregate_reward_score for s in scores] == [3.0, None, 5.0]
    assert reason in scores[1].error
    assert client.failed_total == 1


def test_a_sample_that_hangs_has_an_error_and_no_reward(tmp_path):
    with RewardServer(tmp_path, {"python": {"source": SOURCE}, "timeout": f"{TIMEOUT}s"}) as server:
        client = RewardClient(target(server, TIMEOUT))
        scores = score(client, rollouts("one", "hang", "three"))
        client.close()
    assert [s.aggregate_reward_score for s in scores] == [3.0, None, 5.0]
    assert f"spec.timeout, {TIMEOUT}s" in scores[1].error


def test_too_many_failures_stop_the_run_with_the_first_error(client):
    score(client, rollouts(*["fine"] * 64))
    score(client, rollouts(*["nan"] * 6))
    with pytest.raises(RunError) as caught:
        score(client, rollouts(*["fine"] * 10, *["nan"] * 4))
    assert caught.value.code is ExitCode.REWARD_FAILING
    assert "10 of the last 84 samples could not be scored by reward r" in caught.value.message
    assert "prompt p-1: aggregate_reward_score is not a finite number" in caught.value.message


def test_a_wrong_token_is_an_error_at_once(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("wrong")
    wrong = {"r": target(server)["r"].model_copy(update={"token_file": str(token)})}
    client = RewardClient(wrong)
    with pytest.raises(RunError) as caught:
        score(client, rollouts("x"))
    client.close()
    assert caught.value.code is ExitCode.REWARD_FAILING
    assert "answered 401" in caught.value.message


def test_an_outage_is_waited_for(tmp_path):
    port = free_port()
    server = RewardServer(tmp_path / "server", {"python": {"source": SOURCE}}, port=port).wait_ready()
    client = RewardClient(target(server))
    assert score(client, rollouts("ab"))[0].aggregate_reward_score == 2.0
    server.stop()
    restart = threading.Timer(1.0, server.start, [port])
    restart.start()
    assert score(client, rollouts("abc"))[0].aggregate_reward_score == 3.0
    restart.join()
    server.stop()
    client.close()


def test_a_server_that_stays_away_ends_the_run_for_a_retry():
    url = f"http://127.0.0.1:{free_port()}"
    client = RewardClient({"r": RewardTarget(url=url, digest="d")}, unreachable_seconds=0.5)
    with pytest.raises(RunError) as caught:
        score(client, rollouts("x"))
    assert caught.value.code is ExitCode.REWARD_UNREACHABLE
    assert not caught.value.code.permanent
    assert f"reward r at {url} cannot be reached" in caught.value.message
    client.close()


def test_stopping_does_not_wait_for_an_outage():
    url = f"http://127.0.0.1:{free_port()}"
    client = RewardClient({"r": RewardTarget(url=url, digest="d")}, should_stop=lambda: True)
    with pytest.raises(RunError) as caught:
        score(client, rollouts("x"))
    assert caught.value.code is ExitCode.INTERRUPTED
    client.close()


def compressed(connection):
    body = zlib.compress(json.dumps([{"id": "1-0", "aggregate_reward_score": 1.0}]).encode())
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def many_values(connection):
    body = b"[" + b"0," * 2_000_001 + b"0]"
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


@pytest.mark.parametrize(
    ("serve", "size", "error"),
    [
        (drip, 1, "no answer within 1 s"),
        (drip_headers, 1, "no answer within 1 s"),
        (endless, 1, "the reward server answers with more than 1 MiB"),
        (endless, 6, "the reward server answers with more than 3.5 MiB"),
        (compressed, 1, "the reward server sends a compressed answer, though none was asked for"),
    ],
)
def test_what_a_server_may_cost(monkeypatch, serve, size, error):
    monkeypatch.setattr(reward_transport, "SPARE_SECONDS", 0.0 if serve in (drip, drip_headers) else 30.0)
    with raw_server(serve) as url:
        client = RewardClient({"r": RewardTarget(url=url, timeout_seconds=0.5, digest="d")})
        scores = score(client, rollouts(*["x"] * size))
        client.close()
    assert {s.error for s in scores} == {error}


def test_samples_that_cannot_be_sent_have_an_error(client):
    (failed,) = score(client, rollouts("half \ud800"))
    assert failed.error.startswith("the samples cannot be written as JSON: 'utf-8' codec can't encode")


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (endless, "the reward server answers with more than 32.5 MiB"),
        (many_values, "the reward server's answer has more than 2,000,000 values"),
    ],
)
def test_a_whole_batch_that_a_server_answers_with_too_much_ends_the_run_with_the_reason(serve, error):
    with raw_server(serve) as url:
        client = RewardClient({"r": RewardTarget(url=url, digest="d")})
        with pytest.raises(RunError, match=f"64 of the last 64 samples could not be scored by reward r.*{error}"):
            score(client, rollouts(*["x"] * 64))
        client.close()


@pytest.mark.parametrize(
    ("head", "code", "text"),
    [
        (
            b"HTTP/1.1 503 No\r\ncontent-encoding: gzip\r\n",
            ExitCode.REWARD_UNREACHABLE,
            "answered 503, but sends a",
        ),
        (b"HTTP/1.1 403 No\r\ncontent-encoding: gzip\r\n", ExitCode.REWARD_FAILING, "answered 403, but sends a"),
        (b"HTTP/1.1 400 No\r\n", ExitCode.REWARD_FAILING, r"answered 400: no \x1b[2J 2026-01-01 ERROR forged"),
    ],
)
def test_refusals_whose_text_is_foreign(head, code, text):
    answer = head + b"connection: close\r\n\r\nno \x1b[2J\n2026-01-01 ERROR forged"
    with raw_server(lambda connection: connection.sendall(answer)) as url:
        client = RewardClient({"r": RewardTarget(url=url, digest="d")}, unreachable_seconds=0.5)
        with pytest.raises(RunError) as caught:
            score(client, rollouts("x"))
        client.close()
    assert caught.value.code is code
    assert text in caught.value.message


def test_a_server_without_room_is_asked_again():
    busy = [Answer({"error": "no room"}, 503, {"retry-after": "1"})] * 2

    def respond(asked):
        rows = [{"id": each["id"], "aggregate_reward_score": 1.0} for each in asked.json()]
        return busy.pop() if busy else Answer(rows)

    service = Service(respond)
    client = RewardClient({"r": RewardTarget(url=service.url, digest="d")})
    assert score(client, rollouts("x"))[0].aggregate_reward_score == 1.0
    client.close()
    service.close()
    assert len(service.asked) == 3
