"""Container images without a registry: a Debian base made here, and what buildah builds on it.

buildah keeps its layers in the cache: what has not changed is not built again by later runs on the machine.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.cache import Report, cache_folder, locked

SUITE = "bookworm"
INCLUDED = "python3,ca-certificates"
BASE = "localhost/debian-python:bookworm"
BUILD_SECONDS = 1800


def build_static_image(name: str, program: Path, folder: Path, report: Report) -> Path:
    """An image of nothing but one statically linked program; returns its archive, in `folder`."""
    with _storage(report):
        container = _buildah("from", "scratch")
        _buildah("copy", "--chmod=0755", container, str(program), "/program")
        _buildah("config", '--entrypoint=["/program"]', container)
        _buildah("commit", "--quiet", "--rm", container, name)
        return _save(name, folder)


def build_image(
    name: str, context: Path, folder: Path, report: Report, dockerfile: str = "Dockerfile", **arguments: str
) -> Path:
    """Builds an image from a Dockerfile.

    Args:
        name: the image's name.
        context: folder that the Dockerfile copies from.
        folder: where the archive goes.
        report: shows progress.
        dockerfile: its path in the context.
        arguments: build arguments; BASE is the Debian base unless given.

    Returns:
        The image's archive.
    """
    flags = [f"--build-arg={key}={value}" for key, value in {"BASE": BASE, **arguments}.items()]
    with _storage(report):
        _load_base(report)
        report(f"Building the image {name}")
        # RUN steps in a chroot need no container runtime.
        flags += ["--isolation=chroot", "--layers", "--pull-never", f"--file={context / dockerfile}", f"--tag={name}"]
        _buildah("build", *flags, str(context))
        return _save(name, folder)


@contextmanager
def _storage(report: Report) -> Iterator[None]:
    """buildah's storage, for one build at a time, without what killed and superseded builds left in it."""
    with locked("images", report) as progress:
        progress.write_text("it builds an image", encoding="utf-8")
        _buildah("rm", "--all")
        _buildah("rmi", "--prune")
        yield


def _buildah(*arguments: str) -> str:
    storage = cache_folder() / "buildah"
    # Its mounts are in a namespace of their own, and what it knows of mounts in a folder of its own: both end with it,
    # also when it is killed.
    with tempfile.TemporaryDirectory() as state:
        options = ["--root", str(storage), "--runroot", state, "--storage-driver", "overlay"]
        done = subprocess.run(
            ["unshare", "--mount", "buildah", *options, *arguments],
            capture_output=True, text=True, timeout=BUILD_SECONDS,
        )  # fmt: skip
    assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr[-4000:]}{done.stdout[-2000:]}"
    return done.stdout.strip()


def _save(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
    archive.unlink(missing_ok=True)
    _buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
    return archive


def _load_base(report: Report) -> None:
    if BASE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    archive = _base_archive(report)
    container = _buildah("from", "scratch")
    _buildah("add", "--quiet", container, str(archive), "/")
    _buildah("commit", "--quiet", "--rm", container, BASE)
    archive.unlink()


def _base_archive(report: Report) -> Path:
    """The file system of the Debian base."""
    report("Making the Debian base image (about a minute)")
    archive, folder = (cache_folder() / f"debian-{SUITE}.{suffix}" for suffix in ("tar", "folder"))
    shutil.rmtree(folder, ignore_errors=True)
    # Mounts that a killed debootstrap leaves are in a namespace that ends with it.
    _execute("unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, str(folder))
    left_out = ("dev/*", "proc/*", "sys/*", "var/cache/apt/*", "var/lib/apt/lists/*")
    excluded = [f"--exclude=./{path}" for path in left_out]
    _execute("tar", "--create", f"--file={archive}", f"--directory={folder}", *excluded, "--numeric-owner", ".")
    shutil.rmtree(folder)
    return archive


def _execute(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-1000:]}"
