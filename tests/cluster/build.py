"""Builds the cluster's programs from pinned Go modules, once per machine.

`python -m cluster.build NAME...` builds the named ones, all without a name.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from cluster.cache import Report, cache_folder, locked
from cluster.commands import CommandFailed, run_reported
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
    try:
        lines = run_reported(command, f"Downloading {path}", report, MODULES / module, environment)
    except CommandFailed as error:
        raise BuildError(str(error)) from error
    return Path(json.loads("".join(lines))["Dir"])


def _given(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder or "/nonexistent") / name
    return path if path.is_file() else None


def _build(binary: Binary, report: Report) -> Path:
    path = cache_folder() / "bin" / f"{binary.name}-{binary.key()}"
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    # One build at a time: each uses all cores. Another process may go on with the next one as soon as it has this one.
    with locked("build", report, unless=path.exists) as progress:
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
    started = time.monotonic()
    what = f"Building {binary.name}"

    def say(line: str) -> None:
        progress.write_text(line, encoding="utf-8")
        report(line)

    say(f"{what} (the modules that it needs are downloaded first)")
    try:
        # A package that is missing is an error of the build, which says more.
        listed = [go, "list", "-e", "-deps", f"-tags={binary.tags}", "-mod=readonly", binary.package]
        total = len(run_reported(listed, f"Downloading modules for {binary.name}", say, folder, environment))
        command = ["nice", "-n", "19", go, "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false"]
        run_reported(
            [*command, *binary.flags(), "-o", output, binary.package], what, say, folder, environment,
            describe=lambda lines: f"{len(lines)} packages compiled (of at most {total})",
        )  # fmt: skip
    except CommandFailed as error:
        raise BuildError(str(error)) from error
    say(f"Built {binary.name} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    find_binaries(tuple(sys.argv[1:]) or tuple(BINARIES), lambda line: print(line, flush=True))
