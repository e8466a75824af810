"""Builds the documentation's site from the pages as they stand in the repository; a warning ends it with 1.

    python docs/site/build.py OUTPUT

The pages keep their places, and what they link to comes along, so every link works on the site as it does in the
repository. The navigation is docs/README.md: its headings, and below each the pages of its table.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDEX = "docs/README.md"


def without_code(text: str) -> str:
    """Markdown without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    """The files that a page links to, as it writes them."""
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text))]
    return [target for target in targets if target and not re.match(r"[a-z]+:", target)]


def collect(root: Path) -> set[Path]:
    """Every page of the site and every file that one of them links to.

    Raises:
        ValueError: a link leads nowhere, or out of the repository.
    """
    waiting = [root / "README.md", *(root / "docs").rglob("*.md")]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        if file.suffix != ".md":
            continue
        for target in links(file.read_text(encoding="utf-8")):
            linked = (file.parent / target).resolve()
            if not linked.is_file() or not linked.is_relative_to(root):
                page = file.relative_to(root)
                raise ValueError(f"{page}: {target} is no file of the repository; name folders as code")
            waiting.append(linked)
    return found


def navigation(index: str) -> list[dict[str, object]]:
    """The headings of the index, and below each the pages that its table names."""
    sections: list[dict[str, object]] = [{"Home": "README.md"}, {"All pages": INDEX}]
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        rows = re.findall(r"^\| \[([^\]]+)\]\(([^)#]+)\)", section, flags=re.MULTILINE)
        pages = [{name: shown(path)} for name, path in rows]
        if pages:
            sections.append({title: pages})
    return sections


def shown(path: str) -> str:
    """A page's place on the site, from its link in the index."""
    return str((ROOT / INDEX).parent.joinpath(path).resolve().relative_to(ROOT))


def build(output: Path) -> int:
    """Builds the site into a folder, which is replaced; the builder's exit status."""
    output = output.resolve()
    configuration = (ROOT / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8")
    nav = json.dumps(navigation((ROOT / INDEX).read_text(encoding="utf-8")))
    inline = re.sub(r'("(?:[^"\\]|\\.)*"): ', r"\1 = ", nav)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        for file in collect(ROOT):
            copy = staged / "pages" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        own = f'[project]\nnav = {inline}\ndocs_dir = "pages"\nsite_dir = "site"\n'
        (staged / "zensical.toml").write_text(configuration.replace("[project]\n", own, 1), encoding="utf-8")
        command = [str(Path(sysconfig.get_path("scripts"), "zensical")), "build", "--strict", "--clean"]
        done = subprocess.run([*command, "--config-file", str(staged / "zensical.toml")], check=False)
        if done.returncode == 0:
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(staged / "site", output)
    return done.returncode


def main() -> int:
    """Exit status 0: the site is complete; otherwise the reason was printed."""
    parser = argparse.ArgumentParser(description="Builds the documentation's site.")
    parser.add_argument("output", type=Path)
    try:
        return build(parser.parse_args().output)
    except ValueError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
