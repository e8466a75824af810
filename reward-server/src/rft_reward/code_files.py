"""Writes the further files of reward code to a folder, in which workers import and read them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rft_api.reward_function import RewardFunction


@contextlib.contextmanager
def code_folder(function: RewardFunction) -> Iterator[Path | None]:
    """Yield a folder with the files of the function, which any user may read; None when it has no files.

    Terms of a combined reward share the folder: their files have different names, or the same text.
    """
    files = {
        name: text
        for _, grader in function.spec.graders()
        if grader.python is not None
        for name, text in (grader.python.files or {}).items()
    }
    if not files:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rft-code-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, text in files.items():
            path = folder / file
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield folder
