"""Uploads files to the store of the output: what is there already is not sent again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import printable
from rft_api.progress import Report, count_bytes
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_cli.submit.plan import UPLOADS, Upload

SILENCE_SECONDS = 10.0
"""Without a terminal, a line is printed when nothing was printed for so many seconds."""
_CREDENTIALS = (
    "uploads use the credentials of your environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), and not "
    "those of the job's Secret"
)


def missing_uploads(store: ObjectStore, uploads: Sequence[Upload]) -> list[Upload]:
    """Return the files that are not in the store yet. An object appears only when all of it is there.

    Raises:
        RunError: when the store cannot be asked.
    """
    stored: dict[str, int] = {}
    with explained():
        # The part of an address up to the digest is a folder of few objects.
        for folder in dict.fromkeys(_folder(upload.uri) for upload in uploads):
            stored.update({f"{folder}/{item.name}": item.size for item in store.objects(folder)})
    return [upload for upload in uploads if stored.get(upload.uri) != upload.size]


def upload_all(store: ObjectStore, uploads: Sequence[Upload], console: Console) -> None:
    """Upload files, and show how far it is.

    Raises:
        RunError: when the store refuses, cannot be reached, or a file has changed.
    """
    total = sum(upload.size for upload in uploads)
    with shown_bytes(console, "uploading") as report, explained():
        count = count_bytes(total, report)
        for upload in uploads:
            try:
                store.upload_digested(upload.path, upload.uri, upload.digest, count)
            except OSError as error:
                message = f"{upload.path}: {error.strerror or error}"
                raise RunError(ExitCode.CONFIGURATION_INVALID, message) from error


@contextmanager
def explained() -> Iterator[None]:
    """Convert errors of the store into errors for the user, which say whose credentials are used."""
    try:
        yield
    except StorageError as error:
        code = ExitCode.OUTPUT_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
        hint = f"; {_CREDENTIALS}" if error.request_failed else ""
        raise RunError(code, f"{error}{hint}") from error


@contextmanager
def shown_bytes(console: Console, what: str) -> Iterator[Report]:
    """Yield what takes the progress in bytes: a bar on a terminal, elsewhere a line every ten seconds.

    Args:
        console: the console that shows it.
        what: what is done, such as `uploading`.
    """
    if not console.is_terminal:
        yield _Lines(console, what)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Prints a line about bytes when nothing was printed for a while, and one at the end."""

    def __init__(self, console: Console, what: str):
        self._console = console
        self._what = what
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take the bytes so far, and their total."""
        now = time.monotonic()
        if done < total and now - self._last < SILENCE_SECONDS:
            return
        self._last = now
        text = f"{self._what}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        self._console.print(Text(printable(text)), soft_wrap=True)


def _folder(uri: str) -> str:
    """Return the address of the folder whose name is a digest: s3://BUCKET/.../rft-uploads/sha256-HEX."""
    head, separator, rest = uri.partition(f"/{UPLOADS}/")
    return head + separator + rest.partition("/")[0]
