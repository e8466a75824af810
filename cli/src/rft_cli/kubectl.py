"""Runs kubectl, which knows the clusters, contexts and log-in of the user, and has no other permissions than theirs."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rft_api.exact_json import parse_row
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import most_values, parse_bounded
from rft_api.foreign.text import one_line
from rft_api.model import Json

_LONGEST_MESSAGE = 2000
"""Characters of what kubectl says that are shown."""
_PATIENCE = "--request-timeout=60s"
"""A request that takes longer fails; without the flag, kubectl waits for an API server that does not answer."""


ONE_A_LINE = '--output=jsonpath={range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{" "}{@}{"\\n"}{end}'
"""Has kubectl write each object of a list on a line, as JSON, behind its namespace and name."""


class KubectlError(RunError):
    """kubectl cannot be run, or has refused something; the message has what it says."""

    def __init__(self, message: str):
        super().__init__(ExitCode.CONFIGURATION_INVALID, message)


class KubectlMissing(KubectlError):
    """There is no kubectl on this machine."""


def run_kubectl(*arguments: str, content: str = "") -> bytes:
    """Run kubectl, and return its standard output.

    Args:
        arguments: its arguments.
        content: its standard input.

    Raises:
        KubectlError: when it cannot be run, or fails; with what it says.
    """
    try:
        result = subprocess.run(["kubectl", *arguments], input=content.encode(), capture_output=True, check=False)
    except OSError as error:
        raise KubectlMissing(f"kubectl: {error.strerror or error}") from None
    if result.returncode:
        cause = one_line(result.stderr.decode(errors="replace"), _LONGEST_MESSAGE)
        raise KubectlError(f"kubectl {arguments[0]}: {cause}")
    return result.stdout


class Kubectl:
    """kubectl with the user's choice of kubeconfig, context and namespace.

    Args:
        kubeconfig: path of the kubeconfig; None for what KUBECONFIG and the home folder say.
        context: name of the context; None for the current one.
        namespace: name of the namespace; None for that of the context.

    Attributes:
        context: name of the context.
        namespace: the namespace of the user's choice, or else of the context.

    Raises:
        KubectlError: when there is no kubectl, no kubeconfig or no such context.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None):
        self._options = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        self._options += [f"--context={context}"] if context else []
        try:
            answer = parse_bounded(run_kubectl("config", "view", "--minify", "--output=json", *self._options))
        except KubectlMissing:
            raise
        except KubectlError as error:
            raise KubectlError(_explain_configuration(error.message, kubeconfig, context)) from None
        contexts = answer.get("contexts") or []
        if not contexts:
            raise KubectlError(_explain_configuration("kubectl config: no context", kubeconfig, context))
        self.context: str = contexts[0]["name"]
        self.namespace: str = namespace or contexts[0]["context"].get("namespace") or "default"

    def __call__(self, *arguments: str, content: str = "") -> bytes:
        """Run it with these arguments in the context; see `run_kubectl`. Errors say what to do about them."""
        try:
            return run_kubectl(*arguments, *self._options, _PATIENCE, content=content)
        except KubectlMissing:
            raise
        except KubectlError as error:
            raise KubectlError(_explain_refusal(error.message, self.context)) from None

    @property
    def flags(self) -> str:
        """The options with which another command of rft, or kubectl, finds the same namespace, as a shell takes them.

        They state the context and the kubeconfig where the user has: without these, a command that is copied from a
        message would mean an object of the same name in another cluster.
        """
        return shlex.join(["-n", self.namespace, *self._options])

    def find(self, documents: Sequence[Json]) -> list[Json]:
        """Return those of the objects, by their kinds, namespaces and names, that exist.

        Raises:
            KubectlError: when they may not be read, or the API server does not know a kind.
        """
        if not documents:
            return []
        answer = self("get", "--filename=-", "--ignore-not-found", "--output=json", content=_stream(documents))
        return _objects(answer)

    def apply(self, document: Json, *, dry_run: bool = False) -> Json:
        """Apply an object with server-side apply, and return it as stored.

        Args:
            document: the object.
            dry_run: whether the API server only says what it would store.

        Raises:
            KubectlError: when the API server refuses it.
        """
        options = ["--server-side", "--force-conflicts", "--field-manager=rft", "--output=json"]
        options += ["--dry-run=server"] if dry_run else []
        (applied,) = _objects(self("apply", *options, "--filename=-", content=_stream([document])))
        return applied

    def get(self, kind: str, name: str) -> Json | None:
        """Return an object of the namespace, or None when it does not exist.

        Raises:
            KubectlError: when it may not be read, or the API server does not answer.
        """
        place = f"--namespace={self.namespace}"
        objects = _objects(self("get", kind, name, place, "--ignore-not-found", "--output=json"))
        return objects[0] if objects else None

    @contextmanager
    def output_of(self, *arguments: str) -> Iterator[IO[bytes]]:
        """Yield the standard output of kubectl while it runs; end it with the block. Its errors go to ours.

        Raises:
            KubectlError: when it cannot be run, or fails.
        """
        try:
            process = subprocess.Popen(["kubectl", *arguments, *self._options], stdout=subprocess.PIPE)
        except OSError as error:
            raise KubectlMissing(f"kubectl: {error.strerror or error}") from None
        try:
            assert process.stdout is not None
            yield process.stdout
            if process.wait():
                raise KubectlError(f"kubectl {arguments[0]} ended with code {process.returncode}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def listed_objects(answer: bytes, kind: str, most: int) -> tuple[list[Json], list[str]]:
    """Return the objects of a list, and a sentence for each that is not read: one of a tenant leaves the others.

    Args:
        answer: what kubectl has written with the option `ONE_A_LINE`.
        kind: the kind of the objects.
        most: the largest number of values of an object, which are counted before it is parsed.
    """
    objects: list[Json] = []
    errors: list[str] = []
    for line in io.BytesIO(answer):
        namespace, name, content = line.split(b" ", 2)
        try:
            if most_values(content) > most:
                raise ValueError(f"has more than {most:,} values, and was not read")
            objects.append(parse_row(content))
        except ValueError as error:
            errors.append(one_line(f"{kind} {name.decode()} of namespace {namespace.decode()}: {error}"))
    return objects, errors


def _stream(documents: Sequence[Json]) -> str:
    return "\n---\n".join(json.dumps(document, ensure_ascii=False) for document in documents)


def _objects(answer: bytes) -> list[Json]:
    """Return the objects of an answer: of a list, a single one, or none."""
    if not answer.strip():
        return []
    document: Any = parse_bounded(answer)
    if document.get("kind") == "List":
        items: list[Json] = document["items"]
        return items
    return [document]


def _explain_configuration(problem: str, kubeconfig: str | None, context: str | None) -> str:
    place = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if context is not None:
        return f"{problem}; kubectl config get-contexts lists the contexts of {place}"
    return (
        f"{problem}: {place} names no cluster; name a context (--context) or another kubeconfig (--kubeconfig, "
        "KUBECONFIG)"
    )


def _explain_refusal(message: str, context: str) -> str:
    """Return what kubectl says, with what to do about it."""
    if "no matches for kind" in message or "doesn't have a resource type" in message:
        return (
            f"the cluster of context {context} does not know the resources of rft.dev: install rft-operator "
            f"there, or name another context (--context) ({message})"
        )
    if "(Forbidden)" in message or "is forbidden" in message:
        return f"{message}; ask for a role that allows it, or name another namespace (-n) or context (--context)"
    if "(NotFound)" in message and "namespaces" in message:
        return f"{message}; create the namespace, or name another one (-n)"
    return message
