"""Print the errors of users in the same way in all commands."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

_LONGEST_ERROR = 2000
"""Characters of an error in a manifest; it may quote a value, which may have any size."""
_AGAIN_SECONDS = 0.05
"""Time until a signal whose exception was lost is sent again."""
_SIGNALS: dict[type[BaseException], signal.Signals] = {
    SystemExit: signal.SIGTERM,
    KeyboardInterrupt: signal.SIGINT,
}
"""Which signal has raised which exception."""


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with a message and an exit code, and not with a traceback, when the user has made an error."""
    from rft_api.exit_codes import ExitCode, RunError
    from rft_api.foreign.text import one_line, printable
    from rft_api.manifests import ManifestErrors

    try:
        with _ending_in_order():
            yield
    except ManifestErrors as errors:
        for error in errors.errors:
            # What has no line is about a file as a whole, and does not look like an error by itself.
            prefix = "error: " if error.line is None else ""
            typer.echo(one_line(f"{prefix}{error}", _LONGEST_ERROR), err=True)
        raise typer.Exit(ExitCode.CONFIGURATION_INVALID) from None
    except RunError as error:
        interrupted = error.code is ExitCode.INTERRUPTED  # The user has stopped the run, so this is no error.
        message = printable(error.message)
        typer.echo(message if interrupted else f"error: {message}", err=True)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what it has started ends first, and its folders are removed.

    An exception of a signal's handler is lost when the signal comes where Python cannot raise: in a finalizer, or in
    code of C or Rust that calls Python and ignores errors. The signal is then sent once more.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    def send_again(lost: sys.UnraisableHookArgs) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            previous_hook(lost)
        else:  # From a thread, because this hook cannot raise either.
            again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (threading.get_ident(), number))
            again.daemon = True
            again.start()

    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return
    previous, previous_hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        signal.signal(signal.SIGTERM, previous)
