"""The folder of a server's temporary files: those of its workers, and the further files of reward code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rft_api.scratch import scratch_folder
from rft_reward import watch


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """Yield a new folder, and remove it in the end; folders of servers that were killed are removed first."""
    with scratch_folder("rft-reward-", watch.remove) as folder:
        folder.chmod(0o711)  # workers are another user, and know where their own folders are
        try:
            yield folder
        finally:
            watch.remove(folder)
