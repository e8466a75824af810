"""What tenants' pods, files, buckets and code can say is read to a limit, or refused with a sentence."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import tracemalloc
import zlib

import httpx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.patience import PATIENCE_SECONDS
from support.raw_server import drip, drip_headers, endless, raw_server

from rft_api.exact_json import first_fault, parse_row
from rft_api.foreign import yaml_text
from rft_api.foreign.http import Answer, ForeignAnswerError, ask
from rft_api.foreign.names import check_relative_name
from rft_api.foreign.text import one_line
from rft_api.foreign.yaml_text import parse_documents
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[" * 100_000, "is not JSON: it is nested too deeply"),
        (b"[" * 201 + b"]" * 201, "[0] is nested more than 200 levels deep"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "a is nested more than 200 levels deep"),
        (b"9" * 5000, "is an integer of more than 64 bits"),
        (b"1" + b"0" * 900_000, "is an integer of more than 64 bits"),
        (b"NaN", "is NaN, which JSON does not have"),
        (b"[-Infinity]", "[0] is -Infinity, which JSON does not have"),
        (b"1e999", "is too large for a number (1e999)"),
        (b"\xff\xfe", "is not UTF-8 (byte 1 of the line)"),
        (b"{", "is not JSON: "),
        (b"", "is not JSON: "),
    ],
)
def test_answers_in_json_that_are_refused(body, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        Answer(200, body).json()


@settings(max_examples=500, deadline=None)
@given(st.recursive(st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_answers_in_json_that_are_taken(value):
    assert Answer(200, json.dumps(value).encode()).json() == value


@settings(max_examples=10_000, deadline=None)
@given(st.binary(max_size=200) | st.text('[]{},:"0123456789eE+-.\\u dNafItnul', max_size=200).map(str.encode))
def test_any_bytes_are_json_or_refused(body):
    try:
        value = Answer(200, body).json()
    except ValueError:
        return
    assert first_fault(value) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("x\n2026-01-01 ERROR forged\x1b[2J", "x 2026-01-01 ERROR forged\\x1b[2J"),
        ("a\r\nb\tc\x0bd\x85e\u2028f\u2029g", "a b c d e f g"),
        ("price \u202e00.1$", "price \\u202e00.1$"),
        ("\ud83d alone, \x00, \x7f", "\\ud83d alone, \\x00, \\x7f"),
        ("übung 中文 🙂", "übung 中文 🙂"),
    ],
)
def test_a_foreign_text_is_one_line(text, shown):
    assert one_line(text) == shown


def test_what_is_left_out_of_a_text_is_said():
    assert one_line("x" * 1000) == "x" * 1000
    assert one_line("x" * 5_000_000, 10) == "xxxxxxxxxx ... (4,999,990 more characters)"
    assert one_line("\x1b" * 100, 8) == "\\x1b\\x1b ... (98 more characters)"


@settings(max_examples=2000, deadline=None)
@given(st.text(), st.integers(1, 50))
def test_a_shown_text_is_printable_and_bounded(text, maximum):
    line = one_line(text, maximum)
    assert line.isprintable()
    assert len(line) <= maximum + 40


def bomb(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        others = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{others}], k{level}: 1}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb(9), "has aliases that make more than 200,000 values of it"),
        (bomb(9).replace("<<:", "list:"), "has aliases that make more than 200,000 values of it"),
        (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 10_000)}]", "has aliases that make more than 200,000"),
        ("a: &a [*a]", "has an alias of a value that it is part of (line 1)"),
        ("a: &a {b: {c: *a}}", "has an alias of a value that it is part of (line 1)"),
        ("[" * 5000, "is nested more than 100 levels deep"),
        ("\n".join("  " * level + "a:" for level in range(200)), "is nested more than 100 levels deep"),
        (
            "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 600))]),
            "has aliases that nest values more than 100 levels deep",
        ),
        (
            "\n".join(["a0: &a0 {b: 1}", *(f"a{n}: &a{n} {{b: *a{n - 1}}}" for n in range(1, 120))]),
            "has aliases that nest values more than 100 levels deep",
        ),
        ("x: " + "9" * 5000, "is not valid YAML: Exceeds the limit"),
        ("x: 0x" + "f" * 5000, "is not valid YAML: line 1 has an integer of more than 64 bits"),
        ("x: 1\ny: -0b" + "1" * 100_000, "is not valid YAML: line 2 has an integer of more than 64 bits"),
        ("x: 0" + "7" * 100_000, "is not valid YAML: line 1 has an integer of more than 64 bits"),
        ("[1, 0xf" + "_" * 100 + "f" * 16 + "]", "is not valid YAML: line 1 has an integer of more than 64 bits"),
        ("x: " + "9" * 20, "is not valid YAML: line 1 has an integer of more than 64 bits"),
        ("d: 2000-99-99", "is not valid YAML: month must be in 1..12"),
        ("x" * (8 * MEBIBYTE + 1), "is larger than 8 MiB"),
    ],
)
def test_yaml_that_is_refused(text, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        list(parse_documents(text))


@pytest.mark.parametrize("text", ["[" + "1," * 2000 + "\n}", "a\n---\n" * 1001 + "}", "[" + "{a: 1}," * 1001 + "}"])
def test_values_of_yaml_are_counted_as_they_come(monkeypatch, text):
    """What follows is no YAML, but is never looked at: a file of 8 MiB took minutes and gigabytes."""
    monkeypatch.setattr(yaml_text, "MAXIMUM_NODES", 1000)
    with pytest.raises(ValueError, match=r"^has more than 1,000 values$"):
        list(parse_documents(text))


def test_a_number_of_a_million_digits_takes_no_time():
    """It took three seconds and 70 MB, those of a header of 31 MiB minutes and gigabytes."""
    for text in (b"0." + b"1" * 1_000_000, b"1e" + b"0" * 1_000_000, b"9" * 1_000_000, b"1" * 1_000_000 + b".0"):
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"is a number of 1,00|is an integer of more than"):
            parse_row(b'{"a": [%b]}' % text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * MEBIBYTE


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!int _", '!!int ""', '!!float ""', "!!timestamp x", "!!int 0b", "!!binary é", "!!bool [x]",
             "!!set x", "!!omap {a: b}", "!!map x", "!!str {}", "!!float 1.2.3", "? [a]\n: b", "<<: x", "!!x y"]
)  # fmt: skip
def test_values_that_do_not_fit_their_tags_are_refused(text):
    with pytest.raises((ValueError, yaml.YAMLError)) as raised:
        list(parse_documents(f"a: 1\n---\nb:\n  {text}" if "\n" not in text else text))
    assert len(str(raised.value)) < 1000


def test_numbers_of_base_60_are_texts_as_for_kubectl():
    """PyYAML took time that grows with the square of their length."""
    ((_, document),) = parse_documents(f"a: 1:30\nb: 190:20:30.15\nc: {'1' + ':59' * 1_000_000}\nd: !!int 1:2\ne: =\n")
    assert document == {"e": "=", "a": "1:30", "b": "190:20:30.15", "c": "1" + ":59" * 1_000_000, "d": "1:2"}


def test_yaml_that_is_taken():
    documents = [document for _, document in parse_documents("a: &a {b: 1}\nc: [*a, *a]\n---\n---\n- 2\n")]
    assert documents == [{"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}, None, [2]]
    with pytest.raises(yaml.YAMLError, match="python/object"):
        list(parse_documents("x: !!python/object/apply:os.system [id]"))


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "a//x", "./x", "a/.", "a/..", "", "a/", "a\0b", "x" * 1025, "..", "a/../c"],
)
def test_names_that_lead_out_of_a_folder(name):
    with pytest.raises(ValueError, match="is not the name of a file below a folder"):
        check_relative_name(name)


@pytest.mark.parametrize("name", ["x", "a/b/c.jsonl", "..a", "a..", "...", "a b", "ü/中.json", "a\\b", ".hidden"])
def test_names_of_files_below_a_folder(name):
    check_relative_name(name)


def get(url: str, seconds: float, maximum_bytes: int = 65536) -> Answer:
    async def request() -> Answer:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await ask(client, "GET", url, seconds, maximum_bytes)

    return asyncio.run(request())


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"a: b\r\n" * 1000)


def chunks_of_a_byte(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\nx\r\n" * 1000)


def compressed(connection: socket.socket) -> None:
    body = zlib.compress(bytes(MEBIBYTE))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def large_by_its_length(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 100_000)
    time.sleep(60)


def redirect(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "problem"),
    [
        (drip, "does not answer within 0.3 s"),
        (drip_headers, "does not answer within 0.3 s"),
        (lambda connection: time.sleep(60), "does not answer within 0.3 s"),
        (endless, "answers with more than 64 KiB"),
        (chunks_of_a_byte, "answers with more than 64 KiB"),
        (large_by_its_length, "answers with more than 64 KiB"),
        (endless_headers, "cannot be asked: "),
        (compressed, "sends a compressed answer, though none was asked for"),
        (lambda connection: connection.sendall(b"SSH-2.0-x\r\n"), "cannot be asked: "),
        (lambda connection: connection.close(), "cannot be asked: "),
    ],
)
def test_servers_whose_answers_are_refused(serve, problem):
    # Only what never ends meets the deadline; the others are refused however long that takes here.
    seconds = 0.3 if problem == "does not answer within 0.3 s" else PATIENCE_SECONDS
    with raw_server(serve) as url, pytest.raises(ForeignAnswerError, match=problem):
        get(url, seconds)


def test_answers_that_are_read():
    with raw_server(lambda c: c.sendall(b'HTTP/1.1 503 No\r\ncontent-length: 8\r\n\r\n{"a": 1}')) as url:
        answer = get(url, 10)
        assert (answer.status, answer.json(), answer.text()) == (503, {"a": 1}, '{"a": 1}')
    with raw_server(redirect) as url:
        assert get(url, 10).status == 302


@pytest.mark.parametrize("key", ["models/tiny/../../../pwned/.bashrc", "models/tiny//etc/x", "models/tiny/a/../b"])
def test_a_foreign_bucket_writes_nothing_outside_of_the_folder(tmp_path, monkeypatch, key):
    entry = f"<Contents><Key>{key}</Key><Size>1</Size><ETag>x</ETag></Contents>"
    body = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with raw_server(lambda connection: connection.sendall(head + body)) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match="is not the name of a file below a folder; rename it") as raised:
            ObjectStore().fetch("s3://b/models/tiny", tmp_path / "deep" / "target")
    assert raised.value.permanent
    assert list(tmp_path.rglob("*")) == []
