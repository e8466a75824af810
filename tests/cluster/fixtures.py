"""The cluster's parts as session-wide pytest fixtures; only those that a chosen test asks for are built and started."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from xdist.scheduler import LoadFileScheduling

from cluster.build import BuildError, find_binaries
from cluster.cache import Report
from cluster.control_plane import Cluster, ControlPlane
from cluster.host_python import write_dockerfile
from cluster.images import build_image, build_project_image, save_image
from cluster.node import Node, clean_up, why_impossible
from cluster.object_store import ObjectStore
from cluster.packages import install_packages
from cluster.prometheus import Prometheus
from cluster.prometheus_operator import PrometheusOperator, apply_monitoring_kinds
from cluster.runs import RunFolder, remove_abandoned
from cluster.versions import CONTROL_PLANE, NODE
from rft_cli.processes import Program

PROGRAMS = {
    "api_server": CONTROL_PLANE,
    "s3": ("versitygw",),
    "prometheus": ("prometheus",),
    "node_binaries": NODE,
    "helm": ("helm",),
    "promtool": ("promtool",),
    "prometheus_operator": ("prometheus-operator",),
}
"""What each fixture needs built."""

Part = TypeVar("Part", ControlPlane, Node, ObjectStore, Prometheus, PrometheusOperator)

_builder: list[Program] = []
_LEFT_OUT = pytest.StashKey[str]()

_PARTS = ("image_tools", "node", "node_binaries", "prometheus", "s3", "api_server", "helm", "promtool")
"""Fixtures of the cluster's parts, those that take longest first."""
_NODE_FIXTURES = {"node_binaries", "image_tools"}
"""What a test that needs a node, or builds images, has among its fixtures."""
_OF_NODE = ("tests/node/", "tests/cluster/test_node.py")
"""Where the tests are that need the machine's one node."""
_OF_IMAGES = ("tests/images/",)
"""Where the tests are that build images."""
_OF_CONTROL_PLANE = (
    "tests/chart/", "tests/cli/test_submit.py", "tests/cluster/", "tests/gateway/in_cluster/", "tests/operator/",
)  # fmt: skip
"""Where the other tests of an API server are."""


class _Scheduling(LoadFileScheduling):
    """Gives each process whole files; all that need the node go to the same one, and so do those of an API server."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_OF_NODE):
            return "node"
        # A control plane runs from its first test to the end, and is never idle.
        return "control plane" if nodeid.startswith(_OF_CONTROL_PLANE) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """What several processes test (pytest --numprocesses)."""
    return _Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts tests by what they need, and leaves out those of nodes and images where there can be none."""
    right = (*_OF_NODE, *_OF_IMAGES)
    misplaced = [item.nodeid for item in items if _needs_node(item) and not item.nodeid.startswith(right)]
    assert not misplaced, f"tests that need a node or images belong into {right}: {misplaced}"
    several = hasattr(config, "workerinput")
    reason = why_impossible()
    if reason and not os.environ.get("CI"):  # in CI they run, and fail with the reason
        left_out = [item for item in items if _needs_node(item)]
        items[:] = [item for item in items if item not in left_out]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            text = f"{len(left_out)} tests of a real node, of pods and of images were left out: {reason}"
            config.stash[_LEFT_OUT] = text
            if several:
                config.workeroutput["left_out"] = text  # the first process tells
    items.sort(key=lambda item: place(_fixtures(item), several))


