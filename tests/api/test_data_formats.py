"""The table of data formats, and the reader of JSONL that its entries and the command line share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from rft_api.data_formats import FORMATS, file_filter, read_conversations, read_prompts
from rft_api.invocation_log import InvocationLog
from rft_api.rows import read_rows
from rft_api.sources import DataSource, FormatName, Source, WarmupSource

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_format_of_the_schema_has_an_entry_and_is_explained():
    assert tuple(FORMATS) == get_args(FormatName)
    for name, entry in FORMATS.items():
        assert entry.name == name
        assert f"{name}: {entry.description}" in " ".join((Source.model_fields["format"].description or "").split())
        assert f"format: {name}" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_missing_is_a_problem_in_every_format(name, tmp_path):
    gone = str(tmp_path / "gone")
    problems: list[str] = []
    assert read_prompts(DataSource(name="s", uri=gone, reward="r", format=name), problems) == ([], None)
    assert read_conversations(WarmupSource(name="s", uri=gone, format=name), problems) == ([], None)
    assert problems == [f"{gone}: No such file or directory"] * 2


def test_equal_filters_choose_alike():
    march = InvocationLog.model_validate({"from": "2025-03-11T00:00:00Z"})
    log = DataSource(name="s", uri="s3://b/k", reward="r", format="BedrockInvocationLog", invocation_log=march)
    same = log.model_copy(update={"invocation_log": march.model_copy(update={"limit": 1})})
    assert file_filter(log) == file_filter(same)
    assert hash(file_filter(log)) == hash(file_filter(same))
    assert file_filter(log) != file_filter(log.model_copy(update={"invocation_log": None}))


def test_lines_of_windows_tools(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "\xc3\xbc"}')
    problems: list[str] = []
    lines = read_rows(file, problems)
    assert problems == []
    assert [(line.number, line.row, line.text) for line in lines] == [
        (1, {"a": 1}, b'{"a": 1}'),
        (4, {"a": "ü"}, '{"a": "ü"}'.encode()),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", ":1: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'\n{"a": "\xff"}', ":2: is not UTF-8 (byte 8 of the line)"),
        (b"3", ":1: must be a JSON object with messages, not int"),
        (b"[" * 100_000, ":1: is not JSON: it is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", ":1: a is an integer of more than 64 bits"),
        (b"\n \n", ": is empty; expected one JSON object per line"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, content, problem):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    problems: list[str] = []
    assert read_rows(file, problems) == []
    assert len(problems) == 1
    assert problems[0].startswith(f"{file}{problem}")


def test_a_bad_line_hides_no_other(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{\n{"a": 2}\n[]\n')
    problems: list[str] = []
    assert [line.row["a"] for line in read_rows(file, problems)] == [1, 2]
    assert [problem.removeprefix(f"{file}:").partition(":")[0] for problem in problems] == ["2", "4"]
    assert json.loads(read_rows(file, [])[1].text) == {"a": 2}
