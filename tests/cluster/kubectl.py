"""kubectl, as tests use it."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.certificates import Pair

Manifest = dict[str, Any]


class NotFound(AssertionError):
    """There is no such object."""


class Kubectl:
    """kubectl with one kubeconfig."""

    poll_seconds = 0.2
    """Time between two looks while it waits."""

    def __init__(self, binary: Path, kubeconfig: Path):
        self.binary = binary
        self.kubeconfig = kubeconfig
        # Discovery is kept per cluster; a folder of the user's would be shared with clusters long gone.
        self._cache = kubeconfig.parent / "kubectl-cache"

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Runs it, whatever comes out."""
        command = [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._cache}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 200) -> str:
        """Its standard output.

        Raises:
            NotFound: there is no such object.
            AssertionError: it failed; with what it said.
        """
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        if done.returncode:
            error = NotFound if "(NotFound)" in done.stderr else AssertionError
            raise error(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def apply(self, *manifests: Manifest, namespace: str = "default") -> None:
        """Server-side apply."""
        self("apply", "--server-side", f"--namespace={namespace}", "-f", "-", stdin=_stream(manifests))

    def refuse(self, manifest: Manifest, *arguments: str) -> str:
        """What the API server says against a manifest, which it has to refuse; nothing is stored either way."""
        done = self.run("apply", "--server-side", "--dry-run=server", *arguments, "-f", "-", stdin=_stream([manifest]))
        assert done.returncode != 0, f"accepted: {manifest}"
        return done.stderr

    def get(self, *arguments: str) -> Manifest:
        """An object, or a list of objects."""
        found: Manifest = json.loads(self("get", "--output=json", *arguments))
        return found

    def wait_for(self, *arguments: str, until: Callable[[Manifest], bool], seconds: float = 180) -> Manifest:
        """Waits until `kubectl get` of the arguments shows what is wanted; returns the object."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.run("get", "--output=json", *arguments)
            if done.returncode == 0 and until(found := json.loads(done.stdout)):
                return found
            assert time.monotonic() < deadline, f"not within {seconds} s: {arguments}\n{done.stderr}{done.stdout}"
            time.sleep(self.poll_seconds)

    @contextlib.contextmanager
    def namespace(self, name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
        """A namespace with a ServiceAccount for pods, deleted at the end without waiting for it."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        self.wait_for("serviceaccount", "default", f"--namespace={name}", until=lambda _: True)
        try:
            yield name
        finally:
            self.run("delete", "namespace", name, "--wait=false")


def write_kubeconfig(path: Path, server: str, authority: Path, client: Pair) -> Path:
    """Writes a kubeconfig that needs no other file. (JSON is YAML.)"""

    def encoded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    user = {"client-certificate-data": encoded(client.certificate), "client-key-data": encoded(client.key)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": encoded(authority)}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def _stream(manifests: tuple[Manifest, ...] | list[Manifest]) -> str:
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests)
