"""Uploads files to the store of the output: what is there already is not sent again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from rft_api.exit_codes import ExitCode, RunError
from rft_api.progress import count_bytes
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_cli.stage_display import shown_stage
from rft_cli.submit.plan import UPLOADS, Upload

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
    with shown_stage(console) as stage, explained():
        count = count_bytes(total, stage.report_bytes("uploading"))
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


def _folder(uri: str) -> str:
    """Return the address of the folder whose name is a digest: s3://BUCKET/.../rft-uploads/sha256-HEX."""
    head, separator, rest = uri.partition(f"/{UPLOADS}/")
    return head + separator + rest.partition("/")[0]