def place(fixtures: list[str], several: bool) -> list[bool]:
    """Sorts the test with these fixtures: what needs the cluster last, as it is being built meanwhile.

    Where several processes test, one is busy with the node for long, and begins with it. Either way tests of what a
    node is made of come before those that share the one node of this machine.
    """
    needed = [name in fixtures for name in _PARTS]
    return [(not _NODE_FIXTURES.isdisjoint(fixtures)) != several, any(needed) != several, *needed]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over which tests a process has left out: all processes leave out the same."""
    text = getattr(node, "workeroutput", {}).get("left_out")
    if text is not None:
        node.config.stash[_LEFT_OUT] = text


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says which tests were left out, and why."""
    if _LEFT_OUT in config.stash:
        terminalreporter.section("left out")
        terminalreporter.write_line(config.stash[_LEFT_OUT])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts to build what the chosen tests need, at the lowest priority, while other tests run."""
    names = _programs(*session.items)
    if names and not session.config.option.collectonly:
        log = Path(session.config.rootpath) / ".cache" / "cluster-build.log"
        log.parent.mkdir(exist_ok=True)
        command = ["env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, "-m", "cluster.build", *names]
        _builder.append(Program(command, log, {}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits for what the test needs before its time limit begins."""
    with contextlib.suppress(BuildError):  # its fixture will say so
        find_binaries(_programs(item), _reporter(item.config))
    return (yield)


def pytest_sessionfinish() -> None:
    """Ends a build that nobody waits for any more."""
    while _builder:
        _builder.pop().kill()


def _needs_node(item: pytest.Item) -> bool:
    return not _NODE_FIXTURES.isdisjoint(_fixtures(item))


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def _programs(*items: pytest.Item) -> tuple[str, ...]:
    """The programs that tests need."""
    wanted = {fixture for item in items for fixture in _fixtures(item)}
    if os.environ.get("RFT_TEST_KUBECONFIG"):
        wanted -= {"api_server", "node_binaries"}
    return tuple(name for fixture, programs in PROGRAMS.items() if fixture in wanted for name in programs)


def _reporter(config: pytest.Config) -> Report:
    capture = config.pluginmanager.getplugin("capturemanager")
    # Nobody sees the standard output of one of several processes.
    several = hasattr(config, "workerinput")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n[cluster] {line}", end="", flush=True, file=sys.stderr if several else sys.stdout)

    return show


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Shows a line in the terminal at once."""
    return _reporter(request.config)


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest, report: Report) -> Iterator[Path]:
    """The folder of this run's state, removed at the end; logs are kept when a test failed.

    What killed runs left behind is removed first.
    """
    for folder in remove_abandoned(clean_up):
        report(f"removed what run {folder.name} left behind")
    run = RunFolder()
    yield run.path
    if request.session.testsfailed:
        kept = request.config.rootpath / ".cache" / "cluster-logs"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for log in run.path.glob("*/*.log"):
            shutil.copy(log, kept)
        report(f"the logs of the cluster are in {kept}")
    run.remove()


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest, report: Report) -> Iterator[Cluster]:
    """The cluster that RFT_TEST_KUBECONFIG gives, or a control plane of our own (a ControlPlane)."""
    given = os.environ.get("RFT_TEST_KUBECONFIG")
    if given:
        kubectl = shutil.which("kubectl") or find_binaries(("kubectl",), report)["kubectl"]
        yield Cluster(Path(given), Path(kubectl))
        return
    folder = request.getfixturevalue("run_folder")
    plane = ControlPlane(folder / "control-plane", find_binaries(CONTROL_PLANE, report))
    yield from _running(plane, report, "a control plane")


@pytest.fixture(scope="session")
def node_binaries(report: Report) -> dict[str, Path]:
    """What a node is made of; tests that ask for it are left out where there can be no node."""
    reason = why_impossible()
    assert not reason, f"there can be no node here: {reason}"
    return find_binaries(NODE, report)


@pytest.fixture(scope="session")
def node(api_server: Cluster, run_folder: Path, node_binaries: dict[str, Path], report: Report) -> Iterator[Node]:
    """The control plane's node: pods run."""
    assert isinstance(api_server, ControlPlane)
    node = Node(run_folder / "node", api_server, node_binaries, report)
    yield from _running(node, report, "a node")


@pytest.fixture(scope="session")
def host_image(node: Node, run_folder: Path, report: Report) -> str:
    """An image with this machine's Python environment, which stands for the trainer's and the servers'."""
    context = run_folder / "host-python"
    context.mkdir()
    write_dockerfile(context)
    name = "localhost/tests/host-python:1"
    node.load_image(build_image(name, context, run_folder / "images", report))
    return name


