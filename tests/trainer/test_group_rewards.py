"""Rewards that compare the completions of a prompt get whole groups; every reward gets tokens and the finish reason."""

import random

import pyarrow.parquet as pq
import pytest
from support.patience import PATIENCE_SECONDS
from support.reward_server import RewardServer
from support.services import Answer, Service
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_api.reward_protocol import Score
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import RewardTarget
from rft_trainer import evaluation
from rft_trainer.data import Prompt
from rft_trainer.evaluation import evaluate
from rft_trainer.modeling import load_tokenizer
from rft_trainer.reward_requests import whole_groups
from rft_trainer.reward_transport import Group, Rollout
from rft_trainer.rewards import RewardClient

# Fails unless it sees all completions of each prompt.
WHOLE = """
def lambda_handler(event, context):
    groups = {}
    for s in event:
        groups.setdefault(s["group"], []).append(s["messages"][-1]["content"])
    for texts in groups.values():
        if len(texts) != int(event[0]["metadata"]["size"]):
            raise ValueError(f"saw {len(texts)} completions")
    return [
        {"id": s["id"], "aggregate_reward_score":
         sum(len(s["messages"][-1]["content"]) > len(text) for text in groups[s["group"]])}
        for s in event
    ]
"""
SIZE = 4


def prompts(count):
    question = [{"role": "user", "content": "q"}]
    return [Prompt(f"p-{n}", "p", "r", question, "a", {"size": SIZE}) for n in range(count)]


