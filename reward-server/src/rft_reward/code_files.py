"""Writes the further files of reward code to a folder, in which workers import and read them."""

from __future__ import annotations

from pathlib import Path

from rft_api.reward_function import RewardFunction


def write_code(function: RewardFunction, folder: Path) -> Path | None:
    """Write the files of the function to a new folder, which any user may read; return it, or None without files.

    Terms of a combined reward share the folder: their files have different names, or the same text.
    """
    files = {
        name: text
        for _, grader in function.spec.graders()
        if grader.python is not None
        for name, text in (grader.python.files or {}).items()
    }
    if not files:
        return None
    folder.mkdir()
    folder.chmod(0o755)
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
