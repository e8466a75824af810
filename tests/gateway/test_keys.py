"""Keys: which tokens open, which never do, and what a document that is wrong says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import random
import re
import string
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.pages import page
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_key import InvalidKey, KeyData, make_token, parse_secret, secret_document, token_digest
from rft_gateway import keys
from rft_gateway.keys import Key, KeyFolder, KeyRing, Limits

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


def write_key(folder: Path, name: str, token: str, namespace: str = "team-a", **values: Any) -> Path:
    file = folder / f"{namespace}.{name}.yaml"
    document = secret_document(Key(name, namespace, token_digest(token)))
    document["stringData"] |= values
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def open_folder(path: Path) -> tuple[KeyRing, KeyFolder]:
    ring = KeyRing(clock=NOW.timestamp)
    return ring, KeyFolder(path, ring)


def open_ring(path: Path) -> KeyRing:
    return open_folder(path)[0]


def test_a_token_opens_what_its_document_says(tmp_path):
    token = make_token()
    write_key(
        tmp_path, "ci", token, models="tax, tax-v2", expires="2027-01-31T14:00:00+01:00", requestsPerMinute="60",
        tokensPerMinute="1000", tokensPerDay="20000", tokensPerMonth="300000", parallelRequests="4\n",
    )  # fmt: skip
    key = open_ring(tmp_path).find(token)
    expires = datetime(2027, 1, 31, 13, tzinfo=UTC)
    limits = Limits(60, 1000, 20_000, 300_000, 4)
    assert key == Key("ci", "team-a", token_digest(token), ("tax", "tax-v2"), expires, limits)
    assert parse_secret(secret_document(key)) == key


def test_a_token_is_long_and_its_own():
    tokens = {make_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(re.fullmatch("rft-[0-9A-Za-z]{43}", token) for token in tokens)
    assert set("".join(tokens)) == set(string.ascii_letters + string.digits + "-")
    assert token_digest("rft-a") == hashlib.sha256(b"rft-a").hexdigest()


def test_ten_thousand_other_tokens_open_nothing(tmp_path):
    """Wrong, foreign, revoked, expired and malformed ones; the right one opens before and after."""
    chance = random.Random(22)
    token, revoked, expired, broken = (make_token() for _ in range(4))
    write_key(tmp_path, "ci", token)
    revoked_file = write_key(tmp_path, "old", revoked)
    write_key(tmp_path, "past", expired, expires="2027-01-31T12:00:00Z")
    write_key(tmp_path, "broken", broken, tokensPerDay="many")
    ring, files = open_folder(tmp_path)
    assert ring.find(revoked) is not None
    revoked_file.unlink()
    files.refresh()
    characters = string.ascii_letters + string.digits

    def near() -> str:
        """The token with one character changed, left out or added."""
        position, character = chance.randrange(len(token)), chance.choice(characters + "-_ \n\0é")
        kept = token[position + chance.randrange(2) :]
        return f"{token[:position]}{character * chance.randrange(2)}{kept}"

    makers: list[Callable[[], str]] = [
        near,
        lambda: "rft-" + "".join(chance.choices(characters, k=43)),
        lambda: "sk-" + "".join(chance.choices(characters, k=48)),
        lambda: chance.choice([revoked, expired, broken]),
        lambda: token_digest(token),
        lambda: "".join(map(chr, chance.choices(range(0x10000), k=chance.randrange(80)))),
        lambda: token * chance.randrange(2, 50),
        lambda: chance.choice([token.upper(), token.lower(), f" {token}", f"{token}\n", f"Bearer {token}", "rft-", ""]),
    ]
    others = 0
    while others < 10_000:
        text = chance.choice(makers)()
        if text != token:
            others += 1
            assert ring.find(text) is None, text
    assert ring.find(token).name == "ci"


@pytest.fixture(scope="module")
def empty_ring(tmp_path_factory):
    return open_ring(tmp_path_factory.mktemp("keys"))


@given(st.text() | st.from_regex("rft-[0-9A-Za-z]{43}", fullmatch=True))
def test_no_text_raises_or_opens(empty_ring, text):
    assert empty_ring.find(text) is None


def test_digests_are_compared_in_constant_time(tmp_path, monkeypatch):
    """What is compared has one length, is no token, and is compared for tokens that have no key, too."""
    compared = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    class Hmac:
        compare_digest = staticmethod(compare)

    token, other = make_token(), make_token()
    write_key(tmp_path, "ci", token)
    ring = open_ring(tmp_path)
    monkeypatch.setattr(keys, "hmac", Hmac)
    assert ring.find(token) is not None
    assert ring.find(other) is None
    assert compared == [(token_digest(token), token_digest(token)), ("0" * 64, token_digest(other))]


def test_an_end_date_is_looked_at_with_every_request(tmp_path):
    now = NOW.timestamp()
    token = make_token()
    write_key(tmp_path, "ci", token, expires="2027-01-31T12:00:10Z")
    ring = KeyRing(clock=lambda: now)
    KeyFolder(tmp_path, ring)
    assert ring.find(token) is not None
    now += 9.999
    assert ring.find(token) is not None
    now += 0.001
    assert ring.find(token) is None


def test_what_changes_in_the_folder_is_seen(tmp_path):
    tokens = [make_token() for _ in range(3)]
    paths = [write_key(tmp_path, f"key-{index}", token) for index, token in enumerate(tokens)]
    ring, files = open_folder(tmp_path)
    paths[0].unlink()
    paths[1].rename(tmp_path / ".hidden.yaml")
    files.refresh()
    assert [key.name for key in ring.keys] == ["key-2"]
    # The same size at the same time: what is replaced has another inode, and what was written just now is read again.
    content = paths[2].read_text()
    times = paths[2].stat()
    paths[2].write_text(content.replace(token_digest(tokens[2]), "a" * 64))
    os.utime(paths[2], ns=(times.st_atime_ns, times.st_mtime_ns))
    files.refresh()
    assert ring.find(tokens[2]) is None
    paths[2].write_text(content)
    files.refresh()
    assert ring.find(tokens[2]) is not None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["write", "delete", "spoil", "rename"])), max_size=12))
def test_after_any_changes_exactly_the_tokens_of_valid_documents_open(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("keys")
    (ring, files), every, opening = open_folder(folder), set(), {}
    for number, change in changes:
        file = folder / f"{number}.yaml"
        opening.pop(number, None)
        match change:
            case "write":
                opening[number] = make_token()
                every.add(opening[number])
                file.write_text(
                    yaml.safe_dump(secret_document(Key(f"key-{number}", "a", token_digest(opening[number]))))
                )
            case "delete":
                file.unlink(missing_ok=True)
            case "spoil":
                file.write_text(f"{file.read_text() if file.exists() else ''}expires: 2027-01-31\n")
            case "rename" if file.exists():
                file.rename(file.with_suffix(".old"))
        files.refresh()
        assert {token for token in every if ring.find(token)} == set(opening.values())


def test_files_that_have_not_changed_are_not_read_again(tmp_path, monkeypatch):
    for index in range(3):
        write_key(tmp_path, f"key-{index}", make_token())
    monkeypatch.setattr(keys, "_SETTLING_SECONDS", -3600.0)
    ring, files = open_folder(tmp_path)
    read = []
    monkeypatch.setattr(keys, "read_key_file", lambda path: read.append(path.name) or keys.KeyFile(path))
    files.refresh()
    assert read == []
    token = make_token()
    write_key(tmp_path, "key-1", token, models="a")
    files.refresh()
    assert read == ["team-a.key-1.yaml"]
    assert len(ring.keys) == 2


def test_a_key_is_revoked_while_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "WATCH_SECONDS", 0.01)
    revoked, kept, new = make_token(), make_token(), make_token()
    file = write_key(tmp_path, "old", revoked)
    write_key(tmp_path, "kept", kept)

    async def until(holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        ring, files = open_folder(tmp_path)
        watch = asyncio.create_task(files.watch())
        async with asyncio.timeout(PATIENCE_SECONDS):
            file.unlink()
            await until(lambda: ring.find(revoked) is None)
            write_key(tmp_path, "new", new)
            await until(lambda: ring.find(new) is not None)
        assert ring.find(kept) is not None
        watch.cancel()

    assert keys.WATCH_SECONDS <= 1
    asyncio.run(scenario())


def test_the_watch_survives_what_nobody_expects(tmp_path, monkeypatch, caplog):
    """A fault of the program while it looks closes all keys until it has looked again."""
    monkeypatch.setattr(keys, "WATCH_SECONDS", 0.0)
    token = make_token()
    write_key(tmp_path, "ci", token)
    ring, files = open_folder(tmp_path)
    real, looks = files.refresh, []

    def refresh() -> None:
        looks.append(ring.find(token) is not None)
        if len(looks) == 1:
            raise RuntimeError("unforeseen")
        real()

    monkeypatch.setattr(files, "refresh", refresh)

    async def scenario() -> None:
        watch = asyncio.create_task(files.watch())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(looks) < 3:
                await asyncio.sleep(0.01)
        watch.cancel()

    asyncio.run(scenario())
    assert looks[:3] == [True, False, True]
    assert "unforeseen" in caplog.text


def test_without_the_folder_no_key_opens(tmp_path, caplog):
    folder = tmp_path / "keys"
    with pytest.raises(FileNotFoundError):
        open_ring(folder)
    folder.mkdir()
    token = make_token()
    file = write_key(folder, "ci", token)
    ring, files = open_folder(folder)
    file.rename(tmp_path / file.name)
    folder.rmdir()
    files.refresh()
    assert ring.find(token) is None
    assert ring.errors == [f"{folder}: no key opens anything: No such file or directory"]
    assert ring.errors[0] in caplog.text
    folder.mkdir()
    (tmp_path / file.name).rename(file)
    files.refresh()
    assert ring.find(token) is not None
    assert ring.errors == []


BAD_FILES = {
    "syntax.yaml": (b"apiVersion: v1\nkind: [Secret\n", ":3: is not valid YAML: "),
    "twice.yaml": (b"kind: Secret\nkind: Secret\n", ":2: is not valid YAML: kind is given twice"),
    "binary.yaml": (b"\xff\xfe\x00", ": is not UTF-8 text"),
    "large.yaml": (b"#" * (1 << 20) + b"#", ": is larger than 1 MiB"),
    "list.yaml": (b"- a\n", ":1: a key is a Secret: a mapping of fields"),
    "deep.yaml": (b"[" * 500, ": is nested more than 100 levels deep (line 1)"),
    "alias.yaml": (b"a: &a [*a]\n", ": has an alias of a value that it is part of (line 1)"),
}


def test_bad_files_close_no_other(tmp_path, caplog):
    token = make_token()
    for name, (content, _) in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    write_key(tmp_path, "ci", token)
    (tmp_path / "notes.txt").write_text("no key")
    ring, files = open_folder(tmp_path)
    files.refresh()
    assert [key.name for key in ring.keys] == ["ci"]
    assert ring.find(token) is not None
    expected = {name: f"{tmp_path / name}{message}" for name, (_, message) in BAD_FILES.items()}
    expected |= {
        "fifo.yaml": f"{tmp_path}/fifo.yaml: is no regular file",
        "folder.yaml": f"{tmp_path}/folder.yaml: Is a directory",
        "gone.yaml": f"{tmp_path}/gone.yaml: No such file or directory",
    }
    assert len(ring.errors) == len(expected)
    for error, start in zip(ring.errors, (expected[name] for name in sorted(expected)), strict=True):
        assert error.startswith(start)
        assert caplog.messages.count(error) == 1  # and not with every look at the folder


def test_documents_of_one_file_do_not_close_each_other(tmp_path):
    tokens = [make_token() for _ in range(3)]
    documents = [secret_document(Key(f"key-{index}", "a", token_digest(token))) for index, token in enumerate(tokens)]
    documents[1]["stringData"]["expires"] = "tomorrow"
    file = tmp_path / "all.yml"
    file.write_text(yaml.safe_dump_all(documents) + "--- [\n")
    ring = open_ring(tmp_path)
    assert [ring.find(token) is not None for token in tokens] == [True, False, True]
    first, second = ring.errors
    assert first == f"{file}:11: stringData.expires: must be a timestamp such as 2027-01-31T12:00:00Z"
    assert second.startswith(f"{file}:")
    assert "is not valid YAML" in second


def test_a_second_document_closes_no_first_one(tmp_path):
    token, other = make_token(), make_token()
    first = write_key(tmp_path, "ci", token)
    (tmp_path / "zz-name.yaml").write_text(yaml.safe_dump(secret_document(Key("ci", "team-a", token_digest(other)))))
    (tmp_path / "zzz.yaml").write_text(yaml.safe_dump(secret_document(Key("ci", "team-b", token_digest(token)))))
    ring = open_ring(tmp_path)
    assert ring.find(token).namespace == "team-a"
    assert ring.find(other) is None
    assert ring.errors == [
        f"{tmp_path}/zz-name.yaml: metadata.name: key ci of namespace team-a is already defined in {first}",
        f"{tmp_path}/zzz.yaml: digest: key ci of namespace team-b has the digest of a key in {first}",
    ]


def document(**changes: Any) -> dict[str, Any]:
    return secret_document(Key("ci", "team-a", "0" * 64)) | changes


def data(**values: Any) -> dict[str, Any]:
    return document(stringData={"digest": "0" * 64} | values)


COUNT = 'must be a whole number of at least 1 in digits, such as "1000000"'
DIGEST = "must be the SHA-256 of a token in 64 hexadecimal digits, as rft keys create writes it"
TEXT = "must be a string, as all values of a Secret: write it in quotes"
MODELS = "must be names of models with commas between them, such as tax,tax-v2"
TOO_MANY = (
    "names more than 1,000 models: share them among several keys, or leave the field out to open all models of the "
    "namespace"
)
NO_MODEL = "names no model; leave the field out to open all models of the namespace"
TIME = "must be a timestamp such as 2027-01-31T12:00:00Z"
LABEL = 'metadata.labels: must have rft.dev/gateway-key: "true"'


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ([], "a key is a Secret: a mapping of fields"),
        (document(kind="ConfigMap"), "kind: must be Secret, with apiVersion v1"),
        (document(apiVersion="v2"), "kind: must be Secret, with apiVersion v1"),
        (document(expires="2027-01-31T12:00:00Z"), "expires: unknown field"),
        (document(metadata=None), "metadata: must be a mapping of fields"),
        (document(metadata={"name": "ci"}), LABEL),
        (document(metadata={"name": "ci", "labels": {"rft.dev/gateway-key": "false"}}), LABEL),
        (document(metadata={"labels": {"rft.dev/gateway-key": "true"}}), "metadata.name: is required"),
        (document(stringData=None), "stringData.digest: is required"),
        (document(stringData=["digest"]), "stringData: must be a mapping of names to texts"),
        (document(stringData={1: "a"}), "stringData: must be a mapping of names to texts"),
        (data(digest="rft-" + "a" * 43), f"stringData.digest: {DIGEST}"),
        (data(digest="A" * 64), f"stringData.digest: {DIGEST}"),
        (data(digest=None), f"stringData.digest: {TEXT}"),
        (data(tokensPerDays="1"), "stringData.tokensPerDays: unknown field; did you mean tokensPerDay?"),
        (data(tokens_per_day="1"), "stringData.tokens_per_day: unknown field; did you mean tokensPerDay?"),
        (data(tokensPerDay=1000), f"stringData.tokensPerDay: {TEXT}"),
        (data(tokensPerDay=None), f"stringData.tokensPerDay: {TEXT}"),
        *((data(requestsPerMinute=value), f"stringData.requestsPerMinute: {COUNT}")
          for value in ("", "0", "-1", "1.5", "1e3", "1k", "١", "1" + 15 * "0" + "1", "1" * 400)),
        (data(models=" "), f"stringData.models: {NO_MODEL}"),
        (data(models="a,,b"), f"stringData.models: {MODELS}"),
        (data(models="a b"), f"stringData.models: {MODELS}"),
        *((data(expires=value), f"stringData.expires: {TIME}")
          for value in ("", "never", "2027-01-31", "2027-01-31T12:00:00", "2027-02-31T12:00:00Z", "1769860800",
                        "0001-01-01T00:00:00+23:00")),
        (data(expires=NOW), f"stringData.expires: {TEXT}"),
        (document(data={"digest": "%"}, stringData=None),
         "data.digest: is not text in base64; write texts into stringData"),
        (document(data={"digest": "/w=="}, stringData=None),
         "data.digest: is not text in base64; write texts into stringData"),
        (document(data={"digest": "MA=="}, stringData=None), f"data.digest: {DIGEST}"),
        (data(models=",".join(map(str, range(1001)))), f"stringData.models: {TOO_MANY}"),
        (data(models="m" * 65_537), "stringData.models: is longer than 64 KiB, and no value of a key is"),
        (document(data={"models": "bW1t" * 100_000}, stringData=None),
         "data.models: is longer than 64 KiB, and no value of a key is"),
        (document(data={f"k{number}": "" for number in range(100_000)}),
         "data: has 100,000 fields, and a key has at most 64"),
        ({**document(), **{f"k{number}": "" for number in range(100_000)}},
         "has 100,004 fields, and a key has at most 64"),
        (data(tokensPerDay="0", expires="?"), f"stringData.expires: {TIME}; stringData.tokensPerDay: {COUNT}"),
    ],
)  # fmt: skip
def test_a_bad_document_says_which_field_is_wrong(secret, message):
    with pytest.raises(InvalidKey) as caught:
        parse_secret(secret)
    assert str(caught.value) == message


def test_a_key_opens_a_thousand_models():
    names = [f"{number:0>60}" for number in range(1000)]
    assert parse_secret(data(models=", ".join(names))).models == tuple(names)


def test_a_secret_of_the_api_server_is_read():
    """It has base64 in data, often with a line end of the shell, and metadata of its own."""
    encoded = {
        name: base64.b64encode(value.encode()).decode()
        for name, value in {"digest": "a" * 64 + "\n", "tokensPerDay": "5\n"}.items()
    }
    secret = document(data=encoded, type="Opaque", immutable=True)
    secret["metadata"] |= {"creationTimestamp": "2027-01-01T00:00:00Z", "resourceVersion": "7", "managedFields": []}
    secret["stringData"] = {"tokensPerDay": "6"}
    assert parse_secret(secret) == Key("ci", "team-a", "a" * 64, limits=Limits(tokens_per_day=6))


def test_a_token_in_the_wrong_field_is_not_shown(tmp_path, caplog):
    token = make_token()
    for index, field in enumerate(["digest", *(field.alias for field in KeyData.model_fields.values())]):
        write_key(tmp_path, f"key-{index}", make_token(), **{field: f"{token} {token}"})
    (tmp_path / "plain.yaml").write_text(token)
    ring = open_ring(tmp_path)
    assert ring.keys == []
    assert len(ring.errors) == len(caplog.messages) == 10
    assert token not in caplog.text


names = st.text("ab-1", min_size=1, max_size=5).filter(lambda name: name.strip("-") == name)
counts = st.none() | st.integers(1, 10**15)


@given(
    st.builds(
        Key,
        names,
        names,
        st.text("0123456789abcdef", min_size=64, max_size=64),
        st.lists(st.text("aZ/.:_-", min_size=1, max_size=9), max_size=3, unique=True).map(tuple),
        st.none()
        | st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1)).map(
            lambda time: time.replace(microsecond=0)
        ),
        st.builds(Limits, counts, counts, counts, counts, counts),
    )
)
def test_a_written_key_is_read_as_it_was(key):
    assert parse_secret(yaml.safe_load(yaml.safe_dump(secret_document(key)))) == key


def test_the_page_tells_all_fields_of_a_key():
    text = page("keys.md")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [field.alias for field in KeyData.model_fields.values()]
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    expires = datetime(2027, 1, 31, 12, tzinfo=UTC)
    digest = re.search("[0-9a-f]{64}", block)[0]
    assert parse_secret(yaml.safe_load(block)) == Key(
        "ci", "team-a", digest, ("tax", "tax-v2"), expires, Limits(tokens_per_day=10**6)
    )
