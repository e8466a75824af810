"""What the fine-tuning API reads of metrics.jsonl, whatever is written there."""

from __future__ import annotations

import csv
import random
from dataclasses import replace

import pytest
from support.fine_tuning import STARTED, condition, rft_job
from support.run_metrics import imitation_line, step_line, validation_line

from rft_gateway.fine_tuning.events import describe_events
from rft_gateway.fine_tuning.job import Job, unix_time
from rft_gateway.fine_tuning.run_metrics import COLUMNS, SUPERVISED_COLUMNS, MetricsReader, StepMetrics, step_table


def read(text: str, piece: int = 1 << 20) -> list[StepMetrics]:
    reader, content = MetricsReader(), text.encode()
    for start in range(0, len(content), piece):
        reader.take(content[start : start + piece])
    return reader.steps()


LINES = validation_line(0) + step_line(1, 100.5, 64) + validation_line(2, 109.0) + step_line(2, 110.0, 130)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_steps_have_the_numbers_of_their_validations(piece):
    before, first, second = read(LINES, piece)
    assert (before.step, before.reward, before.validation_reward) == (0, None, 0.0)
    assert (first.reward, first.validation_reward, first.trained_tokens, first.ended_at) == (0.1, None, 64, 100.5)
    assert second.event_data(8) == {
        "step": 2, "total_steps": 8, "train_loss": -0.02, "train_mean_reward": 0.2, "full_valid_mean_reward": 0.1,
        "completion_tokens_mean": 2.5, "trained_tokens": 130,
        "scores": {"train_reward_mean": 0.2, "valid_reward_mean": 0.1},
        "timing": {"step": {"sampling": 4, "training": 3, "eval": 2, "full_iteration": 9.5}},
    }  # fmt: skip
    assert "total_steps" not in second.event_data(None)


def test_a_result_file_is_a_table():
    rows = list(csv.reader(step_table(read(LINES)).decode().splitlines()))
    assert rows == [
        list(COLUMNS),
        ["0", "", "", "0.0", "", ""],
        ["1", "-0.01", "0.1", "", "1.5", "64"],
        ["2", "-0.02", "0.2", "0.1", "2.5", "130"],
    ]


def test_steps_of_supervised_jobs_have_what_openai_says_of_theirs():
    steps = read(imitation_line(1, 100.5) + imitation_line(2, 110.0, validation_loss=1.5))
    assert steps[0].event_data(2) == {
        "step": 1, "total_steps": 2, "train_loss": 2.0, "train_mean_token_accuracy": 0.0, "trained_tokens": 32
    }  # fmt: skip
    assert steps[1].event_data(2) == {
        "step": 2, "total_steps": 2, "train_loss": 1.0, "train_mean_token_accuracy": 0.5, "full_valid_loss": 1.5,
        "trained_tokens": 64,
    }  # fmt: skip
    assert list(csv.reader(step_table(steps).decode().splitlines())) == [
        list(SUPERVISED_COLUMNS), ["1", "2.0", "0.0", "", "32"], ["2", "1.0", "0.5", "1.5", "64"]
    ]  # fmt: skip
    document = rft_job(condition("Succeeded", "Unknown", "Running"), progress={"step": 2, "totalSteps": 2})
    document["spec"] |= {"data": {}, "warmup": {"data": [{"name": "a", "uri": "s3://data/a.jsonl"}]}}
    events = describe_events(Job(document), [*steps, replace(steps[1], step=3, loss=None, validation_loss=None)])
    assert [event["message"] for event in events if event["type"] == "metrics"] == [
        "Step 3/2: no finite loss", "Step 2/2: training loss=1.0000, full validation loss=1.5000",
        "Step 1/2: training loss=2.0000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[]", "{", '{"split": "train"}', '{"split": "other", "step": 3}', '{"split": "train", "step": -1}',
        '{"split": "train", "step": 9007199254740993}', '{"split": "train", "step": 3, "reward": 1e999}',
        '{"split": "train", "step": 3, "reward": NaN}', '{"split": "train", "step": 3, "endedAt": -5}',
        '{"split": "train", "step": 3, "trainedTokens": -1}', "[" * 100_000, "x" * (3 << 20), "\udc80",
    ],
)  # fmt: skip
def test_what_is_no_line_counts_as_none(line):
    text = (LINES + line + "\n" + step_line(4)).encode("utf-8", "surrogateescape")
    reader = MetricsReader()
    for start in range(0, len(text), 1 << 18):
        reader.take(text[start : start + (1 << 18)])
    assert [each.step for each in reader.steps()] == [0, 1, 2, 4]


def test_a_line_without_an_end_is_being_written():
    assert [each.step for each in read(LINES + step_line(3).rstrip("\n"))] == [0, 1, 2]


def test_random_content_is_read_as_nothing_or_as_numbers():
    generator = random.Random(0)
    for _ in range(2000):
        content = bytearray(LINES.encode())
        for _ in range(generator.randrange(1, 20)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        reader = MetricsReader()
        reader.take(bytes(content))
        step_table(reader.steps())
        job = Job(rft_job(progress={"step": 2, "totalSteps": 2}))
        assert len(describe_events(job, reader.steps())) <= 5


def test_each_step_has_an_event_at_its_time():
    start = unix_time(STARTED)
    steps = read(step_line(1, start + 10.5) + step_line(2, start + 20.5) + step_line(3, start + 30))
    running = condition("Succeeded", "Unknown", "Running")
    at_status = {"startTime": STARTED, "progress": {"step": 3, "totalSteps": 8, "reward": "0.9000"}}
    events = describe_events(Job(rft_job(running, **at_status)), steps)
    metrics = [event for event in events if event["type"] == "metrics"]
    assert [(event["data"]["step"], event["created_at"]) for event in metrics] == [
        (3, start + 30), (2, start + 20), (1, start + 10)
    ]  # fmt: skip
    assert metrics[0]["message"] == "Step 3/8: train mean reward=0.3000", "the output is exact; the status has 4 digits"
    (of_status,) = [event for event in describe_events(Job(rft_job(running, **at_status))) if event["data"]]
    assert of_status["id"] == metrics[0]["id"]
    ahead = describe_events(Job(rft_job(running, **{**at_status, "progress": {"step": 4, "totalSteps": 8}})), steps)
    assert [event["data"]["step"] for event in ahead if event["data"]] == [4, 3, 2, 1]
    old = describe_events(Job(rft_job(running, **at_status)), read(step_line(1)))
    assert start in [event["created_at"] for event in old if event["data"].get("step") == 1]
