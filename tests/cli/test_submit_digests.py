"""Digests of large files are remembered, and never those of other contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rft_cli.submit.digests import known_digests

SIZE = 2 << 20
LONG_AGO = 1_700_000_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * SIZE)
    return path


def let_age(monkeypatch: pytest.MonkeyPatch, file: Path, seconds: int = 3600) -> None:
    """Has the clock say that the file has this age."""
    monkeypatch.setattr(
        "rft_cli.submit.digests.time.time_ns", lambda: file.stat().st_ctime_ns + seconds * 1_000_000_000
    )


def digest(path: Path) -> tuple[str, int]:
    """The digest, and the number of bytes that were read for it."""
    read = 0

    def report(done: int, total: int) -> None:
        nonlocal read
        read = done

    return known_digests([path], report)[path], read


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_an_unchanged_file_is_not_read_again(file, monkeypatch):
    let_age(monkeypatch, file)
    assert digest(file) == (sha(b"a" * SIZE), SIZE)
    assert digest(file) == (sha(b"a" * SIZE), 0)


def test_a_file_that_has_just_changed_is_not_remembered(file, monkeypatch):
    let_age(monkeypatch, file, seconds=1)
    assert digest(file) == (sha(b"a" * SIZE), SIZE)
    assert digest(file) == (sha(b"a" * SIZE), SIZE)


def test_other_contents_of_the_same_size_and_time_have_their_own_digest(file, monkeypatch):
    let_age(monkeypatch, file)
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert digest(file)[0] == sha(b"a" * SIZE)
    file.write_bytes(b"b" * SIZE)
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert digest(file) == (sha(b"b" * SIZE), SIZE)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"FILE": [[1], 5]}', '{"FILE": "sha256:0"}'])
def test_a_cache_that_is_damaged_costs_time_only(file, content, monkeypatch):
    let_age(monkeypatch, file)
    assert digest(file)[1] == SIZE
    cache = file.parent / "cache" / "rft-operator" / "digests.json"
    cache.write_text(content.replace("FILE", str(file)))
    assert digest(file) == (sha(b"a" * SIZE), SIZE)
    assert digest(file) == (sha(b"a" * SIZE), 0)
