"""Reads a run whose folder is in an object store: what a report needs is copied, and neither models nor rollouts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rft_api.exit_codes import ExitCode, RunError
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_cli.caches import cache_folder
from rft_cli.stage_display import shown_stage

_FILES = ("job.json", "metrics.jsonl", "preflight.json", "summary.json")
_FOLDER = "evaluations/"


def fetch_run(uri: str) -> Path:
    """Copy what a report reads of a run to a folder of the user's cache, and return the folder.

    Args:
        uri: address of the run's output, s3://BUCKET/PREFIX.

    Raises:
        RunError: OUTPUT_INVALID when there is no run, or it may not be read; STORAGE_UNREACHABLE when the store does
            not answer.
    """
    address = uri.rstrip("/")
    folder = cache_folder("reports") / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        with shown_stage() as stage:
            report = stage.report_bytes(f"fetching {address}")
            is_there = ObjectStore().fetch(
                address, folder, lambda name: name in _FILES or name.startswith(_FOLDER), report
            )
    except StorageError as error:
        code = ExitCode.OUTPUT_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
        raise RunError(code, str(error)) from error
    except OSError as error:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{folder} cannot be written: {error.strerror or error}") from error
    if not is_there:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{address}: no file of a run is stored there")
    return folder
