"""The one harness of the reward server: for the tests of every part, and for benchmarks."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from rft_api.readiness import Readiness, find_address
from rft_api.reward_protocol import SCORE_PATH, build_sample
from support.patience import PATIENCE_SECONDS, wait_until

TOKEN = "token-that-no-reward-code-may-read"

PACKAGES = Path("~/.cache/rft-operator/tests/reward-packages").expanduser()
"""Folder of the packages that functions of tests require; it is kept, so that each list is installed once."""

Row = dict[str, Any]


def write_function(file: Path, spec: Mapping[str, Any]) -> Path:
    """Write a RewardFunction's manifest; return its file."""
    manifest = {"apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "test"}, "spec": spec}
    file.write_text(json.dumps(manifest), encoding="utf-8")
    return file


def sample(
    sample_id: str, completion: str, reference_answer: Any = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A sample as trainers send it."""
    prompt = [{"role": "user", "content": "question"}]
    return build_sample(sample_id, prompt, completion, reference_answer, metadata or {})


def install_packages(function: Path, packages: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Install what a function requires, as the init container of its pods does; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "rft_reward.packages", "--function", str(function), "--packages", str(packages)],
        check=not environment,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=PATIENCE_SECONDS,
    )


class RewardServer:
    """A `python -m rft_reward` in a process of its own; in a `with` block it is ready.

    Args:
        folder: folder for its manifest, token and log.
        spec: the spec of its RewardFunction.
        port: port to listen on; 0 takes a free one.
        token: the token that requests must carry; None starts the server without one.
        launcher: command that the server's command is given to.
        environment: variables beside those of this process.
        packages: folder below which the packages of its requirements are installed; by default they are kept for
            other tests.
        host: address to listen on.
    """

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any],
        *,
        port: int = 0,
        token: str | None = TOKEN,
        launcher: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        packages: Path = PACKAGES,
        host: str = "127.0.0.1",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.token_file = folder / "token"
        self.token_file.write_text(token or TOKEN, encoding="utf-8")
        self.token_file.chmod(0o600)
        self._log_file = folder / "log"
        function = write_function(folder / "function.json", spec)
        self._command = [*launcher, sys.executable, "-m", "rft_reward", "--function", str(function)]
        if "requirements" in json.dumps(spec):
            install_packages(function, packages)
            self._command += ["--packages", str(packages)]
        self._command += ["--host", host]
        self._command += [] if token is None else ["--token-file", str(self.token_file)]
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._environment = {**os.environ, **(environment or {})}
        self.start(port)

    def start(self, port: int = 0) -> None:
        """Start the program, and wait until it listens."""
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--port", str(port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        assert self.process.stdout is not None
        url = find_address(self.process.stdout.readline())
        assert url is not None, self.log()
        self.url = url
        self.client = httpx.Client(base_url=self.url, headers=self._headers, timeout=PATIENCE_SECONDS, trust_env=False)

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own, for measuring: httpx takes longer for a request."""
        return http.client.HTTPConnection(self.url.removeprefix("http://"))

    def log(self) -> str:
        """What the program has written to standard error."""
        return self._log_file.read_text(encoding="utf-8")

    def wait_ready(self) -> RewardServer:
        """Wait until the tests of the function have passed; return the server."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return self.client.get("/readyz").status_code == httpx.codes.OK

        wait_until(is_ready, explain=lambda: self.client.get("/readyz").text + self.log(), pause=0.05)
        return self

    def wait_not_ready(self, text: str) -> str:
        """Wait until the message of /readyz contains a text; return the message."""

        def reasons() -> str:
            response = self.client.get("/readyz")
            assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            message = Readiness.model_validate_json(response.text).message
            return message if text in message else ""

        return wait_until(reasons, explain=lambda: self.client.get("/readyz").text, pause=0.05)

    def score(self, samples: Sequence[Row]) -> list[Row]:
        """The rows of samples, checked for what holds of every answer."""
        response = self.client.post(SCORE_PATH, json=samples)
        assert response.status_code == httpx.codes.OK, response.text
        rows: list[Row] = response.json()
        assert [row["id"] for row in rows] == [sample["id"] for sample in samples]
        for row in rows:
            # A failed sample has an error and no number; a scored one has no error.
            assert (row["aggregate_reward_score"] is None) == bool(row.get("error"))
        return rows

    def score_one(
        self, completion: str, reference_answer: Any = None, metadata: Mapping[str, Any] | None = None
    ) -> Row:
        """The row of one completion."""
        return self.score([sample("one", completion, reference_answer, metadata)])[0]

    def metric(self, name: str) -> float:
        """Value of a series, written as Prometheus prints it; 0 when there is none."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        return 0.0

    def layer(self, name: str) -> bool:
        """Whether its workers have a layer of the sandbox."""
        return self.metric(f'rft_reward_sandbox_layer{{layer="{name}"}}') == 1

    def descendants(self) -> list[int]:
        """Ids of the processes that it has started, and of those that these have started."""
        children = defaultdict(list)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                children[int(fields[1])].append(int(process.name))
        descendants = list(children[self.process.pid])
        for process_id in descendants:
            descendants += children[process_id]
        return descendants

    def is_idle(self) -> bool:
        """Whether every worker waits for samples: none is busy, and none is being started in the place of another."""
        return not any(self.metric(f'rft_reward_workers{{state="{state}"}}') for state in ("busy", "starting"))

    def wait_idle(self) -> RewardServer:
        """Wait until every worker waits for samples; return the server."""
        wait_until(self.is_idle, watch=self.descendants, explain=self.log, pause=0.05)
        return self

    def wait_settled(self, count: int) -> None:
        """Wait until the server has no other processes than those of its idle workers."""
        wait_until(
            lambda: len(self.descendants()) == count and self.is_idle(),
            watch=self.descendants,
            explain=lambda: f"{len(self.descendants())} processes, not {count}",
            pause=0.05,
        )

    def stop(self) -> int:
        """End the server as Kubernetes does; return its exit code. No worker may outlive it."""
        started = self.descendants()
        self.process.terminate()
        code = self.process.wait(PATIENCE_SECONDS)
        self.client.close()
        assert not [process for process in started if _is_worker(process)]
        return code

    def __enter__(self) -> RewardServer:
        try:
            return self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *error: object) -> None:
        self.stop()


def _is_worker(process: int) -> bool:
    try:
        return b"rft_reward.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
