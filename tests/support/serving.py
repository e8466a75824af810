"""`rft serve` as its users run it, and what a test asks of the one that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from support.gateway import ledger_rows
from support.patience import PATIENCE_SECONDS, wait_until


def start_serve(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts `rft serve` on a free port."""
    command = [sys.executable, "-m", "rft_cli.main", "serve", *map(str, arguments), "--port", "0"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Served:
    """What is served."""

    url: str
    key: str
    folder: Path

    def client(self) -> openai.OpenAI:
        """A client of it."""
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=PATIENCE_SECONDS)

    @property
    def server(self) -> str:
        """Address of vLLM."""
        document = json.loads((self.folder / "routes.json").read_text())
        return str(document["routes"][0]["servers"][0])

    def entries(self) -> list[dict[str, Any]]:
        """What the ledger has."""
        return ledger_rows(self.folder / "ledger.db")

    def counters(self) -> tuple[int, int]:
        """Tokens of prompts and completions that vLLM has counted."""
        metrics = httpx.get(f"{self.server}/metrics", timeout=PATIENCE_SECONDS, trust_env=False).text
        values = []
        for name in ("prompt", "generation"):
            lines = [line for line in metrics.splitlines() if line.startswith(f"vllm:{name}_tokens_total{{")]
            values.append(int(sum(float(line.rpartition(" ")[2]) for line in lines)))
        return values[0], values[1]


@contextmanager
def serving(process: subprocess.Popen[bytes], folder: Path, programs: int) -> Iterator[Served]:
    """Waits until `rft serve --json` is ready; at the end, tells it to end, and looks whether a process is left.

    Args:
        process: the command.
        folder: its folder of serving.
        programs: the least number of processes that it has started.
    """
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        document = json.loads(line)
        yield Served(document["url"], document["key"], folder)
        descendants = psutil.Process(process.pid).children(recursive=True)
        assert len(descendants) >= programs
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        wait_until(lambda: not any(map(runs, descendants)))
    finally:
        process.kill()
        process.wait()
