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

from rft_reward.graders.code_starter import PROGRAM, SERVER, Starter
from rft_reward.graders.code_tests import BadTests, Tests
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text
from rft_reward.graders.term import Unscorable

_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*(?:```|~~~)[ \t]*$", re.DOTALL | re.MULTILINE
)
_MOST_OUTPUT = 16 * 1024 * 1024


def build(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.CodeReward`, with its timeout as `seconds`.

    It also starts the process that those of completions are forked from.
    """
    key, require_all, seconds = options["testsKey"], options["requireAll"], float(options["seconds"])
    starter = Starter()

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        tests = find_tests(sample, key)
        source = extract(completion_text(sample))
        with _folder(source) as folder:
            if isinstance(tests, Tests):
                passed, count = _run_asserts(tests, starter, folder, seconds), tests.count
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
    """The last fenced block that is marked as Python, or else as nothing; the whole text without one."""
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]
    python = [code for language, code in blocks if language in ("python", "py", "python3")]
    plain = [code for language, code in blocks if not language]
    return (python or plain or [text])[-1]


def find_tests(sample: dict[str, Any], key: str) -> Tests | list[tuple[str, str]]:
    """The row's tests: asserts, or pairs of input and expected output.

    Raises:
        Unscorable: when there are none, or they cannot be used.
    """
    reference = sample.get("reference_answer")
    metadata = sample.get("metadata") or {}
    if reference is None:
        reference = metadata.get("reference_answer")
    if isinstance(reference, dict) and reference.get(key):
        found = reference[key]
    elif metadata.get(key):
        found = metadata[key]  # the reference answer may be a model solution
    else:
        found = None if isinstance(reference, dict) else reference
    if not found:
        raise Unscorable(f"the sample has no tests: neither the reference_answer nor a field {key} holds any")
    if isinstance(found, str):
        found = [found]
    if isinstance(found, list) and all(isinstance(test, str) for test in found):
        try:
            return Tests(found)
        except BadTests as error:
            raise Unscorable(str(error)) from None
    if isinstance(found, list) and all(_is_case(test) for test in found):
        return [(test["input"], test["output"]) for test in found]
    raise Unscorable("the tests are neither asserts, as text or a list of texts, nor a list of {input, output} texts")


def _is_case(test: Any) -> bool:
    return isinstance(test, dict) and isinstance(test.get("input"), str) and isinstance(test.get("output"), str)


def _run_cases(cases: list[tuple[str, str]], starter: Starter, folder: Path, seconds: float) -> int:
    """How many programs wrote the expected output: the comparison happens here, and the program sees its input only."""
    passed, deadline = 0, time.monotonic() + seconds
    with tempfile.TemporaryFile(dir=folder) as given, tempfile.TemporaryFile(dir=folder) as written:
        for text, expected in cases:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for file in (given, written):
                file.seek(0)
                file.truncate()
            given.write(text.encode("utf-8", "replace"))
            given.flush()
            given.seek(0)
            try:
                starter.start(PROGRAM, folder, given.fileno(), written.fileno(), left)
                status = starter.wait(left)
            finally:
                starter.end()
            written.seek(0)
            output = written.read(_MOST_OUTPUT).decode("utf-8", "replace")
            passed += status == 0 and _lines(output) == _lines(expected)
    return passed


def _lines(text: str) -> list[str]:
    # As judges of programming contests compare: white space at the ends of lines and of the text does not count.
    return [line.rstrip() for line in text.strip().splitlines()]


def _run_asserts(tests: Tests, starter: Starter, folder: Path, seconds: float) -> int:
    """How many tests passed; they run in a process of their own, next to the completion's."""
    outcomes = b""
    with contextlib.ExitStack() as stack:
        (requests_out, requests_in), (replies_out, replies_in), (results_out, results_in) = (
            _pipe(stack) for _ in range(3)
        )
        deadline = time.monotonic() + seconds
        tester = 0
        try:
            starter.start(SERVER, folder, requests_out.take(), replies_in.take(), seconds)
            # The candidate's ends must be open nowhere else: their closing tells the tests that it is gone.
            requests_out.close()
            replies_in.close()
            tester = os.fork()
            if not tester:
                os.close(results_out.take())
                tests.run(os.fdopen(replies_out.take(), "rb"), os.fdopen(requests_in.take(), "wb"), results_in.take())
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
    """An end of a pipe, closed once."""

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
    """A fresh working directory with the code; afterwards everything that the completion wrote is gone."""
    before = set(Path().iterdir())
    folder = Path(tempfile.mkdtemp(prefix="code-", dir=Path.cwd()))
    try:
        (folder / "candidate.py").write_text(source, encoding="utf-8", errors="replace")
        yield folder
    finally:
        for left in set(Path().iterdir()) - before:
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
