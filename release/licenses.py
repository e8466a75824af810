"""Writes docs/reference/licenses.md: the licences of every Python package that is shipped.

    python release/licenses.py PACKAGE...          # writes the page
    python release/licenses.py --check PACKAGE...  # ends with 1 when it is out of date

uv.lock says which packages are shipped; under which licence, their own metadata, as pip-licenses reads them here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "licenses.md"
# Words of licences that ask for something when the software is passed on, strongest first.
KINDS = {
    "copyleft": r"(?<!L)(?<!Lesser )A?GPL|Affero",
    "weak copyleft": r"LGPL|MPL|Mozilla|EPL|CDDL|EUPL",
    "proprietary": r"NVIDIA|Proprietary",
    "unknown": r"^unknown$",
}
INTRODUCTION = """# Licences of the dependencies

Made by `make licenses` from `uv.lock` and the metadata of the packages. rft-operator itself is Apache-2.0. These are
the Python packages that the images hold, and that `rft` needs on a machine; what only tests, the site and releases need
is not shipped. The images' base adds Python and Debian's packages, whose licences are in `/usr/share/doc` there. A
package in a newer version may have another licence: this page is about these versions.

This is what packages say of themselves, and no legal advice.

## What to look at

Licences that ask for something when you pass an image on, or that are not stated:

| Package | Licence | Kind | Needed by |
|---|---|---|---|
"""
ALL = """
## All

| Package | Version | Licence |
|---|---|---|
"""
CUDA = """
## Only in the image for GPUs

`trainer-image/requirements-cuda.txt` adds these. They are not installed where this page is made; in the image each says
its licence in `/opt/rft/lib/python3*/site-packages/NAME-VERSION.dist-info`. Those of NVIDIA (`nvidia-*`, `cuda-*`,
`nccl*`) are proprietary: read NVIDIA's terms before you pass an image on.

"""


@dataclass(frozen=True)
class Package:
    """A package of uv.lock."""

    name: str
    versions: tuple[str, ...]
    license: str
    needed_by: tuple[str, ...]

    @property
    def kind(self) -> str | None:
        """What its licence asks for, if anything; a choice between licences asks for the least."""
        binding = re.sub(r"\([^()]*\bOR\b[^()]*\)", "", self.license)
        if re.search(r"\bOR\b", binding):
            return None
        return next((kind for kind, pattern in KINDS.items() if re.search(pattern, binding, re.IGNORECASE)), None)


def normal(name: str) -> str:
    """A package's name as uv.lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(uv: Path, own: list[str]) -> set[str]:
    """Names of the packages that this project's own need to run, and of those that images bring for rewards."""
    options = (
        "--quiet --frozen --no-default-groups --all-extras --no-emit-workspace --no-hashes --no-annotate --no-header"
    )
    command = [str(uv), "export", *options.split(), *(f"--package={name}" for name in own)]
    command += ["--package=rft-operator", "--group=reward-packages"]  # the workspace, which has nothing else here
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", done.stdout, re.MULTILINE))


def installed_licenses() -> dict[str, str]:
    """The licence that each package of this environment states."""
    program = Path(sysconfig.get_path("scripts"), "pip-licenses")
    command = [str(program), "--python", sys.executable, "--format=json", "--from=mixed", "--with-system"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # Some put the whole text there.
    return {normal(entry["Name"]): entry["License"].strip().splitlines()[0] for entry in found}


def packages(names: set[str], licenses: dict[str, str]) -> list[Package]:
    """What is known of some packages."""
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    versions: dict[str, set[str]] = {}
    needed_by: dict[str, set[str]] = {}
    for entry in locked:
        versions.setdefault(entry["name"], set()).add(entry.get("version", ""))
        extras = entry.get("optional-dependencies", {}).values()
        for other in [*entry.get("dependencies", []), *(each for group in extras for each in group)]:
            needed_by.setdefault(other["name"], set()).add(entry["name"])
    own = {entry["name"] for entry in locked if "registry" not in entry["source"]}
    return [
        Package(
            name,
            tuple(sorted(versions[name])),
            re.sub("^UNKNOWN$", "unknown", licenses.get(name, "unknown")),
            tuple(sorted(needed_by.get(name, set()) & (names | own))),
        )
        for name in sorted(names)
    ]


def only_cuda(names: set[str]) -> list[str]:
    """Packages, with their versions, that the image for GPUs adds."""
    text = (ROOT / "trainer-image" / "requirements-cuda.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)([^\\\n]*)", text, re.MULTILINE)
    return [f"{name} {version}" for name, version, marker in found if name not in names and "win32" not in marker]


def render(found: list[Package], cuda: list[str]) -> str:
    """The page."""
    flagged = [package for package in found if package.kind]
    lines = [f"| {p.name} | {p.license} | {p.kind} | {', '.join(p.needed_by)} |\n" for p in flagged]
    rows = [f"| {p.name} | {', '.join(p.versions)} | {p.license} |\n" for p in found]
    return "".join([INTRODUCTION, *lines, ALL, *rows, CUDA, ", ".join(cuda), ".\n"])


def main() -> int:
    """Exit status 0: the page is right; 1: it is not."""
    parser = argparse.ArgumentParser(description="Writes the page of licences.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when the page is out of date")
    parser.add_argument("--uv", type=Path, default=Path("uv"), help="the uv to ask")
    parser.add_argument("packages", nargs="+", help="this project's packages that are shipped")
    options = parser.parse_args()
    names = needed(options.uv, options.packages)
    page = render(packages(names, installed_licenses()), only_cuda(names))
    if options.check:
        if PAGE.read_text(encoding="utf-8") != page:
            print(f"{PAGE.relative_to(ROOT)} is out of date: make licenses writes it", file=sys.stderr)
            return 1
    else:
        PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
