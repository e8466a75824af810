"""Build the documentation's site from the pages of the repository; the exit status is 1 when there is a warning.

    python docs/site/build.py OUTPUT

The pages keep their paths, and files to which they link are copied, too, so links work on the site as they do in the
repository. The navigation comes from docs/README.md: its headings, and below each the pages of its table.
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
    """Return Markdown without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    """Return the files to which a page links, as the page writes them."""
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text))]
    return [target for target in targets if target and not re.match(r"[a-z]+:", target)]


def collect(root: Path) -> set[Path]:
    """Return all pages of the site and all files to which one of them links.

    Raises:
        ValueError: when a link leads to no file, or out of the repository.
    """
    queue = [root / "README.md", *(root / "docs").rglob("*.md")]
    files: set[Path] = set()
    while queue:
        file = queue.pop()
        if file in files:
            continue
        files.add(file)
        if file.suffix != ".md":
            continue
        for target in links(file.read_text(encoding="utf-8")):
            linked = (file.parent / target).resolve()
            if not linked.is_file() or not linked.is_relative_to(root):
                page = file.relative_to(root)
                raise ValueError(f"{page}: {target} is no file of the repository; name folders as code")
            queue.append(linked)
    return files


def navigation(index: str) -> list[dict[str, object]]:
    """Return the headings of the index, and below each the pages of its table."""
    sections: list[dict[str, object]] = [{"Home": "README.md"}, {"All pages": INDEX}]
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        rows = re.findall(r"^\| \[([^\]]+)\]\(([^)#]+)\)", section, flags=re.MULTILINE)
        pages = [{name: site_path(path)} for name, path in rows]
        if pages:
            sections.append({title: pages})
    return sections


def site_path(path: str) -> str:
    """Return the path of a page on the site, from its link in the index."""
    return str((ROOT / INDEX).parent.joinpath(path).resolve().relative_to(ROOT))


def build(output: Path) -> int:
    """Build the site, replace the output folder with it, and return the exit status of the site's builder."""
    output = output.resolve()
    configuration = (ROOT / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8")
    nav = json.dumps(navigation((ROOT / INDEX).read_text(encoding="utf-8")))
    inline = re.sub(r'("(?:[^"\\]|\\.)*"): ', r"\1 = ", nav)
    with tempfile.TemporaryDirectory() as folder:
        staging = Path(folder)
        for file in collect(ROOT):
            copy = staging / "pages" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        settings = f'[project]\nnav = {inline}\ndocs_dir = "pages"\nsite_dir = "site"\n'
        (staging / "zensical.toml").write_text(configuration.replace("[project]\n", settings, 1), encoding="utf-8")
        command = [str(Path(sysconfig.get_path("scripts"), "zensical")), "build", "--strict", "--clean"]
        process = subprocess.run([*command, "--config-file", str(staging / "zensical.toml")], check=False)
        if process.returncode == 0:
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(staging / "site", output)
    return process.returncode


def main() -> int:
    """Build the site; return 0 when it is complete, and another exit status after the reason was printed."""
    parser = argparse.ArgumentParser(description="Build the documentation's site.")
    parser.add_argument("output", type=Path)
    try:
        return build(parser.parse_args().output)
    except ValueError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
