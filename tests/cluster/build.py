"""Builds the cluster's programs from pinned Go modules, once per machine.

`python -m cluster.build NAME...` builds the named ones, all without a name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cluster.cache import REPORT_SECONDS, Report, cache_folder, locked
from cluster.toolchain import find_go
from cluster.versions import BINARIES, MODULES, Binary


class BuildError(Exception):
    """A program could not be built; the message has the compiler's output."""


def find_binaries(names: tuple[str, ...], report: Report) -> dict[str, Path]:
    """Paths of the programs: those in the folder KUBEBUILDER_ASSETS where it has them, else built when needed.

    Raises:
        BuildError: one cannot be built.
    """
    return {name: _given(name) or _build(BINARIES[name], report) for name in names}


def module_folder(module: str, path: str, report: Report) -> Path:
    """The folder of a Go module of which only files are of use, at the version that `modules/MODULE` pins.

    Raises:
        BuildError: it cannot be had.
    """
    environment = {**os.environ, "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = [find_go(report), "mod", "download", "-json", path]
    done = subprocess.run(command, cwd=MODULES / module, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{path} cannot be had:\n{done.stderr}{done.stdout}")
    return Path(json.loads(done.stdout)["Dir"])


def _given(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder or "/nonexistent") / name
    return path if path.is_file() else None


def _build(binary: Binary, report: Report) -> Path:
    path = cache_folder() / "bin" / f"{binary.name}-{binary.key()}"
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    # One build at a time: each uses all cores.
    with locked("build", report) as progress:
        if not path.exists():
            for abandoned in path.parent.glob(f"{path.name}.*.partial"):
                abandoned.unlink()
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            _compile(binary, partial, progress, report)
            # The final name is taken only by a complete file.
            partial.rename(path)
    return path


def _compile(binary: Binary, output: Path, progress: Path, report: Report) -> None:
    go = find_go(report)
    # Nothing of the user's settings but where modules come from; and no toolchain but the one found.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    folder = MODULES / binary.module
    common = ["-mod=readonly", "-trimpath", "-buildvcs=false", *binary.flags()]
    started = shown = time.monotonic()
    report(f"Building {binary.name} (the modules that it needs are downloaded first)")
    progress.write_text(f"Building {binary.name}", encoding="utf-8")
    listed = subprocess.run(
        [go, "list", "-deps", f"-tags={binary.tags}", "-mod=readonly", binary.package],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    total = len(listed.stdout.splitlines())
    lines: list[str] = []
    command = ["nice", "-n", "19", str(go), "build", "-v", *common, "-o", str(output), binary.package]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            elapsed = time.monotonic() - started
            text = f"Building {binary.name}: {len(lines)} packages compiled (of at most {total}), {elapsed:.0f} s"
            progress.write_text(text, encoding="utf-8")
            if time.monotonic() - shown >= REPORT_SECONDS:
                shown = time.monotonic()
                report(text)
    if process.returncode:
        raise BuildError(f"{binary.name} could not be built:\n{listed.stderr}{''.join(lines)[-6000:]}")
    report(f"Built {binary.name} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    find_binaries(tuple(sys.argv[1:]) or tuple(BINARIES), lambda line: print(line, flush=True))
