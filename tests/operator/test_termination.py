"""What a pod leaves behind when it ends, and what the operator reads of it."""

from __future__ import annotations

import pytest

from rft_api.exit_codes import ExitCode
from rft_api.foreign.text import one_line
from rft_api.job_status import JobProgress
from rft_api.metrics import Gain
from rft_api.progress import MemoryVerdict
from rft_api.run_folder import CheckpointInfo
from rft_api.summary import DataReport, Evaluation, Summary
from rft_api.termination import (
    MAXIMUM_BYTES,
    Failure,
    add_missing,
    failure_message,
    find_end,
    format_end,
    memory_message,
    parse_failure,
    parse_memory,
    parse_result,
    success_message,
)
from rft_operator.rft_job.results import describe_result, finish_progress, remarks


def summary(components: int) -> Summary:
    evaluation = Evaluation(
        reward=-0.25,
        components={f"component-{number}": 0.123456789 for number in range(components)},
        sources={},
        episode_length=1.0,
        rewards_failed=0,
    )
    return Summary(
        name="job", steps=20, stopped_early=False, best_step=10, best_validation_reward=0.5,
        checkpoints=[CheckpointInfo(step=step, validation_reward=0.5) for step in range(30)], held_out="test",
        prompts=64, base=evaluation, tuned=evaluation, gain=Gain(mean=-0.5, low=-1, high=0.25),
        data=DataReport(train_prompts=1, validation_prompts=1, test_prompts=1, warmup_conversations=0, too_long={}),
        rewards_failed=0, seconds={}, accelerator_hours=0.0,
    )  # fmt: skip


def test_the_base_model_is_named_with_its_commit():
    message = success_message(summary(components=1).model_copy(update={"base_revision": "0123"}))
    for model in ("hf://a/b", "hf://a/b@main"):
        result, _ = describe_result(parse_result(message), "s3://o/job", model)
        assert result.base_model == "hf://a/b@0123"
    result, _ = describe_result(parse_result(success_message(summary(components=1))), "s3://o/job", "s3://m/base")
    assert result.base_model is None


def test_the_end_has_numbers_of_the_last_step_which_nobody_has_observed():
    result = parse_result(success_message(summary(components=1).model_copy(update={"trained_tokens": 1234})))
    progress = finish_progress(JobProgress(phase="Evaluation", step=19, total_steps=20, trained_tokens=900), result)
    assert (progress.phase, progress.step, progress.trained_tokens) == ("Done", 20, 1234)


def test_a_result_fits_and_is_read_again():
    message = success_message(summary(components=1000))
    assert len(message.encode()) < MAXIMUM_BYTES
    result, checkpoints = describe_result(parse_result(message), "s3://o/job/", "s3://m/base")
    assert (result.baseline_reward, result.gain, result.interval) == ("-0.2500", "-0.5000", "-1.0000 to +0.2500")
    assert [checkpoint.uri for checkpoint in checkpoints] == [f"s3://o/job/checkpoints/step-{n}" for n in range(3)]


def test_a_result_names_inputs_that_have_changed_since():
    inputs = [f"s3://data/{number}{'x' * 9000} (test/{number})" for number in range(40)]
    message = success_message(summary(components=1), inputs)
    assert len(message.encode()) < MAXIMUM_BYTES
    names = parse_result(message).changed_inputs
    assert len(names) == 6
    assert names[0].startswith("s3://data/0x")
    assert names[-1] == "and 35 more"
    assert "changedInputs" not in success_message(summary(components=1))


def test_a_result_says_what_has_not_reached_trackers_as_far_as_there_is_room():
    message = success_message(summary(components=1))
    two = add_missing(message, ["1 lines have not\nreached MLflow", "2 lines have not reached W&B"])
    assert remarks(parse_result(two)) == "1 lines have not reached MLflow. 2 lines have not reached W&B"
    assert add_missing(message, []) == message
    assert remarks(parse_result(message)) == ""
    inputs = [f"s3://data/{number}" + "\N{SNOWMAN}" * 9000 for number in range(5)]
    full = add_missing(success_message(summary(components=1), inputs), ["\N{SNOWMAN}" * 900] * 9)
    assert len(full.encode()) <= MAXIMUM_BYTES
    assert len(parse_result(full).changed_inputs) == 5
    many = parse_result(add_missing(message, ["x" * 9000] * 9)).not_tracked
    assert len(many) == 4
    assert len(many[0]) < 1000


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("DataInvalid: line 3: no JSON", Failure("DataInvalid", "line 3: no JSON")),
        ("Succeeded", Failure(None, "Succeeded")),
        ("", Failure(None, "")),
        ("INFO start\nerror: no config\nTraceback: x\n", Failure(None, "no config")),
        ("INFO start\n\nKilled\n", Failure(None, "Killed")),
        ("OOMKilled", Failure(None, "OOMKilled")),
    ],
)
def test_failures(message, expected):
    assert parse_failure(message) == expected


@pytest.mark.parametrize("message", ["", "DataInvalid: x", "{}", '{"steps": 1}', "[]"])
def test_what_is_no_result(message):
    assert parse_result(message) is None


def test_the_last_words_of_a_program_are_read_as_they_were_written():
    first = format_end(ExitCode.DATA_INVALID, "line 3: no JSON\nline 4: no JSON")
    output = f"INFO start\n{format_end(ExitCode.UNEXPECTED, 'an earlier one')}\n{first}\n"
    output += f"{format_end(ExitCode.REWARD_FAILING, 'me, too', rank=1)}\n"
    assert find_end(output) == "line 3: no JSON\nline 4: no JSON"
    stopped = format_end(ExitCode.INTERRUPTED, "told to end")
    assert find_end(stopped) == parse_failure(stopped).message == "told to end"
    assert find_end("INFO the end of error: handling\n") is None


def test_every_reason_is_read_as_one():
    assert {parse_failure(failure_message(code, "text")).reason for code in ExitCode} == {
        code.reason for code in ExitCode
    }


@pytest.mark.parametrize(
    "text", ["short", "a" * 10000, "ü" * 10000, "\n\U0001f600" * 5000, '"\\' * 5000, "\x1b" * 5000]
)
def test_a_verdict_of_any_length_is_whole_json(text):
    message = memory_message(MemoryVerdict(fits=False, message=text))
    assert len(message.encode()) <= MAXIMUM_BYTES
    verdict = parse_memory(message)
    assert verdict is not None
    assert verdict.fits is False
    assert verdict.message[0] == one_line(text)[0]
    assert (verdict.message == text) == (text == "short")


@pytest.mark.parametrize(
    "message", ["", "DoesNotFit: each GPU", "[]", "{}", '{"fits": true}', '{"fits": 2, "message": ""}']
)
def test_other_messages_are_no_verdict(message):
    assert parse_memory(message) is None
