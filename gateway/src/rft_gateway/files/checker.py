"""Has files checked by processes of their own, a few at a time; those of a namespace one after another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import orjson

from rft_gateway.files import check
from rft_gateway.files.errors import unavailable, wrong
from rft_gateway.files.limits import CHECK_SECONDS, CHECKS
from rft_gateway.turns import Turns

_logger = logging.getLogger(__name__)


class Checker:
    """Checks files."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._room = asyncio.Semaphore(CHECKS)

    async def check(self, path: Path, namespace: str) -> None:
        """Check a file of a namespace.

        Raises:
            ApiError: 400 when it cannot be used for training; it names the lines.
        """
        problems = await self._turns.take(namespace, partial(self._find_problems, path))
        if problems:
            text = "; ".join(problems)
            raise wrong("file", f"The file cannot be used for training: {text}", code="invalid_file")

    async def _find_problems(self, path: Path) -> list[str]:
        async with self._room:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", check.__name__, str(path),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            try:
                output, _ = await process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode == 0:
            return list(orjson.loads(output))
        if process.returncode == -signal.SIGALRM:
            raise wrong("file", f"To check the file took more than {CHECK_SECONDS} s: split it", code="invalid_file")
        if process.returncode == check.MEMORY_CODE:
            raise wrong(
                "file", "To check the file took too much memory: split it, or its longest lines", "invalid_file"
            )
        _logger.warning("files: a file could not be checked: exit code %s", process.returncode)
        raise unavailable()
