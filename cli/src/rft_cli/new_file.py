"""Write new files that appear complete or not at all, and never overwrite a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import PARTIAL_SUFFIX, open_new


@contextmanager
def new_files(targets: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open temporary files to write to, and rename them to the targets when the block ends without an error.

    Raises:
        RunError: OUTPUT_INVALID when a target exists already, or cannot be written.
    """
    existing = [str(target) for target in targets if target.exists()]
    if existing:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{', '.join(existing)}: exists already; nothing was written")
    partial_files = [target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}") for target in targets]
    try:
        with ExitStack() as stack:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield [stack.enter_context(open_new(path)) for path in partial_files]
        for path, target in zip(partial_files, targets, strict=True):
            path.rename(target)
    except OSError as error:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{error.filename or targets[0]}: {error.strerror or error}") from None
    finally:
        for path in partial_files:
            path.unlink(missing_ok=True)
