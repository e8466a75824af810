"""Versions as uv.lock and the files that repeat them have them."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def version() -> str:
    """The project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def of_lock() -> dict[str, set[str]]:
    """Versions by package; another one may be locked for another Python."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in locked():
        found[package["name"]].add(package.get("version", version()))
    return found


def locked() -> list[dict[str, Any]]:
    """The packages of uv.lock."""
    packages: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return packages


def reward_packages() -> list[str]:
    """Names of the packages that the reward server's image brings for the code of users."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return sorted(groups["reward-packages"])


def of_requirements() -> dict[str, set[str]]:
    """Versions by package of the trainer's image for GPUs, with this project's own."""
    found = defaultdict(set, {name: {version()} for name in ("rft-api", "rft-trainer")})
    text = (ROOT / "trainer-image" / "requirements-cuda.txt").read_text(encoding="utf-8")
    for name, pinned in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE):
        found[name].add(pinned)
    return found
