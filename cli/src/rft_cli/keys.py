"""`rft keys create`, `list` and `revoke`: the keys with which clients use the gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.gateway_key import (
    InvalidKey,
    Key,
    Limits,
    make_token,
    parse_models,
    parse_secret,
    secret_document,
    token_digest,
)
from rft_api.quantities import NAME_PATTERN
from rft_cli.key_stores import ClusterKeys, KeyFolder, KeyStore, SecretFile
from rft_cli.key_values import parse_amount, parse_end


def key_store(folder: Path | None) -> KeyStore:
    """Return where keys are kept: in a folder, or in the cluster if none is named."""
    return ClusterKeys() if folder is None else KeyFolder(folder)


def new_key_store(folder: Path | None, output: Path | None) -> KeyStore | SecretFile:
    """Return where a new key goes: into a folder, into a file, or into the cluster if none is named.

    Raises:
        RunError: CONFIGURATION_INVALID when both are named.
    """
    if folder is not None and output is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "--folder and --output exclude each other: name one of them")
    return SecretFile(output) if output is not None else key_store(folder)


def create_key(
    store: KeyStore | SecretFile,
    name: str,
    namespace: str,
    models: str | None,
    expires: str | None,
    amounts: Mapping[str, str | None],
) -> None:
    """Create a key, and print its token alone on the standard output.

    Args:
        store: where the key goes.
        name: its name.
        namespace: its namespace.
        models: names of the models that it opens, with commas between them; None for all.
        expires: when it ends.
        amounts: the limits, by the names of their options.

    Raises:
        RunError: when a value is wrong, or the key cannot be stored.
    """
    token = make_token()
    limits = {_field(option): parse_amount(option, text) for option, text in amounts.items() if text is not None}
    end = None if expires is None else parse_end("--expires", expires, datetime.now(UTC))
    try:
        opened = () if models is None else parse_models(models)
    except ValueError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"--models: {error}") from None
    try:
        # What is written must be what is read.
        key = parse_secret(secret_document(Key(name, namespace, token_digest(token), opened, end, Limits(**limits))))
    except InvalidKey as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, str(error)) from None
    typer.echo(f"{store.add(key)} Its token is shown only now:", err=True)
    typer.echo(token)


def list_keys(store: KeyStore, namespace: str | None, console: Console) -> None:
    """Print a table of the keys.

    Raises:
        RunError: CONFIGURATION_INVALID after the table when documents open nothing, with a sentence for each.
    """
    keys, errors = store.read(namespace)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("namespace", "key", "models", "expires", "limits"):
        table.add_column(column, overflow="fold")
    now = datetime.now(UTC)
    for key in sorted(keys, key=lambda key: (key.namespace, key.name)):
        table.add_row(key.namespace, key.name, ", ".join(key.models) or "all", _end(key, now), _limits(key.limits))
    console.print(table if keys else "There are no keys.")
    if errors:
        title = f"{len(errors)} documents open nothing:" if len(errors) > 1 else "a document opens nothing:"
        raise RunError(ExitCode.CONFIGURATION_INVALID, "\n".join([title, *errors]))


def revoke_key(store: KeyStore, name: str, namespace: str) -> None:
    """Remove a key.

    Raises:
        RunError: when there is none of its name, or its token opens something after that.
    """
    for option, text in (("NAME", name), ("--namespace", namespace)):
        if not re.fullmatch(NAME_PATTERN, text):  # kubectl would take it for more than a name
            raise RunError(
                ExitCode.CONFIGURATION_INVALID, f"{option}: {one_line(text, 63)!r} is no name of a key or namespace"
            )
    store.remove(name, namespace)
    typer.echo(f"Key {name} of namespace {namespace} is revoked.", err=True)


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _end(key: Key, now: datetime) -> str:
    if key.expires is None:
        return "never"
    return f"{key.expires:%Y-%m-%d %H:%M} UTC{' (expired)' if key.expires <= now else ''}"


def _limits(limits: Limits) -> str:
    texts = {
        "{:,} requests a minute": limits.requests_per_minute,
        "{:,} tokens a minute": limits.tokens_per_minute,
        "{:,} tokens a day": limits.tokens_per_day,
        "{:,} tokens a month": limits.tokens_per_month,
        "{:,} at the same time": limits.parallel_requests,
    }
    return "\n".join(text.format(limit) for text, limit in texts.items() if limit is not None) or "none"
