"""What people have said about answers, beside the records of a log: which records it chooses, and what it corrects."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.conversation_logs import read

from rft_api.invocation_reading import LogFiles

DAY = "2026-11-30"


def record(name: str, finish: str = "stop") -> dict[str, Any]:
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": f"answer {name}"}}
    return {
        "schemaType": "ModelInvocationLog",
        "timestamp": f"{DAY}T10:00:00Z",
        "requestId": name,
        "modelId": "m",
        "input": {"inputBodyJson": {"messages": [{"role": "user", "content": f"question {name}"}]}},
        "output": {"outputBodyJson": {"choices": [choice]}},
    }


def said(name: str, time: str = "10:30:00", **fields: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationFeedback",
        "schemaVersion": "1.0",
        "timestamp": f"{DAY}T{time}Z",
        "requestId": name,
        "modelId": "m",
        **fields,
    }


def write(file: Path, *lines: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_bytes(gzip.compress("".join(f"{text}\n" for text in texts).encode()))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of the requests a to d, of which the answer to d was cut off."""
    write(tmp_path / f"{DAY.replace('-', '/')}/10/x.json.gz", *map(record, "abc"), record("d", finish="length"))
    return tmp_path


def write_feedback(log: Path, *lines: Any, hour: str = "10", name: str = "y") -> None:
    write(log / "rft-feedback" / DAY.replace("-", "/") / hour / f"{name}.json.gz", *lines)


def answers(log: Path, **options: Any) -> dict[str, str | None]:
    return {str(prompt.metadata["requestId"]): prompt.answer for prompt in read(log, **options)[0]}


def test_what_was_said_last_counts(log):
    write_feedback(log, said("a", "10:20:00", rating="Down"), said("b", "10:20:00", rating="Up", label="fast"))
    write_feedback(log, said("a", "10:40:00", rating="Up"), said("b", "10:10:00", rating="Down"), name="z")
    assert answers(log, feedback={"rating": "Up"}) == {"a": "answer a", "b": "answer b"}
    assert answers(log, feedback={"rating": "Down"}) == {}
    assert answers(log, feedback={"rating": "Up", "labels": ["fast"]}) == {"b": "answer b"}


def test_a_corrected_answer_is_the_reference(log):
    write_feedback(log, said("a", correctedAnswer="A"), said("d", rating="Down", correctedAnswer="D"))
    assert answers(log) == {"a": "A", "b": "answer b", "c": "answer c", "d": "D"}
    assert answers(log, feedback={"rating": "Up"}) == {"a": "A", "d": "D"}
    assert answers(log, redact={"patterns": [{"pattern": "[AD]"}]})["d"] == "[redacted]"
    # without answers, feedback only chooses
    assert [prompt.answer for prompt in read(log, with_answers=False, feedback={"rating": "Up"})[0]] == [None, None]


def test_what_is_unknown_or_damaged_changes_nothing(log):
    damaged = [said("a", timestamp="yesterday"), said("a", rating="Best"), {"requestId": "a"}, [], "{", "\xff"]
    write_feedback(log, said("z", rating="Up"), *damaged, said("b", rating="Up", more=1))
    prompts, report = read(log, feedback={"rating": "Up"})
    assert [prompt.metadata["requestId"] for prompt in prompts] == ["b"]
    assert report.left_out == {"OtherFeedback": 3}
    assert len(report.unreadable) == 5
    assert all("rft-feedback/2026/11/30/10/y.json.gz:" in text for text in report.unreadable)


def test_feedback_after_the_period_is_not_read(log):
    write_feedback(log, said("a", "10:59:59", rating="Up"), said("a", "11:00:00", rating="Down"), hour="11")
    assert answers(log, feedback={"rating": "Up"}) == {}
    assert list(answers(log, feedback={"rating": "Up"}, to=f"{DAY}T11:00:00Z")) == ["a"]


def test_feedback_is_fetched_beside_the_records_of_a_period():
    files = LogFiles(from_=f"{DAY}T10:00:00Z", to=f"{DAY}T11:00:00Z")
    assert files(f"rft-feedback/{DAY.replace('-', '/')}/10/y.json.gz")
    assert not files("rft-feedback/2026/11/29/10/y.json.gz")
