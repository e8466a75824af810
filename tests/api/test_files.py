"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rft_api.files import atomic_path, atomic_write
from rft_api.run_folder import RunFolder, best_address, checkpoint_address


def test_a_file_is_written_and_replaced(tmp_path: Path):
    target = tmp_path / "new" / "file.json"
    atomic_write(target, "eins ü\n")
    atomic_write(target, b"zwei\n")
    assert target.read_bytes() == b"zwei\n"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def test_an_error_leaves_the_old_contents_and_nothing_else(tmp_path: Path):
    target = tmp_path / "file"
    atomic_write(target, "old")
    with pytest.raises(RuntimeError):
        _write_half(target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _write_half(target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text("half")
        assert target.read_text() == "old"
        raise RuntimeError


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: events.append("replace") or replace(path, target))
    atomic_write(tmp_path / "file", "x", durable=True)
    assert events == [str(tmp_path / "file.partial"), "replace", str(tmp_path)]


def test_addresses_name_the_folders_of_a_run():
    folder = RunFolder("/out")
    assert best_address("/out/") == str(folder.best)
    assert checkpoint_address("/out", 7) == str(folder.checkpoint(7))
    assert best_address("s3://bucket/run") == "s3://bucket/run/best"
