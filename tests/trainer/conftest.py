"""A tiny model, its data and a real reward server, made once for all tests of the trainer."""

import pytest
import torch
from support.reward_server import RewardServer
from support.tiny import digits_rows, write_jsonl, write_model
from support.trainer import DIGIT_SHARE, TrainerProgram


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # Servers and trainer processes run beside the tests.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_trainers_left():
    """Trainers of a test that has failed end with it: all that follow share the processors."""
    yield
    TrainerProgram.end_all()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = digits_rows(72, 4, seed=1)
    write_jsonl(folder / "train.jsonl", rows[:40])
    write_jsonl(folder / "validation.jsonl", rows[40:48])
    write_jsonl(folder / "test.jsonl", rows[48:])
    warmup = [
        {"messages": [*r["messages"], {"role": "assistant", "content": r["reference_answer"]}]} for r in rows[:40]
    ]
    write_jsonl(folder / "warmup.jsonl", warmup)
    return folder


@pytest.fixture(scope="session")
def rewards(tmp_path_factory):
    spec = {"python": {"source": DIGIT_SHARE}}
    with RewardServer(tmp_path_factory.mktemp("rewards"), spec) as server:
        yield server
