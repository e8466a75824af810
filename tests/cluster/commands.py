"""Programs that take minutes: a line every few seconds says how far each is, and one that hangs is ended."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil
from support.patience import PATIENCE_SECONDS, uncounted

from cluster.cache import REPORT_SECONDS, Report


class CommandFailed(Exception):
    """A program failed; the message has the end of what it wrote."""


def run_reported(
    command: Sequence[str | Path],
    what: str,
    report: Report,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    describe: Callable[[list[str]], str] = lambda lines: lines[-1].strip() if lines else "",
) -> list[str]:
    """Run a program to its end, outside of the running test's time.

    Args:
        command: the program and its arguments.
        what: what it does, for reports and errors: `Building etcd`.
        report: shows how far it is, every REPORT_SECONDS.
        folder: where it runs.
        environment: its whole environment, by default this process's.
        describe: how far it is, by the lines that it has written to either stream; by default the last one.

    Returns:
        The lines of its standard output.

    Raises:
        CommandFailed: it failed, or it neither wrote a line nor used a processor for PATIENCE_SECONDS.
    """
    output: list[str] = []
    lines: list[str] = []
    started = time.monotonic()
    with (
        uncounted(),
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace",
        ) as process,
    ):  # fmt: skip
        streams = ((process.stdout, (output, lines)), (process.stderr, (lines,)))
        readers = [threading.Thread(target=_collect, args=arguments, daemon=True) for arguments in streams]
        for reader in readers:
            reader.start()
        try:
            _watch(process, lines, lambda: report(f"{what}: {_join(describe(lines), started)}"))
        except BaseException:
            _kill(process)
            raise
        for reader in readers:
            reader.join()
    if process.returncode:
        said = "".join(lines)[-6000:]
        raise CommandFailed(f"{what}: {' '.join(map(str, command))} ended with code {process.returncode}:\n{said}")
    return output


def _collect(stream: IO[str], collections: tuple[list[str], ...]) -> None:
    for line in stream:
        for lines in collections:
            lines.append(line)


def _watch(process: subprocess.Popen[str], lines: list[str], show: Callable[[], None]) -> None:
    last: object = None
    changed = shown = time.monotonic()
    while True:
        if process.poll() is not None:
            return
        time.sleep(0.1)
        now = time.monotonic()
        if (seen := (len(lines), _processor_seconds(process.pid))) != last:
            last, changed = seen, now
        if now - changed > PATIENCE_SECONDS:
            said = "".join(lines[-100:])
            raise CommandFailed(f"{process.args} has done nothing for {PATIENCE_SECONDS:.0f} s:\n{said}")
        if now - shown >= REPORT_SECONDS:
            shown = now
            show()


def _processor_seconds(process: int) -> int:
    """Whole seconds of processor time that a process and its children have used."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
        return int(sum(sum(_times(member)) for member in family))
    return 0


def _times(process: psutil.Process) -> tuple[float, ...]:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user, times.system, times.children_user, times.children_system
    return (0.0,)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _join(text: str, started: float) -> str:
    elapsed = f"{time.monotonic() - started:.0f} s"
    return f"{text}, {elapsed}" if text else elapsed
