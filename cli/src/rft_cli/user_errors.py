"""How the errors of all commands look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the command with a message, not a traceback, when what the user gave is wrong."""
    from rft_api.exit_codes import ExitCode, RunError
    from rft_api.manifests import ManifestErrors

    try:
        yield
    except ManifestErrors as wrong:
        for error in wrong.errors:
            typer.echo(str(error), err=True)
        raise typer.Exit(ExitCode.CONFIGURATION_INVALID) from None
    except RunError as error:
        stopped = error.code is ExitCode.INTERRUPTED  # as the user asked
        typer.echo(error.message if stopped else f"error: {error.message}", err=True)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
