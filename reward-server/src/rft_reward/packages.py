"""Installs the packages that reward code declares, in a folder that workers may only read.

The command `python -m rft_reward.packages` installs them before the server starts, and never runs code of a package:
only wheels are installed, which need no build. An image can bring packages instead: see `BUNDLED_PACKAGES`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rft_api.exit_codes import ExitCode
from rft_api.files import atomic_folder
from rft_api.requirements import requirements_digest
from rft_reward.configuration import ConfigurationError, load_function

BUNDLED_PACKAGES = "RFT_REWARD_PACKAGES"
"""Environment variable with the folder of the packages that the image brings."""
INTERPRETER = f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"
"""The version of Python and the platform that packages are installed for."""
_COMPLETE = "INSTALLED.json"
"""File in a folder of packages that is complete, with the names and versions of the packages."""


class InstallationError(Exception):
    """The packages could not be installed; the message says why."""


def package_folder(requirements: Sequence[str], root: Path | None) -> Path | None:
    """Return the folder of the packages of a function; None when it needs none.

    Args:
        requirements: the packages that the code of the function declares.
        root: the folder that `install` was called with.

    Raises:
        ConfigurationError: the packages are neither installed there nor in the image.
    """
    if not requirements:
        return None
    bundled = _bundled_folder(requirements)
    if bundled is not None:
        return bundled
    if root is not None:
        folder = _target(requirements, root)
        if (folder / _COMPLETE).is_file():
            return folder
    raise ConfigurationError(
        f"the packages {', '.join(requirements)} are not installed: run "
        "`python -m rft_reward.packages --function FILE --packages FOLDER`, and start the server with the same FOLDER"
    )


def install(requirements: Sequence[str], root: Path) -> Path:
    """Install packages below `root`, and return their folder, which is named after the digest of the list.

    Packages that are already there are not installed again, and an interrupted installation leaves nothing behind that
    would be used. Packages that the image brings are not installed either.

    Raises:
        InstallationError: a package does not exist, has no wheel for this Python, or cannot be downloaded.
    """
    bundled = _bundled_folder(requirements)
    if bundled is not None:
        return bundled
    folder = _target(requirements, root)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{folder.name}.lock"):
        if (folder / _COMPLETE).is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # without the file that says that it is complete
        with atomic_folder(folder) as partial:
            _run_installer(requirements, partial)
            versions = json.dumps(installed_versions(partial), indent=1, sort_keys=True)
            (partial / _COMPLETE).write_text(versions + "\n", encoding="utf-8")
            partial.chmod(0o755)  # workers may run as another user
    return folder


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that installers of other users in this group can take, too: servers of each function have their own.

    Several of them may need the same packages at the same time.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o660)
    try:
        with contextlib.suppress(PermissionError):  # another user has made it, and did this
            os.fchmod(descriptor, 0o660)  # whatever the umask is
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def installed_versions(folder: Path) -> dict[str, str]:
    """Return the names and versions of the packages in a folder."""
    return {item.name: item.version for item in importlib.metadata.distributions(path=[str(folder)])}


def satisfies(folder: Path, requirements: Sequence[str]) -> bool:
    """Return whether a folder has a version of each package that the requirements allow, with the extras they name."""
    packages = {canonicalize_name(item.name): item for item in importlib.metadata.distributions(path=[str(folder)])}

    def has(requirement: Requirement) -> bool:
        package = packages.get(canonicalize_name(requirement.name))
        if package is None or not requirement.specifier.contains(package.version, prereleases=True):
            return False
        # What a package needs without extras is installed with it.
        needs = [Requirement(text) for text in package.requires or []]
        return all(has(need) for extra in requirement.extras for need in needs if _belongs_to_extra(need, extra))

    return all(has(Requirement(text)) for text in requirements)


def _belongs_to_extra(requirement: Requirement, extra: str) -> bool:
    """Return whether a package has a requirement because of an extra, and not anyway."""
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _bundled_folder(requirements: Sequence[str]) -> Path | None:
    """Return the folder of the packages that the image brings, if they satisfy the requirements."""
    folder = os.environ.get(BUNDLED_PACKAGES)
    return Path(folder) if folder and satisfies(Path(folder), requirements) else None


def _target(requirements: Sequence[str], root: Path) -> Path:
    return root / requirements_digest(requirements, INTERPRETER)


def _run_installer(requirements: Sequence[str], folder: Path) -> None:
    from uv import find_uv_bin

    command = [find_uv_bin(), "pip", "install", "--quiet", "--target", str(folder), "--python", sys.executable]
    # A source distribution would run code of the package at once, outside of the sandbox.
    command += ["--only-binary", ":all:", "--compile-bytecode", "--", *requirements]
    # Files of a project in the current folder must not change what is installed.
    process = subprocess.run(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, umask=0o022
    )
    if process.returncode != 0:
        # Kubernetes keeps 2048 bytes of it all.
        names = textwrap.shorten(", ".join(requirements), 400, placeholder=" ...")
        reason = process.stderr.decode(errors="replace").strip()[-1200:]
        raise InstallationError(
            f"the packages {names} could not be installed: {reason}\n"
            "Only wheels are installed. Correct `requirements`, name an index that has them (in a cluster, with the "
            "chart's value rewardPackages), or use an image that brings the packages."
        )


def main(arguments: list[str] | None = None) -> int:
    """Install the packages of a function, print their folder, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rft_reward.packages", description="Installs the packages that the code of a reward declares."
    )
    parser.add_argument("--function", type=Path, required=True, help="RewardFunction manifest, as YAML or JSON")
    parser.add_argument("--packages", type=Path, required=True, metavar="FOLDER", help="folder to install below")
    options = parser.parse_args(arguments)
    try:
        requirements = load_function(options.function).spec.requirements()
        if requirements:
            folder = install(requirements, options.packages)
            print(f"{folder}: {', '.join(f'{n} {v}' for n, v in sorted(installed_versions(folder).items()))}")
    except (ConfigurationError, InstallationError) as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIGURATION_INVALID
    except OSError as error:
        print(f"--packages {options.packages}: {error.strerror}: {error.filename}", file=sys.stderr)
        return ExitCode.CONFIGURATION_INVALID
    return ExitCode.SUCCEEDED


if __name__ == "__main__":
    raise SystemExit(main())
