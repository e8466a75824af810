"""Print the errors of users in the same way in all commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with a message and an exit code, and not with a traceback, when the user has made an error."""
    from rft_api.exit_codes import ExitCode, RunError
    from rft_api.manifests import ManifestErrors

    try:
        yield
    except ManifestErrors as errors:
        for error in errors.errors:
            typer.echo(str(error), err=True)
        raise typer.Exit(ExitCode.CONFIGURATION_INVALID) from None
    except RunError as error:
        interrupted = error.code is ExitCode.INTERRUPTED  # The user has stopped the run, so this is no error.
        typer.echo(error.message if interrupted else f"error: {error.message}", err=True)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
