"""Where keys of the gateway are kept: in a folder of this machine, or as Secrets of the cluster that kubectl names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.gateway_key import KEY_LABEL, InvalidKey, Key, parse_secret, secret_document
from rft_api.gateway_key_files import KeyFile, merge_key_files, read_key_folder
from rft_cli.kubectl import ONE_A_LINE, KubectlMissing, listed_objects, run_kubectl
from rft_cli.new_file import new_files

_MOST_VALUES = 20_000
"""Values of a Secret that is read, with its metadata. A key names at most 1,000 models, and has some dozen fields."""


class KeyStore(Protocol):
    """A place of keys."""

    def add(self, key: Key) -> str:
        """Store a new key, and return a sentence that says where it is.

        Raises:
            RunError: when there is one of its name, or it cannot be stored.
        """

    def read(self, namespace: str | None) -> tuple[list[Key], list[str]]:
        """Return the keys of a namespace, or of all, and a sentence for each document that opens nothing.

        Raises:
            RunError: when they cannot be read.
        """

    def remove(self, name: str, namespace: str) -> None:
        """Remove a key.

        Raises:
            RunError: when there is none of its name, or it cannot be removed.
        """


class SecretFile:
    """A new file for one Secret, for those who apply it themselves."""

    def __init__(self, path: Path):
        """Take a file that does not exist yet."""
        self._path = path

    def add(self, key: Key) -> str:
        """Write the Secret."""
        _write_secret(self._path, key)
        return f"{self._path} is the Secret of key {key.name} in namespace {key.namespace}."


class KeyFolder:
    """The folder of keys of a gateway on this machine."""

    def __init__(self, folder: Path):
        """Take a folder, which `add` creates."""
        self._folder = folder

    def add(self, key: Key) -> str:
        """Write the key to a file of its own."""
        for holder in self._files() if self._folder.exists() else []:
            if any((other.namespace, other.name) == (key.namespace, key.name) for other in holder.keys):
                message = f"{holder.path}: key {key.name} of namespace {key.namespace} exists already"
                raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        file = self._folder / f"{key.namespace}.{key.name}.yaml"
        _write_secret(file, key)
        return f"{file} holds key {key.name} of namespace {key.namespace}."

    def read(self, namespace: str | None) -> tuple[list[Key], list[str]]:
        """Read all files."""
        keys, errors = merge_key_files(self._files())
        return [key for key in keys if namespace in (None, key.namespace)], errors

    def remove(self, name: str, namespace: str) -> None:
        """Delete each file that holds the key.

        There may be several: the gateway takes the first. With only that one deleted, the next would count.
        """
        files = self._files()
        holders = [file for file in files if any((key.namespace, key.name) == (namespace, name) for key in file.keys)]
        if not holders:
            message = f"{self._folder}: there is no key {name} of namespace {namespace}"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        shared = [str(file.path) for file in holders if file.documents > 1 or file.errors]
        if shared:
            message = f"{', '.join(shared)}: holds other documents, too; remove key {name} from it by hand"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        for file in holders:
            file.path.unlink(missing_ok=True)
        self._refuse_twins([file for file in files if file not in holders], holders)

    def _refuse_twins(self, others: list[KeyFile], holders: list[KeyFile]) -> None:
        """Say so if the token still opens something, under another name."""
        digests = {key.digest for file in holders for key in file.keys}
        for file in others:
            for key in file.keys:
                if key.digest in digests:
                    place = f"key {key.name} of namespace {key.namespace} in {file.path}"
                    message = f"the key is revoked, but its token opens {place}, too: revoke that one as well"
                    raise RunError(ExitCode.CONFIGURATION_INVALID, message)

    def _files(self) -> list[KeyFile]:
        try:
            return read_key_folder(self._folder)
        except OSError as error:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"{self._folder}: {error.strerror or error}") from None


class ClusterKeys:
    """The Secrets of the cluster that kubectl is configured for, with the permissions of the user."""

    def add(self, key: Key) -> str:
        """Create the Secret."""
        _kubectl("create", "--filename=-", content=json.dumps(secret_document(key)))
        return f"Secret {key.name} of namespace {key.namespace} is created in the cluster."

    def read(self, namespace: str | None) -> tuple[list[Key], list[str]]:
        """Read the Secrets that have the label."""
        place = f"--namespace={namespace}" if namespace else "--all-namespaces"
        answer = _kubectl("get", "secrets", f"--selector={KEY_LABEL}=true", place, ONE_A_LINE)
        keys: list[Key] = []
        found, errors = listed_objects(answer, "Secret", _MOST_VALUES)
        for secret in found:
            try:
                keys.append(parse_secret(secret))
            except InvalidKey as error:
                metadata = secret["metadata"]
                errors.append(one_line(f"Secret {metadata['name']} of namespace {metadata['namespace']}: {error}"))
        return keys, errors

    def remove(self, name: str, namespace: str) -> None:
        """Delete the Secret, also one that opens nothing. Secrets without the label are never deleted."""
        selectors = (f"--selector={KEY_LABEL}=true", f"--field-selector=metadata.name={name}")
        answer = _kubectl("delete", "secrets", *selectors, f"--namespace={namespace}", "--output=name")
        if f"secret/{name}".encode() not in answer.split():  # else kubectl says that it has found nothing
            message = f"there is no key {name} in namespace {namespace} of the cluster"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)


def _write_secret(path: Path, key: Key) -> None:
    """Write the Secret of a key to a new file.

    Raises:
        RunError: OUTPUT_INVALID when the file exists, or cannot be written.
    """
    with new_files([path]) as (file,):
        file.write(_yaml(secret_document(key)).encode())


def _yaml(document: dict[str, Any], indent: str = "") -> str:
    """Write mappings of texts. Values are in quotes, because a digest such as 1e10... would be a number for kubectl."""
    return "".join(
        f"{indent}{name}:\n{_yaml(value, indent + '  ')}"
        if isinstance(value, dict)
        else f"{indent}{name}: {json.dumps(value)}\n"
        for name, value in document.items()
    )


def _kubectl(*arguments: str, content: str = "") -> bytes:
    """Run kubectl, and return its output.

    Raises:
        RunError: CONFIGURATION_INVALID when it cannot be run, or fails; with what it says.
    """
    try:
        return run_kubectl(*arguments, content=content)
    except KubectlMissing as error:
        hint = "without a cluster, name the folder of keys: --folder DIR"
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{error.message}; {hint}") from None
