"""Programs are built once per machine, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.patience import PATIENCE_SECONDS

from cluster import build
from cluster.build import BuildError, find_binaries
from cluster.cache import locked
from cluster.toolchain import find_go
from cluster.versions import BINARIES, MODULES, Binary


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, but with a Go and what it has compiled already."""
    go = find_go(print)
    compiled = subprocess.run([go, "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("GOCACHE", compiled)
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "rft-operator" / "bin"


def test_two_runs_build_once(cache):
    environment = {**os.environ, "PYTHONPATH": str(MODULES.parents[1])}
    command = [sys.executable, "-m", "cluster.build", "pause"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate(timeout=PATIENCE_SECONDS)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("Built pause") == 1


def test_a_program_that_another_process_has_built_is_used_while_that_builds_the_next_one(cache):
    path = cache / f"pause-{BINARIES['pause'].key()}"
    cache.mkdir(parents=True)
    with ThreadPoolExecutor() as pool, locked("build", print):
        waiting = pool.submit(find_binaries, ("pause",), print)
        path.write_text("built", encoding="utf-8")
        assert waiting.result(PATIENCE_SECONDS) == {"pause": path}


def test_an_unfinished_file_is_not_taken_for_a_program(cache):
    cache.mkdir(parents=True)
    (cache / f"pause-{BINARIES['pause'].key()}.1.partial").write_bytes(b"half")
    path = find_binaries(("pause",), print)["pause"]
    assert path.read_bytes()[:4] == b"\x7fELF"
    assert list(cache.iterdir()) == [path]


def test_ready_programs_are_preferred(cache, tmp_path, monkeypatch):
    (tmp_path / "etcd").write_text("given", encoding="utf-8")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert find_binaries(("etcd",), print) == {"etcd": tmp_path / "etcd"}


def test_a_failure_shows_what_the_compiler_said(cache, monkeypatch):
    monkeypatch.setitem(build.BINARIES, "wrong", Binary("wrong", "pause", "rft.dev/tests/wrong"))
    with pytest.raises(BuildError, match=r"rft\.dev/tests/wrong"):
        find_binaries(("wrong",), print)
    assert not list(cache.iterdir())


def test_what_decides_a_build_is_in_its_name():
    binary = BINARIES["kube-apiserver"]
    others = [Binary(binary.name, binary.module, binary.package), BINARIES["kubectl"]]
    assert len({binary.key(), *(other.key() for other in others)}) == 3


@pytest.mark.parametrize("module", sorted({binary.module for binary in BINARIES.values()}))
def test_modules_are_pinned(module):
    """With a digest for everything that go.mod requires."""
    required = "require" in (MODULES / module / "go.mod").read_text(encoding="utf-8")
    assert (MODULES / module / "go.sum").exists() == required
