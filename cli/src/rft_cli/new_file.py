"""New files that appear whole or not at all, and never in place of others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import PARTIAL_SUFFIX


@contextmanager
def new_files(targets: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Files to write to; they get their names when the block has ended without an error.

    Raises:
        RunError: OUTPUT_INVALID when one of them exists, or cannot be written.
    """
    taken = [str(target) for target in targets if target.exists()]
    if taken:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{', '.join(taken)}: exists already; nothing was written")
    partial = [target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}") for target in targets]
    try:
        with ExitStack() as stack:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield [stack.enter_context(path.open("wb")) for path in partial]
        for path, target in zip(partial, targets, strict=True):
            path.rename(target)
    except OSError as error:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{error.filename or targets[0]}: {error.strerror or error}") from None
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
