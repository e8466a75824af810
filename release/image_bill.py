"""Prints the bill of materials (CycloneDX 1.5, JSON) of an image's Python packages. Standard library only.

    python image_bill.py IMAGE VERSION FOLDER...

Runs in the image when it is built. FOLDERS are those with installed packages. The base's own packages are in the
image's Debian database, where scanners read them.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import distributions


def component(name: str, version: str) -> dict[str, str]:
    """Return the entry of a Python package; its purl has the normalised name, which the index uses."""
    name = re.sub("[-_.]+", "-", name).lower()
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def bill(image: str, version: str, folders: list[str]) -> dict[str, object]:
    """Return the bill of materials of an image."""
    installed = [component(package.name, package.version) for package in distributions(path=folders)]
    components = {entry["bom-ref"]: entry for entry in installed}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": f"rft-{image}", "version": version}},
        "components": [components[key] for key in sorted(components)],
    }


if __name__ == "__main__":
    json.dump(bill(sys.argv[1], sys.argv[2], sys.argv[3:]), sys.stdout, indent=1)