def rollouts(texts):
    every = prompts(len(texts) // SIZE)
    return [
        Rollout(every[n // SIZE], text, len(text), "stop", Group(f"p-{n // SIZE}/{n // SIZE}", SIZE))
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    spec = {"scope": "Group", "python": {"source": WHOLE}}
    with RewardServer(tmp_path_factory.mktemp("whole"), spec) as server:
        yield server


@pytest.fixture
def client(whole):
    target = RewardTarget(
        url=whole.url, token_file=str(whole.token_file), timeout_seconds=PATIENCE_SECONDS, digest="d", scope="Group"
    )
    client = RewardClient({"r": target, "s": target}, shadows=["s"])
    yield client
    client.close()


def ranks(texts):
    groups = [texts[start : start + SIZE] for start in range(0, len(texts), SIZE)]
    return [float(sum(len(text) > len(other) for other in group)) for group in groups for text in group]


def test_groups_whose_completions_end_at_different_times_are_scored_whole(client):
    generator = random.Random(1)
    texts = ["x" * generator.randrange(50) for _ in range(60 * SIZE)]
    batch = rollouts(texts)
    order = generator.sample(range(len(batch)), len(batch))
    scoring = client.begin()
    for start in range(0, len(order) - 20, 7):
        scoring.send_early({place: batch[place] for place in order[start : start + 7]})
    scoring.send(batch)
    assert [score.error for score in scoring.wait()] == [None] * len(batch)
    assert [score.aggregate_reward_score for score in scoring.wait()] == ranks(texts)
    assert [shadow.reward for shadow in scoring.wait_for_shadows()["s"]] == ranks(texts)
    assert client.failed_total == 0


def test_a_completion_that_turns_out_different_changes_its_whole_group(client):
    early, last = rollouts(["x", "xx", "xxx", "xxxx"]), rollouts(["xxxxx", "xx", "xxx", "xxxx"])
    scoring = client.begin()
    scoring.send_early(dict(enumerate(early)))
    scoring.send(last)
    assert [score.aggregate_reward_score for score in scoring.wait()] == [3.0, 0.0, 1.0, 2.0]


def test_only_whole_groups_are_chosen_until_no_completions_follow():
    batch = dict(enumerate(rollouts(["x"] * 3 * SIZE)))
    del batch[5]
    assert whole_groups(batch, is_complete=False) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert whole_groups({place: batch[place] for place in (0, 1, 2)}, is_complete=False) == []
    assert whole_groups(batch, is_complete=True) == [place for place in range(12) if place != 5]
    many = dict(enumerate(rollouts(["x"] * 40 * SIZE)))
    assert whole_groups(many, is_complete=False) == list(range(64))
    large = Group("large", 100)
    assert len(whole_groups({n: Rollout(prompts(1)[0], "x", 1, "stop", large) for n in range(100)}, False)) == 100


def test_every_reward_gets_tokens_and_the_finish_reason():
    service = Service(lambda asked: Answer([{"id": s["id"], "aggregate_reward_score": 1} for s in asked.json()]))
    client = RewardClient({"r": RewardTarget(url=service.url, digest="d")})
    own = Prompt("p", "p", "r", [{"role": "user", "content": "q"}], "a", {"rft": {"note": 1, "tokens": 0}})
    scoring = client.begin()
    scoring.send([Rollout(own, "x", 7, "length", Group("g", 1)), Rollout(prompts(1)[0], "y")])
    scoring.wait()
    first, second = service.asked[0].json()
    assert first["metadata"]["rft"] == {"note": 1, "tokens": 7, "finish_reason": "length"}
    assert "rft" not in second["metadata"]
    assert "group" not in first  # only rewards that compare completions get it
    client.close()
    service.close()


# Counts how many completions of the prompt are longer; says how many completions it saw.
SHORTER = """
def lambda_handler(event, context):
    rows = []
    for s in event:
        tokens = [o["metadata"]["rft"]["tokens"] for o in event if o["group"] == s["group"]]
        assert s["metadata"]["rft"]["finish_reason"] in ("stop", "length")
        rows.append({"id": s["id"], "aggregate_reward_score": sum(t > s["metadata"]["rft"]["tokens"] for t in tokens),
                     "metrics_list": [{"name": "size", "value": len(tokens), "type": "Metric"}]})
    return rows
"""


def test_training_compares_the_completions_of_a_prompt(tmp_path, model, data):
    with RewardServer(tmp_path / "server", {"scope": "Group", "python": {"source": SHORTER}}) as server:
        spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxSteps=2))
        config = render(spec, tmp_path, server.url, server.token_file)
        grouped = {name: target.model_copy(update={"scope": "Group"}) for name, target in config.rewards.items()}
        train_in_process(config.model_copy(update={"rewards": grouped}))
    folder = RunFolder(config.output)
    for step in (1, 2):
        rows = pq.read_table(folder.rollout(step)).to_pylist()
        assert len(rows) == 16
        for start in range(0, len(rows), 4):
            group = rows[start : start + 4]
            sizes = [row["tokens"] for row in group]
            assert len({row["sampleId"] for row in group}) == 1
            assert [row["component/size"] for row in group] == [4.0] * 4
            assert [row["reward"] for row in group] == [sum(t > size for t in sizes) for size in sizes]
    rows = pq.read_table(folder.validation(2)).to_pylist()
    assert {row["component/size"] for row in rows} == {1.0}  # one greedy completion of each prompt
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_an_evaluation_with_several_completions_keeps_those_of_a_prompt_together(monkeypatch, model, world, rows):
    tokenizer = load_tokenizer(str(model))
    every = [
        Prompt(f"p-{n}", "p", "r", [{"role": "user", "content": "1" * (1 + n % 3)}], n, {})
        for n in range(7)
        for _ in range(SIZE)
    ]
    batches, calls, completed = [], [0] * world, []
    monkeypatch.setattr(RewardClient, "begin", lambda *_: _Recorder(batches))
    monkeypatch.setattr(evaluation, "gather", lambda results: [results])
    monkeypatch.setattr(evaluation, "world_size", lambda: world)
    client = RewardClient({})
    for rank in range(world):
        monkeypatch.setattr(evaluation, "rank", lambda rank=rank: rank)

        def complete(batch, on_finished, rank=rank):
            calls[rank] += 1
            return [[7] for _ in batch]

        evaluated = evaluate(every, complete, tokenizer, client, [7], rows, 8, samples_per_prompt=SIZE)
        completed += [row.prompt.id for row in evaluated]
    client.close()
    assert len(set(calls)) == 1
    assert sorted(completed) == sorted(prompt.id for prompt in every)
    for batch in batches:
        groups = [rollout.group for rollout in batch]
        assert all(groups.count(group) == group.size == SIZE for group in groups)
        assert len({(rollout.group, rollout.prompt.id) for rollout in batch}) == len(set(groups))


class _Recorder:
    """Keeps the batches, and scores them at once."""

    def __init__(self, batches):
        self._batches = batches

    def send(self, rollouts):
        self._own = rollouts
        self._batches.append(rollouts)

    def wait(self):
        return [Score(id="", aggregate_reward_score=1.0) for _ in self._own]

    def wait_for_shadows(self):
        return {}
