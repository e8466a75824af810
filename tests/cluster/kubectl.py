"""kubectl, as tests use it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.patience import PATIENCE_SECONDS, wait_until

from cluster.certificates import Pair

Manifest = dict[str, Any]
CRDS = Path(__file__).parents[2] / "crds"
"""The definitions of this project's kinds."""
_MOMENTS = re.compile(r'"resourceVersion": "\d+"|\d{4}-\d\d-\d\dT[\d:.]+Z')
"""What changes in an object although nothing gets ahead."""


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

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs it, whatever comes out."""
        command = [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._cache}", *arguments]
        # Longer than the longest that kubectl itself waits.
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_SECONDS + 60)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Its standard output.

        Raises:
            NotFound: there is no such object.
            AssertionError: it failed; with what it said.
        """
        done = self.run(*arguments, stdin=stdin)
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

    def wait_for(self, *arguments: str, until: Callable[[Manifest], object]) -> Manifest:
        """Wait until `kubectl get` of the arguments returns an object for which `until` is true; return the object."""
        shown = ""

        def read() -> Manifest | None:
            nonlocal shown
            done = self.run("get", "--output=json", *arguments)
            shown = done.stderr + done.stdout
            found: Manifest = json.loads(done.stdout) if done.returncode == 0 else {}
            return found if found and until(found) else None

        found = wait_until(read, lambda: _MOMENTS.sub("", shown), lambda: f"kubectl get {arguments}", self.poll_seconds)
        assert found is not None
        return found

    def wait(self, condition: str, *arguments: str) -> None:
        """`kubectl wait --for`, e.g. `condition=Ready`."""
        self("wait", f"--for={condition}", f"--timeout={PATIENCE_SECONDS:.0f}s", *arguments)

    def delete(self, *arguments: str) -> None:
        """`kubectl delete`; returns when the objects are gone."""
        self("delete", f"--timeout={PATIENCE_SECONDS:.0f}s", *arguments)

    def apply_definitions(self, folder: Path) -> None:
        """Apply the custom resource definitions in a folder, and wait until their kinds are served."""
        self("apply", "--server-side", "-f", str(folder))
        self.wait("condition=Established", "-f", str(folder))
        # The API server tells clients of a kind a moment after it is established.
        for definition in self("get", "--output=name", "-f", str(folder)).split():
            kind = definition.partition("/")[2]
            wait_until(lambda kind=kind: self.run("get", kind).returncode == 0, explain=lambda kind=kind: kind)

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
