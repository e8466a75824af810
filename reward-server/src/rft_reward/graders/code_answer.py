"""The builtin Code: the share of the data row's tests that the completion's Python code passes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rft_reward.graders.code_calls import Calls
from rft_reward.graders.code_cases import Programs, read_tests
from rft_reward.graders.code_starter import PROGRAM, SERVER, Starter
from rft_reward.graders.code_tests import BadTests, Tests, run_tests
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, unwrapped
from rft_reward.graders.term import Unscorable

_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*(?:```|~~~)[ \t]*$", re.DOTALL | re.MULTILINE
)
_MOST_OUTPUT = 16 * 1024 * 1024
_TABLES = {"inputs", "test_cases"}
"""Fields of an object that holds tests itself, and not under `testsKey`."""


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.CodeReward`, which include the timeout in `seconds`.

    This also starts the process from which the processes of completions are forked.
    """
    key, require_all, seconds = options["testsKey"], options["requireAll"], float(options["seconds"])
    starter = Starter()

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        tests = find_tests(sample, key)
        source = extract(completion_text(sample))
        with _folder(source) as folder:
            if isinstance(tests, (Tests, Calls)):
                passed, count = _run_tests(tests, starter, folder, seconds), tests.count
            else:
                passed, count = _run_cases(tests, starter, folder, seconds), len(tests)
        share = passed / count
        score = float(passed == count) if require_all else share
        return score, [
            ("passed", share, "Metric" if require_all else "Reward"),
            ("all_passed", float(passed == count), "Reward" if require_all else "Metric"),
            ("tests", float(count), "Metric"),
        ]

    return grade


def extract(text: str) -> str:
    """Return the last code block that is marked as Python, or else the last block without a mark, or else the whole
    text."""
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]
    python = [code for language, code in blocks if language in ("python", "py", "python3")]
    plain = [code for language, code in blocks if not language]
    return (python or plain or [text])[-1]


def find_tests(sample: dict[str, Any], key: str) -> Tests | Calls | Programs:
    """Return the tests of a data row: asserts, calls of a function, or pairs of an input and the expected output.

    Raises:
        Unscorable: there are no tests, or they are invalid.
    """
    reference = sample.get("reference_answer")
    metadata = sample.get("metadata") or {}
    if reference is None:
        reference = metadata.get("reference_answer")
    reference = unwrapped(reference)
    if isinstance(reference, dict) and reference.get(key):
        tests = reference[key]
    elif metadata.get(key):
        tests = metadata[key]  # in this case, the reference answer may be a sample solution
    else:
        tests = reference if not isinstance(reference, dict) or reference.keys() & _TABLES else None
    if not tests:
        raise Unscorable(f"the sample has no tests: neither the reference_answer nor a field {key} holds any")
    try:
        return read_tests(tests, metadata)
    except BadTests as error:
        raise Unscorable(str(error)) from None


def _run_cases(cases: Programs, starter: Starter, folder: Path, seconds: float) -> int:
    """Count the cases whose output is as expected. The comparison is made here, and the program sees only its input."""
    passed, deadline = 0, time.monotonic() + seconds
    with tempfile.TemporaryFile(dir=folder) as stdin, tempfile.TemporaryFile(dir=folder) as stdout:
        for text, expected in cases:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for file in (stdin, stdout):
                file.seek(0)
                file.truncate()
            stdin.write(text.encode("utf-8", "replace"))
            stdin.flush()
            stdin.seek(0)
            try:
                starter.start(PROGRAM, folder, stdin.fileno(), stdout.fileno(), left)
                status = starter.wait(left)
            finally:
                starter.end()
            stdout.seek(0)
            output = stdout.read(_MOST_OUTPUT).decode("utf-8", "replace")
            passed += status == 0 and _lines(output) == _lines(expected)
    return passed


def _lines(text: str) -> list[str]:
    # As in programming contests, white space at the end of lines and of the text does not count.
    return [line.rstrip() for line in text.strip().splitlines()]


def _run_tests(tests: Tests | Calls, starter: Starter, folder: Path, seconds: float) -> int:
    """Count the tests that pass. They run in their own process, beside the process of the completion."""
    outcomes = b""
    with contextlib.ExitStack() as stack:
        (requests_out, requests_in), (replies_out, replies_in), (results_out, results_in) = (
            _pipe(stack) for _ in range(3)
        )
        deadline = time.monotonic() + seconds
        tester = 0
        try:
            starter.start(SERVER, folder, requests_out.take(), replies_in.take(), seconds)
            # No other process may have the candidate's ends open: their closing tells the tests that it has ended.
            requests_out.close()
            replies_in.close()
            tester = os.fork()
            if not tester:
                os.close(results_out.take())
                replies, requests = os.fdopen(replies_out.take(), "rb"), os.fdopen(requests_in.take(), "wb")
                run_tests(tests, replies, requests, results_in.take())
            results_in.close()
            while (left := deadline - time.monotonic()) > 0 and len(outcomes) < tests.count:
                if not select.select([results_out.take()], [], [], left)[0]:
                    break
                chunk = os.read(results_out.take(), 65536)
                if not chunk:
                    break
                outcomes += chunk
        finally:
            if tester:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(tester, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(tester, 0)
            starter.end()
    return outcomes[: tests.count].count(b"1")


class _End:
    """An end of a pipe, which is closed only once."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    def take(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _pipe(stack: contextlib.ExitStack) -> tuple[_End, _End]:
    ends = tuple(_End(descriptor) for descriptor in os.pipe())
    for end in ends:
        stack.callback(end.close)
    return ends[0], ends[1]


@contextlib.contextmanager
def _folder(source: str) -> Iterator[Path]:
    """Create a working directory with the code. Afterwards, everything that the completion wrote is removed."""
    before = set(Path().iterdir())
    folder = Path(tempfile.mkdtemp(prefix="code-", dir=Path.cwd()))
    try:
        (folder / "candidate.py").write_text(source, encoding="utf-8", errors="replace")
        yield folder
    finally:
        for path in set(Path().iterdir()) - before:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
