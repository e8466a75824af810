"""`rft keys`: what it writes opens what was asked for, and what it revokes opens nothing more."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from rft_api.exit_codes import RunError
from rft_api.gateway_key import Key, Limits, make_token, secret_document, token_digest
from rft_api.gateway_key_files import read_key_file
from rft_cli.key_values import parse_amount, parse_end


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(file: Path, *keys: Key) -> Path:
    file.write_text(yaml.safe_dump_all(map(secret_document, keys)), encoding="utf-8")
    return file


def test_a_created_key_opens_what_was_asked_for(rft, folder):
    result = rft(
        "keys", "create", "ci", "--namespace", "team-a", "--folder", folder, "--models", "tax,tax-v2",
        "--expires", "2127-01-31", "--requests-per-minute", "60", "--tokens-per-minute", "100k",
        "--tokens-per-day", "1.5M", "--tokens-per-month", "2G", "--parallel-requests", "4",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    token = result.stdout.removesuffix("\n")
    file = folder / "team-a.ci.yaml"
    assert result.stderr == f"{file} holds key ci of namespace team-a. Its token is shown only now:\n"
    limits = Limits(60, 100_000, 1_500_000, 2 * 10**9, 4)
    expires = datetime(2127, 1, 31, tzinfo=UTC)
    assert read_key_file(file).keys == (Key("ci", "team-a", token_digest(token), ("tax", "tax-v2"), expires, limits),)
    assert token not in file.read_text()
    assert [path.name for path in folder.iterdir()] == [file.name]


def test_every_value_is_in_quotes(rft, tmp_path, monkeypatch):
    """A digest of digits and one e is a number for kubectl, and a Secret takes none."""
    monkeypatch.setattr("rft_cli.keys.token_digest", lambda token: f"1e{'0' * 62}")
    assert rft("keys", "create", "1e5", "-n", "null", "--output", tmp_path / "secret.yaml").returncode == 0
    text = (tmp_path / "secret.yaml").read_text()
    assert re.findall(r"^ *(?:name|namespace|digest): (.*)", text, re.MULTILINE) == [
        '"1e5"', '"null"', f'"1e{"0" * 62}"',
    ]  # fmt: skip
    assert read_key_file(tmp_path / "secret.yaml").keys[0].name == "1e5"


def test_a_key_without_options_opens_its_namespace(rft, folder):
    token = rft("keys", "create", "ci", "--folder", folder).stdout.strip()
    assert read_key_file(folder / "default.ci.yaml").keys == (Key("ci", "default", token_digest(token)),)


def test_a_key_is_never_replaced(rft, folder, tmp_path):
    first = rft("keys", "create", "ci", "--folder", folder).stdout
    file = folder / "default.ci.yaml"
    content = file.read_text()
    again = rft("keys", "create", "ci", "--folder", folder)
    assert (again.returncode, again.stdout) == (10, "")
    assert again.stderr == f"error: {file}: key ci of namespace default exists already\n"
    renamed = file.rename(folder / "other.yaml")
    assert (
        "other.yaml: key ci of namespace default exists already"
        in rft("keys", "create", "ci", "--folder", folder).stderr
    )
    assert (renamed.read_text(), [path.name for path in folder.iterdir()]) == (content, ["other.yaml"])
    assert rft("keys", "create", "ci", "-n", "b", "--folder", folder).stdout not in ("", first)
    output = tmp_path / "secret.yaml"
    assert rft("keys", "create", "ci", "--output", output).returncode == 0
    assert "exists already; nothing was written" in rft("keys", "create", "ci", "--output", output).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CI"], "metadata.name: must look like my-name (lower-case letters, digits and hyphens)"),
        (["../ci"], "metadata.name: must look like my-name (lower-case letters, digits and hyphens)"),
        (["ci", "-n", "a b"], "metadata.namespace: must look like my-name (lower-case letters, digits and hyphens)"),
        (["ci", "--models", ","], "--models: names no model; leave the field out to open all models of the namespace"),
        (["ci", "--models", "a b"], "--models: must be names of models with commas between them, such as tax,tax-v2"),
        (["ci", "--tokens-per-day", "many"],
         "--tokens-per-day: must be a whole number of at least 1, such as 60, 100k or 1.5M, and is 'many'"),
        (["ci", "--expires", "2020-01-31"], "--expires: must be in the future, and is '2020-01-31'"),
        (["ci", "--output", "secret.yaml"], "--folder and --output exclude each other: name one of them"),
    ],
)  # fmt: skip
def test_a_wrong_value_writes_nothing(rft, folder, arguments, message):
    result = rft("keys", "create", "--folder", folder, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (10, "", f"error: {message}\n")
    assert not folder.exists()


def test_amounts():
    amounts = {"1": 1, "60": 60, "100k": 100_000, "1.5M": 1_500_000, "0.001k": 1, "1000000G": 10**15}
    assert {text: parse_amount("--a", text) for text in amounts} == amounts
    for text in ("", "0", "-1", "0.5", "1.0001k", "1m", "1 k", "1e3", "nan", "1000001G", "1" * 400, "١"):
        with pytest.raises(RunError, match=r"^--a: must be a whole number of at least 1"):
            parse_amount("--a", text)


def test_ends():
    now = datetime(2027, 1, 31, 12, 30, 15, 500_000, tzinfo=UTC)
    second = now.replace(microsecond=0)
    ends = {
        "90m": second + timedelta(minutes=90), "12h": second + timedelta(hours=12), "30d": second + timedelta(days=30),
        "8w": second + timedelta(weeks=8), "2027-02-01": datetime(2027, 2, 1, tzinfo=UTC),
        "2027-02-01T00:00:00+01:00": datetime(2027, 1, 31, 23, tzinfo=UTC),
    }  # fmt: skip
    assert {text: parse_end("--e", text, now) for text in ends} == ends
    for text in ("", "30", "1y", "-1d", "1.5d", "999999w", "tomorrow", "2027-13-01", "2027-02-01T00:00:00", "٣d"):
        with pytest.raises(RunError, match=r"^--e: must be a length of time"):
            parse_end("--e", text, now)
    for text in ("0d", "2027-01-31", "2027-01-31T12:30:15Z"):
        with pytest.raises(RunError, match=r"^--e: must be in the future"):
            parse_end("--e", text, now)


def test_the_list_shows_what_keys_open_and_what_opens_nothing(rft, folder):
    assert "No such file or directory" in rft("keys", "list", "--folder", folder).stderr
    folder.mkdir()
    assert rft("keys", "list", "--folder", folder).stdout == "There are no keys.\n"
    past = datetime(2020, 1, 31, 12, tzinfo=UTC)
    write(folder / "b.yaml", Key("ci", "team-b", "a" * 64, ("tax", "tax-v2"), past, Limits(60, None, 10**6, None, 4)))
    write(folder / "a.yaml", Key("ci", "team-a", "b" * 64), Key("app", "team-a", "c" * 64))
    result = rft("keys", "list", "--folder", folder)
    assert result.returncode == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert rows[0] == ["namespace", "key", "models", "expires", "limits"]
    assert rows[2:4] == [["team-a", "app", "all", "never", "none"], ["team-a", "ci", "all", "never", "none"]]
    assert " ".join(rows[4]) == "team-b ci tax, tax-v2 2020-01-31 12:00 UTC (expired) 60 requests a minute"
    assert [" ".join(row) for row in rows[5:]] == ["1,000,000 tokens a day", "4 at the same time"]
    assert "team-a" not in rft("keys", "list", "--folder", folder, "--namespace", "team-b").stdout
    (folder / "c.yaml").write_text("kind: Secret\n")
    (folder / "d.yaml").write_text("{")
    result = rft("keys", "list", "--folder", folder)
    assert result.returncode == 10
    assert "app" in result.stdout
    errors = result.stderr.splitlines()
    assert errors[0] == "error: 2 documents open nothing:"
    assert [error.partition(": ")[0] for error in errors[1:]] == [f"{folder}/c.yaml:1", f"{folder}/d.yaml:1"]


def test_a_revoked_key_opens_nothing(rft, folder):
    for name in ("ci", "app"):
        assert rft("keys", "create", name, "-n", "team-a", "--folder", folder).returncode == 0
    result = rft("keys", "revoke", "ci", "--namespace", "team-a", "--folder", folder)
    assert (result.returncode, result.stderr) == (0, "Key ci of namespace team-a is revoked.\n")
    assert [path.name for path in folder.iterdir()] == ["team-a.app.yaml"]
    again = rft("keys", "revoke", "ci", "--namespace", "team-a", "--folder", folder)
    assert (again.returncode, again.stderr) == (10, f"error: {folder}: there is no key ci of namespace team-a\n")
    assert rft("keys", "revoke", "app", "--folder", folder).returncode == 10  # another namespace
    assert rft("keys", "revoke", "../app", "--folder", folder).stderr == (
        "error: NAME: '../app' is no name of a key or namespace\n"
    )


def test_no_second_document_opens_after_a_key_is_revoked(rft, folder):
    """The gateway takes the first document of a name or token: with only that one deleted, the second would count."""
    folder.mkdir()
    digest = token_digest(make_token())
    write(folder / "a.yaml", Key("ci", "default", digest))
    write(folder / "b.yaml", Key("ci", "default", "b" * 64))
    twin = write(folder / "c.yaml", Key("twin", "default", digest))
    result = rft("keys", "revoke", "ci", "--folder", folder)
    assert list(folder.iterdir()) == [twin]
    assert (result.returncode, result.stderr) == (
        10,
        "error: the key is revoked, but its token opens key twin of namespace default in "
        f"{twin}, too: revoke that one as well\n",
    )
    assert rft("keys", "revoke", "twin", "--folder", folder).returncode == 0


def test_a_file_with_other_documents_is_left_to_its_owner(rft, folder):
    folder.mkdir()
    file = write(folder / "a.yaml", Key("ci", "default", "a" * 64), Key("app", "default", "b" * 64))
    result = rft("keys", "revoke", "ci", "--folder", folder)
    assert (result.returncode, result.stderr) == (
        10, f"error: {file}: holds other documents, too; remove key ci from it by hand\n",
    )  # fmt: skip
    assert len(read_key_file(file).keys) == 2


def test_without_kubectl_the_folder_is_recommended(rft, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in (["create", "ci"], ["list"], ["revoke", "ci"]):
        result = rft("keys", *command)
        assert (result.returncode, result.stdout) == (10, "")
        assert result.stderr == (
            "error: kubectl: No such file or directory; without a cluster, name the folder of keys: --folder DIR\n"
        )


def test_what_kubectl_says_is_passed_on(rft, tmp_path, monkeypatch):
    script = tmp_path / "kubectl"
    script.write_text('#!/bin/sh\ncat > /dev/null\nprintf "error: no\\n\\033[31mcluster" >&2\nexit 1\n')
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    result = rft("keys", "create", "ci")
    assert (result.returncode, result.stdout) == (10, "")
    assert result.stderr == "error: kubectl create: error: no \\x1b[31mcluster\n"


def test_one_bad_secret_of_a_cluster_is_named_and_the_others_are_listed(rft, tmp_path, monkeypatch):
    """Together, the Secrets of a tenant have more values than any document that is read."""
    good = json.dumps(secret_document(Key("ci", "team-a", "0" * 64)))
    many = json.dumps({"data": {f"k{number}": "" for number in range(90_000)}})
    lines = [*(f"team-b bad{number} {many}" for number in range(26)), "team-c broken {", f"team-a ci {good}"]
    (tmp_path / "answer").write_text("".join(f"{line}\n" for line in lines))
    script = tmp_path / "kubectl"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > /dev/null\ncat {tmp_path}/answer\n')
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    result = rft("keys", "list")
    assert result.returncode == 10
    assert "ci" in result.stdout
    errors = result.stderr.splitlines()[1:]
    assert errors[0] == "Secret bad0 of namespace team-b: has more than 20,000 values, and was not read"
    assert errors[-1].startswith("Secret broken of namespace team-c: is not JSON")
    assert len(errors) == 27
    assert "--output=jsonpath={range .items[*]}" in (tmp_path / "arguments").read_text()
