"""What the reader of users' data takes, refuses and says: the same for every command and for training."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import resource
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rft_api.jsonl
import rft_api.tables
from rft_api.data_formats import read_conversations, read_prompts
from rft_api.dataset_files import dataset_files
from rft_api.exact_json import MAXIMUM_NESTING, parse_row
from rft_api.openai_chat import split_row
from rft_api.prompts import Prompt
from rft_api.rows import read_rows
from rft_api.sources import DataSource, WarmupSource

ROWS = [{"messages": [{"role": "user", "content": text}], "reference_answer": text} for text in ("ä", "b", "c")]


def prompts_of(file: Path) -> list[Prompt]:
    problems: list[str] = []
    prompts, _ = read_prompts(DataSource(name="s", uri=str(file), reward="r"), problems)
    assert problems == []
    return prompts


def problems_of(file: Path, content: bytes | str) -> list[str]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems: list[str] = []
    read_prompts(DataSource(name="s", uri=str(file), reward="r"), problems)
    return [problem.removeprefix(str(file)) for problem in problems]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    "content",
    [
        jsonl(ROWS),
        gzip.compress(jsonl(ROWS)),
        gzip.compress(jsonl(ROWS[:1])) + gzip.compress(jsonl(ROWS[1:])),
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2).encode(),
        b"\xef\xbb\xbf\r\n " + json.dumps(ROWS, indent="\t", ensure_ascii=False).replace("\n", "\r\n").encode(),
        gzip.compress(json.dumps(ROWS, indent=2).encode()),
        "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    ],
    ids=["jsonl", "gzip", "gzip in parts", "array", "indented", "windows", "indented gzip", "objects over lines"],
)
def test_the_same_rows_in_every_form(content, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(content)
    prompts = prompts_of(file)
    assert [(p.messages, p.reference_answer) for p in prompts] == [(r["messages"], r["reference_answer"]) for r in ROWS]
    assert [p.id for p in prompts] == ["s-1", "s-2", "s-3"]
    assert [json.loads(row.text) for row in read_rows(file, [])] == ROWS


def test_tables_are_read(tmp_path):
    rows = [{**row, "metadata": {"level": 1}, "when": None} for row in ROWS]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_stream(str(tmp_path / "b.arrow"), table.schema) as stream:
        stream.write_table(table)
    with pyarrow.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        prompts = prompts_of(tmp_path / name)
        assert [p.messages for p in prompts] == [row["messages"] for row in ROWS]
        assert prompts[2].metadata == {"level": 1, "when": None}
        assert prompts[2].id == "s-3"


def test_values_of_tables_that_json_does_not_have(tmp_path):
    file = tmp_path / "a.parquet"
    timestamp = pyarrow.array([0], pyarrow.timestamp("s"))
    columns = {"messages": [ROWS[0]["messages"]], "when": timestamp, "price": [Decimal("1.50")]}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    assert prompts_of(file)[0].metadata == {"when": "1970-01-01T00:00:00", "price": "1.50"}
    for entries, fields in (([("level", "1")], {"level": "1"}), ([(1, "1")], {"1": "1"}), ([], {})):
        kind = pyarrow.map_(pyarrow.int64() if fields == {"1": "1"} else pyarrow.string(), pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table({**columns, "metadata": pyarrow.array([entries], kind)}), file)
        assert prompts_of(file)[0].metadata == {**fields, "when": "1970-01-01T00:00:00", "price": "1.50"}
    problems: list[str] = []
    kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
    twice = pyarrow.array([[("level", "1"), ("level", "2")]], kind)
    pyarrow.parquet.write_table(pyarrow.table({**columns, "metadata": twice}), file)
    assert read_rows(file, problems) == []
    assert "duplicate key was 'level'" in problems[0]
    for value, reason in ((b"x", "is of type bytes"), (float("nan"), "is nan, which JSON does not have")):
        pyarrow.parquet.write_table(pyarrow.table({**columns, "image": [{"data": value}]}), file)
        problems.clear()
        assert read_rows(file, problems) == []
        assert problems[0].startswith(f"{file}: row 1: image.data {reason}")
    file.write_bytes(b"PAR1 and nothing else")
    problems.clear()
    assert read_rows(file, problems) == []
    assert problems[0].startswith(f"{file}: cannot be read as a table: ")


def row(**fields: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "x"}], **fields})


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (row(reference_answer=float("nan")), "reference_answer is NaN, which JSON does not have; write null or a text"),
        (row(a={"b": [1, float("-inf")]}), "a.b[1] is -Infinity, which JSON does not have"),
        (row(a="~").replace('"~"', "1e400"), "a is too large for a number (1e400); write it as a text"),
        (
            row(reference_answer=1180591620717411303424),
            "reference_answer is an integer of more than 64 bits, which programs read differently; write it as a text",
        ),
        (row(metadata={"n": -(2**63) - 1}), "metadata.n is an integer of more than 64 bits"),
        (
            row(messages=[{"role": "user", "content": "x \ud83d"}]),
            "messages[0].content has half of a surrogate pair (\\ud83d), which is no character; correct or remove it",
        ),
        (row(reference_answer=["\udc00 y"]), "reference_answer[0] has half of a surrogate pair (\\udc00)"),
        (row(**{"k\udead": 1}), "k\\udead has a name with half of a surrogate pair (\\udead)"),
        (row(a=deep(MAXIMUM_NESTING)), "a is nested more than 200 levels deep; write the inner part as a text"),
        (row(a=1).replace("1}", "[" * 100_000), "is not JSON: it is nested too deeply"),
        (
            row(reference_answer="1")[:-1] + ', "reference_answer": "2"}',
            "reference_answer is in the object twice, so that programs read different values; remove one of them",
        ),
        (row(a="~").replace('"~"', '{"b": [{"k": 1, "k": 1}]}'), "a.b[0].k is in the object twice"),
        (
            row(reference_answer="~").replace('"~"', "3.14159265358979323846"),
            "reference_answer is rounded when it is read as a number (3.14159265358979323846 becomes "
            "3.141592653589793); write it as a text",
        ),
        (row(a="~").replace('"~"', "123456789.0000000001"), "a is rounded when it is read as a number"),
        (row(a="~").replace('"~"', "9007199254740993.0"), "a is rounded when it is read as a number"),
        (row(a="~").replace('"~"', "1e-400"), "a is rounded when it is read as a number (1e-400 becomes 0.0)"),
        (row(a="~").replace('"~"', "1e-999999999999999999999"), "a is rounded when it is read as a number"),
    ],
    ids=lambda text: text[:40],
)
def test_what_a_later_part_cannot_carry_is_refused_with_its_field(line, problem, tmp_path):
    good = row()
    for content in (f"{good}\n{line}\n", f"[{good},\n{line}]", gzip.compress(f"{good}\n{line}\n".encode())):
        (only,) = problems_of(tmp_path / "data", content)
        if "nested too" not in problem:
            assert only.startswith((f":2: {problem}", f":2: row 2: {problem}"))
        else:
            assert problem in only


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), 0.1, 1e308, "😀 \ud83d\ude00", "NaN", "1" * 30, deep(MAXIMUM_NESTING - 1), "\\ud83d"]
)
def test_what_can_be_carried_comes_through_unchanged(value, tmp_path):
    file = tmp_path / "data"
    file.write_text(row(reference_answer=value))
    (prompt,) = prompts_of(file)
    assert prompt.reference_answer == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "text", ["0.1", "0.10000000000000001", "1.5000000000000000000000", "0.30000000000000004", "1E5", "0e-400", "-0.0",
             "5e-324", "2.2250738585072014e-308", "1.0E23", "100000000000000000000.0"]
)  # fmt: skip
def test_numbers_that_a_program_can_read_again_are_kept(text, tmp_path):
    file = tmp_path / "data"
    file.write_text(row(reference_answer="~").replace('"~"', text))
    (prompt,) = prompts_of(file)
    assert prompt.reference_answer == float(text)


numbers = st.floats() | st.integers(-(2**70), 2**70)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
    max_leaves=8,
)


@given(values)
def test_a_row_is_refused_or_the_reward_server_reads_the_same(value):
    import orjson

    text = json.dumps({"a": value}).encode()
    try:
        parsed = parse_row(text)
    except ValueError:
        with pytest.raises((orjson.JSONDecodeError, AssertionError)):
            assert repr(orjson.loads(text)) == repr(json.loads(text))
    else:
        assert orjson.loads(orjson.dumps(parsed)) == json.loads(text)


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("[]", [": is empty; expected one JSON object per line"]),
        ("[1]", [":1: row 1: must be a JSON object with messages, not int"]),
        ("[1]\n[2]\n", [f":{n}: must be a JSON object with messages, not list" for n in (1, 2)]),
        (f"[{row()},\n\n{{}},\n 3, {row()}]", [":3: row 2: messages is missing", ":4: row 3: must be a JSON object w"]),
        (f"[{row()},\n{row()}", [":2: is not JSON: Expecting ',' or ']'"]),
        (f"[{row()},\n{row()}\n", [":3: is not JSON: Expecting ',' or ']'"]),
        (f"[{row()},\n", [":2: is not JSON: Expecting ']'"]),
        (f"[{row()}\n{row()}]", [":2: is not JSON: Expecting ',' or ']'"]),
        (f"[{row()},\n{row()}]\n]", [":3: is not JSON: Extra data"]),
        (f"[{row()},\n{{'a': 1}}]", [":2: is not JSON: Expecting property name"]),
        (f'[{row()},\n{{"a": "'.encode() + b'\xff"}]', [":2: is not UTF-8 (byte 8 of the line)"]),
        (row().encode("utf-16"), [": is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"]),
        (row().encode("utf-16-le"), [": is UTF-16, not UTF-8"]),
        (row().encode("utf-16-be"), [": is UTF-16, not UTF-8"]),
        (row().encode("utf-32"), [": is UTF-32, not UTF-8; convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"]),
        (row().encode("utf-32-le"), [": is UTF-32, not UTF-8"]),
        (row().encode("utf-32-be"), [": is UTF-32, not UTF-8"]),
        (
            '{"a": "é"}'.encode("latin-1"),
            [":1: is not UTF-8 (byte 8 of the line); if it was written on Windows, convert it: iconv -f WINDOWS-1252"],
        ),
        ("question,answer\n1,2\n3,4\n", [": is a table of texts (CSV), not JSON; convert it: python3 -c "]),
        ('"question"\t"answer"\n1\t2\n', [": is a table of texts (CSV), not JSON"]),
        (f'"x"}}], "reference_answer": "1"}}\n{row()}\n', [":1: is not JSON: Extra data"]),
        (
            f"{row()},\n{row()}\n",
            [":1: is not JSON: Extra data: line 1 column 49 (char 48); write one object per line, without commas"],
        ),
        (b"PK\x03\x04....", [": is compressed with zip; unpack it, or compress it with gzip"]),
        (gzip.compress(jsonl(ROWS))[:-12], [": cannot be unpacked to its end: "]),
        (gzip.compress(b""), [": is empty"]),
        (b"\x1f\x8bnothing", [": "]),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_files_that_cannot_be_read_as_a_whole(content, problems, tmp_path):
    said = problems_of(tmp_path / "data", content)
    assert len(said) == len(problems)
    for problem, start in zip(sorted(said), problems, strict=True):
        assert problem.startswith(start)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    for name in ("MAXIMUM_LINE_BYTES", "MAXIMUM_UNPACKED_BYTES", "MAXIMUM_WHOLE_BYTES"):
        monkeypatch.setattr(rft_api.jsonl, name, 1 << 20)
    long = row(a="x" * (1 << 20))
    file = tmp_path / "data"
    assert problems_of(file, long) == [": has a line of more than 1 MiB"]
    assert problems_of(file, gzip.compress(long.encode())) == [": has a line of more than 1 MiB"]
    many = (row(a="x" * 1000) + "\n").encode() * 2000
    assert problems_of(file, many) == []
    assert problems_of(file, gzip.compress(many)) == [": unpacks to more than 1 MiB; split it"]
    whole = b"[" + many.replace(b"\n", b",") + row().encode() + b"]"
    for content in (whole, gzip.compress(whole)):
        (problem,) = problems_of(file, content)
        assert problem.startswith(
            ": is a JSON array of more than 1 MiB, which is read whole; write one object per line"
        )


def test_rows_are_counted(tmp_path, monkeypatch):
    """Each takes some 500 bytes of memory, also where its line has two: 4 MB of gzip took half a terabyte."""
    monkeypatch.setattr(rft_api.jsonl, "MAXIMUM_ROWS", 1000)
    file, refusal = tmp_path / "data", ": has more than 1,000 rows; split it"
    for content in (b"{}\n" * 1001, gzip.compress(b"{}\n" * 1001), b"[" + b"{}," * 1000 + b"{}]", b"x\n" * 1001):
        assert refusal in problems_of(file, content)
        assert len(problems_of(file, content)) <= 1001
    assert refusal not in problems_of(file, b"\n" * 5000 + b"{}\n" * 1000)


def arrow(columns: dict[str, Any], **options: Any) -> bytes:
    batch, sink = pyarrow.record_batch(columns), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, batch.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def shared() -> pyarrow.DictionaryArray:
    """Rows that share a text."""
    text = pyarrow.array(["x" * (4 << 20)])
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), text)


def list_without_values() -> pyarrow.ListArray:
    return pyarrow.ListArray.from_arrays([0, 10**9], pyarrow.nulls(10**9))


def runs() -> pyarrow.RunEndEncodedArray:
    """One value for any number of rows."""
    kind = pyarrow.run_end_encoded(pyarrow.int32(), pyarrow.string())
    return pyarrow.RunEndEncodedArray.from_arrays([2**31 - 1], ["x"], kind)


# The files are made by their tests: what is made here would take memory in every process that collects tests.
@pytest.mark.parametrize(
    ("write", "problem"),
    [
        # A column without values takes no bytes at all, whatever its length.
        (lambda: arrow({"a": pyarrow.nulls(10**9)}), ": has more than 5,000,000 rows; split it"),
        (lambda: arrow({"a": shared()}), ": takes more than 64 MiB of memory to unpack"),
        (lambda: parquet({"a": pyarrow.array(["x" * (1 << 20)] * 100)}), ": takes more than 64 MiB of memory"),
        (lambda: arrow({"a": pyarrow.array([[None]], pyarrow.list_(pyarrow.null()))}), None),
        (lambda: arrow({"a": list_without_values()}), ": takes more than 64 MiB of memory to unpack"),
        (lambda: arrow({"a": runs()}), ": has more than 5,000,000 rows; split it"),
        # Zeros, which are compressed to nothing.
        (lambda: arrow({"a": pyarrow.array(["\0" * (96 << 20)])}, compression="zstd"), ": takes more than 64"),
    ],
    ids=["nulls", "shared", "dictionary", "taken", "list", "runs", "zeros"],
)
def test_tables_that_unpack_to_any_size(write, problem, tmp_path, monkeypatch):
    content = write()
    assert len(content) < 6 << 20
    monkeypatch.setattr(rft_api.tables, "MAXIMUM_BYTES", 64 << 20)
    file = tmp_path / "data"
    file.write_bytes(content)
    problems: list[str] = []
    limit = resource.getrlimit(resource.RLIMIT_AS)
    rows = read_rows(file, problems)
    if problem is None:
        assert (len(rows), problems) == (1, [])
    else:
        (said,) = problems
        # What a batch takes may also be counted after it was unpacked, in memory that was free.
        assert said.removeprefix(str(file)).startswith((problem, ": holds more than 64 MiB"))
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


USER, SYSTEM = {"role": "user", "content": "Hi?"}, {"role": "system", "content": "Answer in one word."}


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"system": "Answer in one word."}, [SYSTEM, USER]),
        ({"system": [{"text": "Answer in "}, {"text": "one word."}]}, [SYSTEM, USER]),
        ({"system": None, "tools": []}, [USER]),
        ({"tools": "[]", "functions": None}, [USER]),
        ({"messages": json.dumps([USER])}, [USER]),
        ({"messages": [{**USER, "tool_calls": None, "function_call": None}]}, [USER]),
        ({"messages": [{"role": "user", "content": [{"text": "Hi"}, {"type": "text", "text": "?"}]}]}, [USER]),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Hi?"}]}], "toolConfig": {}},
            [USER],
        ),
    ],
)
def test_system_and_parts_of_text(fields, messages):
    chat = split_row({"messages": [USER], "reference_answer": "Hello", **fields}, "prompt")
    assert (chat.messages, chat.reference_answer, chat.metadata) == (messages, "Hello", {})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tools": [{"type": "function"}]}, "tools: definitions of tools are not supported yet; leave the field out"),
        ({"tools": '[{"name": "search"}]'}, "tools: definitions of tools are not supported yet; leave the field out"),
        ({"functions": [{"name": "search"}]}, "functions: definitions of tools are not supported yet; leave the field"),
        (
            {"messages": [USER, {"role": "assistant", "content": "", "function_call": {"name": "search"}}, USER]},
            "messages[1].function_call: tool calls are not supported",
        ),
        ({"toolConfig": {"tools": [{}]}}, "toolConfig: definitions of tools are not supported yet; leave the field"),
        ({"system": 3}, "system must be text"),
        ({"system": [{"image": {}}]}, "system may hold text parts only"),
        (
            {"system": "x", "messages": [SYSTEM, USER]},
            "system: messages begins with a system message already; keep",
        ),
        ({"messages": [{"role": "user", "content": ""}]}, "the prompt is empty: no message has a text"),
        ({"messages": "[{]"}, "messages: is not JSON: "),
        ({"messages": '[{"role": "user", "content": "x", "content": "y"}]'}, "content is in the object twice"),
        ({"messages": "Hi?"}, "messages must be a list with at least one message"),
        ({"messages": [{"role": "user", "content": [{"text": " \n"}]}]}, "the prompt is empty"),
        ({"messages": [{"role": "user", "content": "\u200b\ufeff\t"}]}, "the prompt is empty: no message has a text"),
        (
            {"messages": [SYSTEM, {"role": "user", "content": " "}]},
            "the prompt is empty: the user's last message has no text",
        ),
        ({"messages": [{"role": "user", "content": ""}], "system": "x"}, "the prompt is empty: the user's last"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}, {"image": {}}]}]}, "messages[0].content may hold"),
        (
            {"messages": [USER, SYSTEM]},
            "the last message must be the user's, not the system's; an expected answer goes",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": "Hello"}]},
            "the last message must be the user's, not the assistant's; an expected answer goes to reference_answer: "
            "rft data convert FILE --from OpenAIChat --output NEW moves it",
        ),
        (
            {"messages": None, "conversations": []},
            "messages is missing; rft data convert FILE --from ShareGPT --output NEW reads conversations",
        ),
        ({"messages": None, "instruction": "x", "prompt": ""}, "messages is missing; rft data convert FILE --from Alp"),
        (
            {"messages": None, "text": "x"},
            "messages is missing; name the fields of the prompt and of the answer: rft data convert FILE --from "
            "QuestionAnswer --prompt-field NAME --answer-field NAME --output NEW",
        ),
        (
            {"messages": None, "item": {"messages": [USER]}},
            "messages is missing; it is in item: jq -c '.item' FILE > NEW",
        ),
        (
            {"messages": None, "data": [{"messages": [USER]}]},
            "messages is missing; the rows are in data: jq -c '.data[]' FILE > NEW",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the last message must be the user's, not the assistant's; an expected answer goes to reference_answer",
        ),
    ],
)
def test_rows_that_cannot_be_prompts(fields, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        split_row({"messages": [USER], **fields}, "prompt")


def test_the_assistant_of_data_for_nova(tmp_path):
    turns = [USER, {"role": "nova_assistant", "content": "Hello"}]
    assert split_row({"messages": turns}, "completion").messages[-1] == {"role": "assistant", "content": "Hello"}


def test_a_tool_may_answer_nothing():
    tool = {"role": "tool", "content": ""}
    assert split_row({"messages": [USER, tool]}, "prompt").messages == [USER, tool]


def test_warm_up_needs_a_prompt_too(tmp_path):
    file = tmp_path / "w.jsonl"
    answer = {"role": "assistant", "content": "Hello"}
    file.write_bytes(jsonl([{"messages": [{"role": "user", "content": ""}, answer]}, {"messages": [answer]}]))
    problems: list[str] = []
    assert read_conversations(WarmupSource(name="w", uri=str(file)), problems) == ([], None)
    assert problems == [f"{file}:{n}: the prompt is empty: no message has a text" for n in (1, 2)]


def test_thoughts_beside_an_answer_are_not_left_out_of_what_is_imitated(tmp_path):
    file = tmp_path / "w.jsonl"
    answer = {"role": "assistant", "content": "Hello"}
    rows = [
        {"messages": [USER, {**answer, "reasoning_content": "A greeting."}]},
        {"messages": [USER, {**answer, "thinking": None}]},
        {"messages": [USER, {**answer, "thinking": "A greeting."}, USER, answer]},
        {"messages": json.dumps([USER, answer])},
    ]
    file.write_bytes(jsonl(rows))
    problems: list[str] = []
    conversations, _ = read_conversations(WarmupSource(name="w", uri=str(file)), problems)
    assert [conversation.line for conversation in conversations] == [2, 3, 4]
    assert problems == [
        f"{file}:1: messages[1].reasoning_content: only content is imitated; write it there in the form in which the "
        "model thinks, or leave it out"
    ]


def test_the_answer_of_either_place_and_all_further_fields():
    nested = {
        "messages": [USER],
        "reference_answer": None,
        "metadata": {"reference_answer": "a", "level": 1},
        "level": 2,
    }
    chat = split_row(nested, "prompt")
    assert chat.reference_answer == "a"
    assert chat.metadata == {"reference_answer": "a", "level": 2}


@pytest.mark.parametrize(
    ("names", "split", "files"),
    [
        (["b.jsonl", "a.jsonl.gz", "README.md", ".cache/x.json", "state.json"], None, ["a.jsonl.gz", "b.jsonl"]),
        (["data/train-0.parquet", "data/test-0.parquet", "x.json"], "train", ["data/train-0.parquet"]),
        (["dataset_dict.json", "train/a.arrow", "train/state.json", "test/a.arrow"], "test", ["test/a.arrow"]),
        (["data.jsonl", "dev.jsonl"], "train", ["data.jsonl"]),
        (["val.json", "eval.json"], "validation", ["val.json"]),
        (["constraint.json", "latest.json"], None, ["constraint.json", "latest.json"]),
        (["a.JSONL", "b.Json.GZ", "c.jsonl.zst"], None, ["a.JSONL", "b.Json.GZ", "c.jsonl.zst"]),
        (["A.PARQUET", "notes.json"], None, ["A.PARQUET"]),
        (["train.parquet", "test.jsonl"], "train", ["train.parquet"]),
    ],
)  # fmt: skip
def test_the_files_of_a_folder(names, split, files):
    assert dataset_files(names, split) == files


@pytest.mark.parametrize("split", [None, "train"])
def test_lines_beside_tables_are_not_left_out_unsaid(split):
    with pytest.raises(ValueError, match=r"^has rows in tables \(a.parquet\) and in JSONL \(b.jsonl.gz\)"):
        dataset_files(["a.parquet", "b.jsonl.gz", "state.json"], split)


def test_a_compressed_file_in_a_folder_is_not_left_out_unsaid(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "b.jsonl.bz2").write_bytes(bz2.compress(jsonl(ROWS)))
    problems: list[str] = []
    read_rows(tmp_path, problems)
    assert problems == [f"{tmp_path / 'b.jsonl.bz2'}: is compressed with bzip2; unpack it, or compress it with gzip"]


def test_rows_of_a_folder_are_counted_through(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(jsonl(ROWS))
    assert [prompt.id for prompt in prompts_of(tmp_path)] == [f"s-{n}" for n in range(1, 7)]
    (tmp_path / "b.jsonl").write_text("{")
    problems: list[str] = []
    read_rows(tmp_path, problems)
    assert problems[0].startswith(f"{tmp_path / 'b.jsonl'}:1: is not JSON")
    (tmp_path / "empty").mkdir()
    problems.clear()
    assert read_rows(tmp_path / "empty", problems) == []
    assert problems == [f"{tmp_path / 'empty'}: holds no data: no file in JSONL, JSON, Parquet or Arrow"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_command_that_converts_a_table_of_texts_keeps_its_columns(tmp_path, separator, mark):
    table = f"{mark}question{separator}answer\nWhat?{separator}that\n"
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    problems: list[str] = []
    read_rows(tmp_path / "t.csv", problems)
    command = problems[0].partition("convert it: ")[2].replace("FILE", "t.csv").replace("NEW", "t.jsonl")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {"question": "What?", "answer": "that"}
