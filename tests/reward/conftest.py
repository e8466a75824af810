"""Real reward servers, shared by the tests that can share one."""

import concurrent.futures
import contextlib
import json
import sys
from pathlib import Path

import pytest
from support.reward_server import RewardServer, sample, write_function
from support.services import Service

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def reward_server():
    return RewardServer


@pytest.fixture(scope="session")
def function_file():
    return write_function


@pytest.fixture(scope="session")
def build_sample():
    return sample


@pytest.fixture(scope="module")
def server_for(tmp_path_factory):
    """A ready server for a spec, started once per file: hundreds that live on would take the memory of the machine."""
    servers = {}

    def get(spec, *, namespaces=True):
        key = json.dumps([spec, namespaces])
        if key not in servers:
            launcher = () if namespaces else (sys.executable, str(HERE / "without_namespaces.py"))
            folder = tmp_path_factory.mktemp("server") / "files"
            environment = {"SECRET_OF_THE_SERVER": "kept"}
            servers[key] = RewardServer(folder, spec, launcher=launcher, environment=environment).wait_ready()
        return servers[key].wait_idle()

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


@pytest.fixture
def start_service():
    """Starts a service that a reward asks, such as the API of a judge; its argument answers the requests."""
    with contextlib.ExitStack() as stack:

        def start(respond):
            return stack.enter_context(contextlib.closing(Service(respond)))

        yield start


@pytest.fixture(scope="module")
def handler(server_for):
    """A server for the body of a handler, given as code."""

    def get(source):
        return server_for({"timeout": "60s", "python": {"source": source}})

    return get
