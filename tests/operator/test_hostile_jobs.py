"""Hostile jobs of one namespace beside a good one of another, on a real API server. Pods are pretended, and answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.control_plane import ControlPlane
from lives import REWARD, REWARDS, TRAINERS, job
from pretending import Kubelet, Operator, reason, running_operator
from support.hostile_pods import KINDS
from support.memory import peak_bytes
from support.patience import wait_until

from rft_operator.pods.slots import WORKING_SHARE
from rft_operator.reward_function.names import REWARD_PORT
from rft_operator.rft_job.names import PROGRESS_PORT

NETWORK = f"127.79.{os.getpid() % 256}"
"""Beginning of the addresses of pods: their ports are fixed, and other tests of this machine may use them, too."""
ADDRESSES = {kind: f"{NETWORK}.{number}" for number, kind in enumerate(KINDS, 1)}
GOOD = f"{NETWORK}.200"
JOBS = WORKING_SHARE
"""As many as there are reconciliations of one namespace that work at the same time."""


@pytest.fixture
def operator(operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Operator]:
    with running_operator(operator_kubeconfig, tmp_path / "log") as running:
        yield running


@pytest.fixture
def hostile_pods() -> Iterator[None]:
    """Pods that answer as their kind does, at the address of the kind."""
    addresses = [f"{address}={kind}" for kind, address in ADDRESSES.items()]
    command = [sys.executable, "-m", "support.hostile_pods", *addresses, "--", str(PROGRESS_PORT), str(REWARD_PORT)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"serving\n"
            yield
        finally:
            process.kill()


class GoodPod(threading.Thread):
    """A trainer's pod that answers with another step each time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.step = 0
        self._listening = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        await asyncio.start_server(self._answer, GOOD, PROGRESS_PORT)
        self._listening.set()
        await asyncio.Event().wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.step += 1
        body = json.dumps({"phase": "Training", "step": self.step}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    def begin(self) -> None:
        """Returns when it listens."""
        self.start()
        self._listening.wait()


@pytest.mark.usefixtures("hostile_pods")
def test_a_good_job_beside_hostile_ones(plane: ControlPlane, operator: Operator) -> None:
    kubectl, pod = plane.kubectl, GoodPod()
    pod.begin()
    hostile, good = (f"{name}-{secrets.token_hex(3)}" for name in ("hostile", "good"))
    with kubectl.namespace(hostile), kubectl.namespace(good):
        kubectl.apply(REWARD, job(), namespace=good)
        bad_rewards = [{**REWARD, "metadata": {"name": f"bad-{kind}".replace("_", "-")}} for kind in KINDS]
        bad_jobs = [{**job(), "metadata": {"name": f"job-{number}"}} for number in range(JOBS)]
        kubectl.apply(REWARD, *bad_rewards, *bad_jobs, namespace=hostile)
        kinds = itertools.cycle(KINDS)
        for name in Kubelet(kubectl, hostile).pods(REWARDS, 1 + len(KINDS)):
            is_bad = "bad" in name
            address = ADDRESSES[next(kinds)] if is_bad else None
            Kubelet(kubectl, hostile).run(name, "reward-server", address, ready=not is_bad)
        for space, number in ((good, 1), (hostile, JOBS)):
            kubelet = Kubelet(kubectl, space)
            kubelet.serve(f"{REWARDS},rft.dev/owner=amount", "reward-server")
            for name in kubelet.pods(TRAINERS, number):
                kubelet.run(name, "trainer", GOOD if space == good else ADDRESSES[next(kinds)])
        before = peak_bytes(operator.pid)
        for retries in range(10, 20):
            # Each is seen, and the pod was asked on the way.
            kubectl.apply(job(limits={"retries": retries}), namespace=good)
            generation = kubectl.get("rftjob", "job", f"--namespace={good}")["metadata"]["generation"]
            found = kubectl.wait_for(
                "rftjob/job",
                f"--namespace={good}",
                until=lambda found, generation=generation: (
                    found["status"]["conditions"][0]["observedGeneration"] >= generation
                ),
            )
            assert reason(found, "Succeeded") == "Running"
        assert found["status"]["progress"]["step"] >= 10
        # Hostile jobs run, too: their pods only say nothing that can be used.
        wait_until(
            lambda: {
                reason(item, "Succeeded")
                for item in kubectl.get("rftjobs", f"--namespace={hostile}")["items"]
            } == {"Running"},
            operator.log,
        )  # fmt: skip
        told = [
            item for item in kubectl.get("rftjobs", f"--namespace={hostile}")["items"] if "progress" in item["status"]
        ]
        assert len(told) <= 2  # `news`, which is progress that is valid
        assert "Traceback" not in operator.log()
        assert peak_bytes(operator.pid) - before < 64 << 20
