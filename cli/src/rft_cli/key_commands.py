"""`rft keys`: commands that create, list and revoke the keys of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rft_cli.user_errors import user_errors

key_commands = typer.Typer(help="Create, list and revoke keys of the gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, unique in its namespace.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace whose models the key opens.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder with the keys of a gateway on this machine, in place of the cluster of kubectl.",
        show_default=False,
    ),
]


def _amount(name: str, what: str) -> Any:
    """Return an option for a limit."""
    return typer.Option(name, metavar="N", help=f"{what}, such as 60, 100k or 1.5M.", show_default=False)


@key_commands.command()
def create(
    name: Name,
    namespace: Namespace = "default",
    folder: Folder = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write the Secret to this new file.", show_default=False),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(metavar="MODEL,...", help="The models that it opens, in place of all.", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When it ends: in 12h, 30d or 8w, or at 2027-01-31T12:00:00Z.", show_default=False
        ),
    ] = None,
    requests_per_minute: Annotated[str | None, _amount("--requests-per-minute", "Requests in any 60 seconds")] = None,
    tokens_per_minute: Annotated[str | None, _amount("--tokens-per-minute", "Tokens in any 60 seconds")] = None,
    tokens_per_day: Annotated[str | None, _amount("--tokens-per-day", "Tokens of a day (UTC)")] = None,
    tokens_per_month: Annotated[str | None, _amount("--tokens-per-month", "Tokens of a month (UTC)")] = None,
    parallel_requests: Annotated[str | None, _amount("--parallel-requests", "Requests at the same time")] = None,
) -> None:
    """Create a key, and print its token, which is stored nowhere and shown only this once."""
    with user_errors():
        from rft_cli.keys import create_key, new_key_store

        amounts = {
            "--requests-per-minute": requests_per_minute, "--tokens-per-minute": tokens_per_minute,
            "--tokens-per-day": tokens_per_day, "--tokens-per-month": tokens_per_month,
            "--parallel-requests": parallel_requests,
        }  # fmt: skip
        create_key(new_key_store(folder, output), name, namespace, models, expires, amounts)


@key_commands.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only keys of this namespace.", show_default=False)
    ] = None,
    folder: Folder = None,
) -> None:
    """List keys, what they open and how much, and documents that open nothing."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.keys import key_store, list_keys

        list_keys(key_store(folder), namespace, make_console())


@key_commands.command()
def revoke(name: Name, namespace: Namespace = "default", folder: Folder = None) -> None:
    """Revoke a key: within seconds, its token opens nothing."""
    with user_errors():
        from rft_cli.keys import key_store, revoke_key

        revoke_key(key_store(folder), name, namespace)
