"""The site, built as `make docs` builds it: its navigation, its links, and that it loads nothing from elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.pages import DOCS, ROOT, page

BUILD = ROOT / "docs" / "site" / "build.py"
# What browsers load by themselves; `a` is followed by people.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
# Where `link` names a page and not a file to load.
NAMES = {"next", "prev", "canonical"}


class Page(HTMLParser):
    """A built page: its anchors, where it leads, and what it loads."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])
        elif (target := values.get(LOADED.get(tag, ""))) and values.get("rel") not in NAMES:
            self.loads.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "built"
    done = subprocess.run([sys.executable, BUILD, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(site.rglob("*.html"))}


def test_every_page_is_on_the_site_and_in_its_navigation(site, pages):
    home = pages[site / "index.html"]
    reached = {(site / unquote(urlsplit(lead).path)).resolve() for lead in home.leads}
    for source in sorted(DOCS.rglob("*.md")):
        name = source.relative_to(ROOT)
        built = site / (name.with_name("index.html") if name.stem == "README" else name.with_suffix(".html"))
        assert built in pages, name
        assert built.resolve() in reached, name


def test_every_link_of_the_site_leads_somewhere(site, pages):
    wrong = []
    for file, found in pages.items():
        for target in found.leads + found.loads:
            parts = urlsplit(target)
            if parts.scheme or file.name == "404.html":
                continue
            linked = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if linked.is_dir():
                linked /= "index.html"
            broken = not linked.is_file()
            if not broken and parts.fragment and linked.suffix == ".html":
                broken = unquote(parts.fragment) not in pages[linked].anchors
            if broken:
                wrong.append(f"{file.relative_to(site)}: {target}")
    assert wrong == []


def test_a_page_loads_nothing_from_elsewhere(pages):
    loaded = [(file.name, target) for file, found in pages.items() for target in found.loads]
    assert loaded
    assert [entry for entry in loaded if urlsplit(entry[1]).netloc] == []


def test_links_to_the_world_have_the_form_of_addresses(pages):
    leads = {lead for found in pages.values() for lead in found.leads if urlsplit(lead).scheme}
    assert leads
    for lead in leads:
        parts = urlsplit(lead)
        assert parts.scheme in {"https", "http"}, lead
        assert "." in parts.netloc, lead


def test_manifests_and_code_are_shown_as_code(site):
    """A block whose first line the generator does not understand would stand there as text."""
    for file in site.rglob("*.html"):
        assert "```" not in file.read_text(encoding="utf-8"), file


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.md", "docs/data.md: nowhere.md is no file of the repository"),
        ("rewards.md#nowhere", "anchor does not exist"),
        ("../../LICENSE", "docs/data.md: ../../LICENSE is no file of the repository"),
    ],
)
def test_a_broken_link_ends_the_build(tmp_path, target, said):
    copy = tmp_path / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "dist", "node_modules", "__pycache__"))
    data = copy / "docs" / "data.md"
    data.write_text(f"{data.read_text(encoding='utf-8')}\nSee [there]({target}).\n", encoding="utf-8")
    command = [sys.executable, copy / "docs" / "site" / "build.py", tmp_path / "built"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "built").exists()


def test_the_drawing_is_that_of_its_text(tmp_path):
    """`make docs` draws it anew."""
    (line,) = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "d2 --layout" in line]
    options = line.split("d2 ", 1)[1].split()[:-2]
    drawn = tmp_path / "architecture.svg"
    program = Path(sysconfig.get_path("scripts"), "d2")
    subprocess.run([program, *options, DOCS / "architecture.d2", drawn], check=True, capture_output=True)
    assert drawn.read_bytes() == (DOCS / "architecture.svg").read_bytes()
    assert "architecture.svg" in page("architecture.md")
