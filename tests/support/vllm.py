"""A real vLLM server on the CPU, for tests of what it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from rft_api import vllm_server
from rft_api.ports import free_port
from support.patience import PATIENCE_SECONDS, wait_until

CACHE_BYTES = 64 << 20


class Vllm:
    """A vLLM server; a context manager that waits until it answers, and ends it.

    Args:
        folder: where its log goes.
        model: folder of the model.
        arguments: further ones of its command line.
        environment: further variables.
    """

    def __init__(self, folder: Path, model: Path, *arguments: str, environment: dict[str, str] | None = None):
        self._log = folder / "vllm.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            sys.executable, "-X", "faulthandler", "-m", "rft_trainer.cpu_server", "--model", str(model),
            "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
            *vllm_server.SAFE_ARGUMENTS, *vllm_server.cpu_arguments(CACHE_BYTES), *arguments,
        ]  # fmt: skip
        self._environment = {
            **os.environ, "OMP_NUM_THREADS": "1", **vllm_server.ENVIRONMENT, **vllm_server.SHARED_CPUS,
            **(environment or {}),
        }  # fmt: skip

    def __enter__(self) -> Vllm:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, also again; `wait` waits for it."""
        # What vLLM leaves behind when it is killed. The paths of sockets must be short.
        self._temporary = tempfile.TemporaryDirectory(prefix="rft-vllm-test-", ignore_cleanup_errors=True)
        environment = {**self._environment, "TMPDIR": self._temporary.name}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def wait(self) -> None:
        """Waits until it answers.

        Raises:
            AssertionError: it ended, or does not answer; with its log, and where its processes are.
        """

        process = self._process
        assert process is not None

        def answers() -> bool:
            assert process.poll() is None, self._tail()
            return self._answers()

        def stuck() -> str:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                each.send_signal(signal.SIGABRT)  # Python writes its stacks
            time.sleep(2)
            return f"{self.url} does not answer:\n{self._tail()}"

        wait_until(answers, self._tail, stuck, pause=0.5)

    def stop(self) -> None:
        """Ends it, if it was started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._temporary.cleanup()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-8000:]