@pytest.fixture(scope="session")
def image_tools(report: Report) -> None:
    """What images are built with; tests that ask for it are left out where there can be no node."""
    reason = why_impossible()
    assert not reason, f"no images can be built here: {reason}"
    install_packages(report)


@pytest.fixture(scope="session")
def operator_image(image_tools: None, run_folder: Path, report: Report) -> tuple[str, Path]:
    """The name of the operator's image and its archive, for `Node.load_image`."""
    return _project_image("operator", run_folder, report)


@pytest.fixture(scope="session")
def gateway_image(image_tools: None, run_folder: Path, report: Report) -> tuple[str, Path]:
    """The name of the gateway's image and its archive."""
    return _project_image("gateway", run_folder, report)


@pytest.fixture(scope="session")
def reward_image(image_tools: None, run_folder: Path, report: Report) -> tuple[str, Path]:
    """The name of the reward server's image and its archive."""
    return _project_image("reward", run_folder, report)


@pytest.fixture(scope="session")
def loader_image(image_tools: None, run_folder: Path, report: Report) -> tuple[str, Path]:
    """The name of the adapter loader's image and its archive."""
    return _project_image("loader", run_folder, report)


def _project_image(image: str, run_folder: Path, report: Report) -> tuple[str, Path]:
    name = f"localhost/rft-{image}:test"
    build_project_image(report, name, image)
    return name, save_image(report, name, run_folder / "images")


@pytest.fixture(scope="session")
def s3(run_folder: Path, report: Report) -> Iterator[ObjectStore]:
    """An S3 server, also for pods."""
    store = ObjectStore(run_folder / "s3", find_binaries(("versitygw",), report)["versitygw"])
    yield from _running(store, report, "an S3 server")


@pytest.fixture(scope="session")
def prometheus(run_folder: Path, report: Report) -> Iterator[Prometheus]:
    """A Prometheus that scrapes nothing yet."""
    server = Prometheus(run_folder / "prometheus", find_binaries(("prometheus",), report)["prometheus"])
    yield from _running(server, report, "Prometheus")


@pytest.fixture(scope="session")
def monitoring_kinds(api_server: Cluster, report: Report) -> None:
    """The API server knows PodMonitors and PrometheusRules."""
    apply_monitoring_kinds(api_server.kubectl, report)


@pytest.fixture(scope="session")
def prometheus_operator(
    api_server: Cluster, monitoring_kinds: None, run_folder: Path, report: Report
) -> Iterator[PrometheusOperator]:
    """The Prometheus operator."""
    binary = find_binaries(("prometheus-operator",), report)["prometheus-operator"]
    assert isinstance(api_server, ControlPlane)
    with api_server.kubectl.namespace("prometheus-operator") as made:
        operator = PrometheusOperator(run_folder / "prometheus-operator", binary, api_server, made)
        yield from _running(operator, report, "the Prometheus operator")


@pytest.fixture(scope="session")
def monitored(prometheus_operator: PrometheusOperator, run_folder: Path, report: Report) -> Iterator[Prometheus]:
    """A Prometheus for what the Prometheus operator writes."""
    server = Prometheus(run_folder / "monitored", find_binaries(("prometheus",), report)["prometheus"])
    yield from _running(server, report, "a Prometheus of the Prometheus operator")


@pytest.fixture(scope="session")
def helm(report: Report) -> Path:
    """The program."""
    return find_binaries(("helm",), report)["helm"]


@pytest.fixture(scope="session")
def promtool(report: Report) -> Path:
    """The program that checks Prometheus' rules."""
    return find_binaries(("promtool",), report)["promtool"]


@pytest.fixture
def namespace(api_server: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    with api_server.kubectl.namespace(f"{name}-{secrets.token_hex(3)}") as made:
        yield made


def _running(part: Part, report: Report, what: str) -> Iterator[Part]:
    started = time.monotonic()
    try:
        part.start()
        report(f"started {what} in {time.monotonic() - started:.1f} s")
        yield part
    finally:
        part.stop()
