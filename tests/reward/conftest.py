"""Real reward servers as subprocesses, shared by the tests that can share one."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import httpx
import pytest

from rft_api.readiness import Readiness, find_address

HERE = Path(__file__).parent
TOKEN = "token-that-no-reward-code-may-read"


def write_function(file, spec):
    manifest = {"apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "test"}, "spec": spec}
    file.write_text(json.dumps(manifest))
    return file


class RewardServer:
    """A running `python -m rft_reward`."""

    def __init__(self, folder, spec, *, token=True, launcher=(), environment=None):
        folder.mkdir()
        self.folder = folder
        manifest = {
            "apiVersion": "rft.dev/v1alpha1",
            "kind": "RewardFunction",
            "metadata": {"name": "test"},
            "spec": spec,
        }
        (folder / "function.json").write_text(json.dumps(manifest))
        command = [
            *launcher,
            sys.executable,
            "-m",
            "rft_reward",
            "--function",
            str(folder / "function.json"),
            "--port",
            "0",
        ]
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN)
        self.token_file.chmod(0o600)
        if token:
            command += ["--token-file", str(self.token_file)]
        self.log_file = folder / "log"
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})}
            )
        line = self.process.stdout.readline()
        self.url = find_address(line)
        assert self.url is not None, self.log()
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"} if token else {}, timeout=60
        )

    def log(self):
        return self.log_file.read_text()

    def wait_ready(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.client.get("/readyz").status_code == 200:
                return self
            time.sleep(0.05)
        raise AssertionError(self.client.get("/readyz").text + self.log())

    def wait_not_ready(self, text):
        """Polls /readyz until its message contains the text."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            response = self.client.get("/readyz")
            assert response.status_code == 503
            message = Readiness.model_validate_json(response.text).message
            if text in message:
                return message
            time.sleep(0.05)
        raise AssertionError(response.text)

    def score(self, samples):
        response = self.client.post("/v1/score", json=samples)
        assert response.status_code == 200, response.text
        rows = response.json()
        assert [row["id"] for row in rows] == [sample["id"] for sample in samples]
        for row in rows:
            # A failed sample has an error and no number; a scored one has no error.
            assert (row["aggregate_reward_score"] is None) == bool(row.get("error"))
        return rows

    def score_one(self, completion, reference_answer=None, metadata=None):
        return self.score([sample("one", completion, reference_answer, metadata)])[0]

    def metric(self, name):
        """Value of a series, written as Prometheus prints it; 0 when there is none."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        return 0.0

    def layer(self, name):
        """Whether its workers have a layer of the sandbox."""
        return self.metric(f'rft_reward_sandbox_layer{{layer="{name}"}}') == 1

    def descendants(self):
        children = defaultdict(list)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                children[int(fields[1])].append(int(process.name))
        found = list(children[self.process.pid])
        for process in found:
            found += children[process]
        return found

    def wait_settled(self, count):
        """Waits until the server has no other processes than its idle workers'."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if len(self.descendants()) == count and self.metric('rft_reward_workers{state="idle"}') > 0:
                return
            time.sleep(0.05)
        raise AssertionError(f"{len(self.descendants())} processes, not {count}")

    def stop(self):
        """Ends the server as Kubernetes does; returns its exit code."""
        left = self.descendants()
        self.process.terminate()
        code = self.process.wait(60)
        self.client.close()
        assert not [process for process in left if _is_worker(process)]
        return code


def _is_worker(process):
    try:
        return b"rft_reward.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def sample(sample_id, completion, reference_answer=None, metadata=None):
    return {
        "id": sample_id,
        "messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": completion}],
        "reference_answer": reference_answer,
        "metadata": {**(metadata or {}), "reference_answer": reference_answer},
    }


@pytest.fixture(scope="session")
def reward_server():
    return RewardServer


@pytest.fixture(scope="session")
def function_file():
    return write_function


@pytest.fixture(scope="session")
def build_sample():
    return sample


@pytest.fixture(scope="session")
def server_for(tmp_path_factory):
    """A ready server for a spec, started once per session; `namespaces=False` forbids them to the server."""
    servers = {}

    def get(spec, *, namespaces=True):
        key = json.dumps([spec, namespaces])
        if key not in servers:
            launcher = () if namespaces else (sys.executable, str(HERE / "without_namespaces.py"))
            folder = tmp_path_factory.mktemp("server") / "files"
            environment = {"SECRET_OF_THE_SERVER": "kept"}
            servers[key] = RewardServer(folder, spec, launcher=launcher, environment=environment).wait_ready()
        return servers[key]

    yield get
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(RewardServer.stop, servers.values()))
    assert codes == [0] * len(codes)


@pytest.fixture
def start_server(tmp_path):
    """Starts a server of the test's own, without waiting for it to be ready."""
    servers = []

    def start(spec, **options):
        servers.append(RewardServer(tmp_path / str(len(servers)), spec, **options))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def handler(server_for):
    """A server for the body of a handler, given as code."""

    def get(source):
        return server_for({"timeout": "5s", "python": {"source": source}})

    return get
