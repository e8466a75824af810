"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rft_api.files import atomic_file, atomic_folder, atomic_write, open_in_place, partial_path
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
    with atomic_file(target) as file:
        file.write(b"half")
        file.flush()
        assert target.read_text() == "old"
        raise RuntimeError


def test_a_folder_replaces_the_old_one_when_it_is_complete_and_an_error_leaves_that(tmp_path: Path):
    target = tmp_path / "new" / "best"
    partial_path(target).mkdir(parents=True)
    (partial_path(target) / "rest").write_text("of an interrupted process")
    for name in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / name).write_text(name)
            assert not (target / name).exists()
    assert [path.name for path in target.iterdir()] == ["two"]
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        (folder / "none" / "three").write_text("half")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in target.parent.iterdir()] == ["best"]


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


def _secret(tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text("precious")
    return secret


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path: Path, is_there: bool):
    secret = _secret(tmp_path)
    target = tmp_path / "out" / "summary.json"
    target.parent.mkdir()
    partial_path(target).symlink_to(secret if is_there else tmp_path / "new")
    atomic_write(target, "result")
    assert (target.read_text(), secret.read_text()) == ("result", "precious")
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "out"}
    assert not target.is_symlink()


def test_a_hard_link_in_the_place_of_a_partial_file_is_not_written(tmp_path: Path):
    secret = _secret(tmp_path)
    partial_path(tmp_path / "x").hardlink_to(secret)
    atomic_write(tmp_path / "x", "result")
    assert secret.read_text() == "precious"


def test_a_link_in_the_place_of_the_target_is_replaced(tmp_path: Path):
    secret = _secret(tmp_path)
    (tmp_path / "x").symlink_to(secret)
    atomic_write(tmp_path / "x", "result")
    assert (secret.read_text(), (tmp_path / "x").is_symlink()) == ("precious", False)


def test_a_fifo_in_the_place_of_a_partial_file_blocks_nobody(tmp_path: Path):
    os.mkfifo(partial_path(tmp_path / "x"))
    atomic_write(tmp_path / "x", "result")
    assert (tmp_path / "x").read_text() == "result"


def test_a_link_that_comes_back_while_a_file_is_created_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secret = _secret(tmp_path)
    partial_path(tmp_path / "x").symlink_to(secret)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "x", "result")
    assert secret.read_text() == "precious"


def _symlink(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _dangling(path: Path, secret: Path) -> None:
    path.symlink_to(secret.with_name("new"))


def _hard_link(path: Path, secret: Path) -> None:
    path.hardlink_to(secret)


def _fifo(path: Path, secret: Path) -> None:
    os.mkfifo(path)


def _device(path: Path, secret: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("stand_in", "words"),
    [
        (_symlink, "is a symbolic link"),
        (_dangling, "is a symbolic link"),
        (_device, "is a symbolic link"),
        (_hard_link, "has a second name"),
        (_fifo, "is no regular file"),
        (lambda path, secret: path.mkdir(), "Is a directory"),
    ],
)
def test_what_is_written_in_place_is_a_file_of_its_own(
    tmp_path: Path, stand_in: Callable[[Path, Path], None], words: str
):
    secret = _secret(tmp_path)
    stand_in(tmp_path / "x", secret)
    with pytest.raises(OSError, match=words):
        open_in_place(tmp_path / "x")
    assert secret.read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_file_is_appended_to_in_place(tmp_path: Path):
    for text in (b"one\n", b"two\n"):
        with open_in_place(tmp_path / "x") as file:
            file.write(text)
            file.seek(0)
            assert file.read().endswith(text)
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"


def test_metrics_and_rollouts_are_not_written_through_links(tmp_path: Path):
    secret, folder = _secret(tmp_path), RunFolder(tmp_path / "run")
    folder.rollouts.mkdir(parents=True)
    folder.metrics.symlink_to(secret)
    partial_path(folder.rollout(1)).symlink_to(secret)
    with atomic_file(folder.rollout(1)) as file:
        file.write(b"PAR1")
    with pytest.raises(OSError, match="is a symbolic link"):
        open_in_place(folder.metrics)
    assert secret.read_text() == "precious"
