"""The operator as a process, and pods that no node runs: their statuses are written here instead of by a kubelet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cluster.kubectl import Kubectl, NotFound
from support.patience import PATIENCE_SECONDS, wait_until

from rft_api.ports import free_port

IMAGES = [f"--{name}-image=example/{name}:1" for name in ("trainer", "reward", "server-cuda", "server-cpu", "loader")]
# Tests name ServiceAccounts that do not exist, and tolerations that Kubernetes refuses.
BOUNDS = '--bounds={"serviceAccounts": ["*"], "tolerations": ["*", ""]}'


class Operator:
    """The operator's process; it can be killed and started again, as the same replica."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        pod: str = "operator-0",
        arguments: Sequence[str] = (),
        program: Sequence[str] = ("-m", "rft_operator"),
    ):
        # The client of Kubernetes writes keys to temporary files, which an operator that is killed leaves behind.
        temporary = log.parent / "temporary"
        temporary.mkdir(exist_ok=True)
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "POD_NAME": pod, "TMPDIR": str(temporary)}
        self._log = log
        self._arguments = arguments
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.metrics_port = free_port()
        self.liveness_port = free_port()
        self.starts = 0

    def start(self) -> None:
        """Starts it."""
        ports = [f"--metrics-port={self.metrics_port}", f"--liveness-port={self.liveness_port}"]
        command = [sys.executable, *self._program, *IMAGES, BOUNDS, *ports, *self._arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.starts += 1

    @property
    def pid(self) -> int:
        """Of its newest start."""
        assert self._process is not None
        return self._process.pid

    def metrics(self) -> str:
        """What Prometheus would read, once it serves it."""

        def read() -> str:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text
            return ""

        return wait_until(read, explain=self.log)

    def kill(self) -> None:
        """Kills it without a chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Tells it to stop; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=PATIENCE_SECONDS)

    def pause(self) -> None:
        """Has it do nothing, as on a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends the pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        """Whether it has ended by itself, or was told to."""
        return self._process is not None and self._process.poll() is not None

    def revive(self) -> None:
        """Starts it again if it has ended, as Kubernetes would."""
        if self.has_ended():
            self.start()

    def log(self) -> str:
        """What it has said in all its starts."""
        return self._log.read_text(encoding="utf-8")


class Kubelet:
    """Writes what a kubelet would write."""

    def __init__(self, kubectl: Kubectl, namespace: str):
        self._kubectl = kubectl
        self._namespace = namespace

    def pods(self, selector: str, count: int = 1) -> list[str]:
        """Names of the pods with these labels that have not ended, once there are so many."""

        def alive(found: dict[str, Any]) -> list[str]:
            return [
                pod["metadata"]["name"]
                for pod in found["items"]
                if "deletionTimestamp" not in pod["metadata"]
                and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
            ]

        arguments = ["pods", f"--namespace={self._namespace}", f"--selector={selector}"]
        return alive(self._kubectl.wait_for(*arguments, until=lambda found: len(alive(found)) == count))

    def run(self, pod: str, container: str, ip: str | None = None, ready: bool = True) -> None:
        """The container runs, at an address where it has one."""
        self._write(pod, container, "Running", {"running": {"startedAt": _now()}}, ready=ready, ip=ip)

    def serve(self, selector: str, container: str) -> None:
        """The containers of all pods with these labels run and are ready, but for pods that are gone meanwhile."""
        for pod in self._kubectl.get("pods", f"--namespace={self._namespace}", f"--selector={selector}")["items"]:
            conditions = pod.get("status", {}).get("conditions", [])
            if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                with contextlib.suppress(NotFound):
                    self.run(pod["metadata"]["name"], container)

    def end(self, pod: str, container: str, code: int, message: str = "") -> None:
        """The container, and with it the pod, ends."""
        times = {"startedAt": _now(), "finishedAt": _now()}
        terminated = {"exitCode": code, "message": message, "reason": "Completed" if code == 0 else "Error", **times}
        self._write(pod, container, "Failed" if code else "Succeeded", {"terminated": terminated}, ready=False)

    def linger(self, pod: str, container: str, code: int, message: str = "") -> None:
        """The container ends, and the proxy that a webhook has added to the pod runs on."""
        times = {"startedAt": _now(), "finishedAt": _now()}
        terminated = {"exitCode": code, "message": message, "reason": "Completed", **times}
        proxy = {"name": "istio-proxy", "ready": True, "started": True, "state": {"running": {"startedAt": _now()}}}
        self._write(pod, container, "Running", {"terminated": terminated}, ready=False, beside=[proxy])

    def end_proxy(self, pod: str, container: str, code: int) -> None:
        """The proxy ends, too, and with it the pod."""
        found = self._kubectl.get("pod", pod, f"--namespace={self._namespace}")["status"]["containerStatuses"]
        state = next(entry["state"] for entry in found if entry["name"] == container)
        ended = {"exitCode": code, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
        proxy = {"name": "istio-proxy", "ready": False, "started": False, "state": {"terminated": ended}}
        self._write(pod, container, "Failed", state, ready=False, beside=[proxy])

    def disrupt(self, pod: str, container: str) -> None:
        """The pod's node goes away."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        terminated = {"exitCode": 137, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
        self._write(pod, container, "Failed", {"terminated": terminated}, ready=False, further=[condition])

    def _write(
        self,
        pod: str,
        container: str,
        phase: str,
        state: dict[str, Any],
        ready: bool,
        further: list[dict[str, Any]] | None = None,
        beside: list[dict[str, Any]] | None = None,
        ip: str | None = None,
    ) -> None:
        found = self._kubectl.get("pod", pod, f"--namespace={self._namespace}")
        truth = "True" if ready else "False"
        status = {
            "phase": phase,
            "startTime": found["status"].get("startTime", _now()),
            "conditions": [
                *({"type": kind, "status": truth} for kind in ("Ready", "ContainersReady")),
                *(further or []),
            ],
            "containerStatuses": [
                {"image": "i", "imageID": "i", "restartCount": 0, **entry}
                for entry in [
                    {"name": container, "ready": ready, "started": ready, "state": state}, *(beside or []),
                ]
            ],
        }  # fmt: skip
        if ip is not None:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        patch = json.dumps({"status": status})
        arguments = [f"--namespace={self._namespace}", "--subresource=status", "--type=merge", f"--patch={patch}"]
        self._kubectl("patch", "pod", pod, *arguments)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def running_operator(
    kubeconfig: Path,
    log: Path,
    pod: str = "operator-0",
    arguments: Sequence[str] = (),
    program: Sequence[str] = ("-m", "rft_operator"),
) -> Iterator[Operator]:
    """The operator, for as long as the context."""
    operator = Operator(kubeconfig, log, pod, arguments, program)
    operator.start()
    try:
        yield operator
    finally:
        operator.kill()


def reason(resource: dict[str, Any], kind: str) -> str | None:
    """The reason of a condition."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((str(c["reason"]) for c in conditions if c["type"] == kind), None)


def wait_until_gone(kubectl: Kubectl, *arguments: str) -> None:
    """Waits until `kubectl get` of the arguments finds nothing."""
    found = ""

    def is_gone() -> bool:
        nonlocal found
        found = kubectl("get", "--output=name", "--ignore-not-found", *arguments)
        return not found

    wait_until(is_gone, lambda: f"still there: {found}")
