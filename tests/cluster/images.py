"""Container images without a registry: a Debian base made here, and what buildah builds on it.

buildah keeps its layers in the cache: what has not changed is not built again by later runs on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.patience import PATIENCE_SECONDS

from cluster.cache import Report, cache_folder, locked
from cluster.commands import run_reported

REPOSITORY = Path(__file__).parents[2]
SUITE = "bookworm"
INCLUDED = "python3,python3-venv,ca-certificates"
BASE = f"localhost/debian-{INCLUDED.replace(',', '-')}:{SUITE}"
_PRINTED = "/run/printed"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def build_static_image(name: str, program: Path, folder: Path, report: Report) -> Path:
    """An image of nothing but one statically linked program; returns its archive, in `folder`."""
    with _storage(report):
        container = _buildah("from", "scratch")
        _buildah("copy", "--chmod=0755", container, str(program), "/program")
        _buildah("config", '--entrypoint=["/program"]', container)
        _buildah("commit", "--quiet", "--rm", container, name)
        return _save(name, folder, report)


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
        # RUN steps in a chroot need no container runtime.
        flags += ["--isolation=chroot", "--layers", "--pull-never", f"--file={context / dockerfile}", f"--tag={name}"]
        _buildah_reported(f"Building the image {name}", report, "build", *flags, str(context))
        return _save(name, folder, report)


def build_project_image(report: Report, name: str, image: str = "", dockerfile: str = "Dockerfile") -> None:
    """Build one of this project's images on the Debian base and keep it in buildah's storage.

    What it installs comes from uv's cache on this machine. What that lacks is fetched, from whom this machine trusts.

    Args:
        report: shows progress.
        name: the image's name.
        image: which one it is, in the Dockerfile's words (`reward`).
        dockerfile: its path in the repository.
    """
    flags = [f"--build-arg=BASE={BASE}", f"--build-arg=IMAGE={image}"]
    flags += ["--isolation=chroot", "--layers", "--pull-never", f"--file={REPOSITORY / dockerfile}"]
    certificates = Path(os.environ.get("SSL_CERT_FILE") or _CERTIFICATES)
    if certificates.is_file():
        flags.append(f"--volume={certificates}:{_CERTIFICATES}:ro")
    with _storage(report):
        _load_base(report)
        what = f"Building the image {name}"
        # buildah 1.28 mounts no stage that it found in its cache, only images.
        stage = f"{name}-uv"
        _buildah_reported(what, report, "build", *flags, "--target=uv", f"--tag={stage}", str(REPOSITORY))
        context = f"--build-context=uv=container-image://{stage}"
        _buildah_reported(what, report, "build", *flags, context, f"--tag={name}", str(REPOSITORY))


def save_image(report: Report, name: str, folder: Path) -> Path:
    """The archive, in `folder`, of an image in buildah's storage."""
    with _storage(report):
        return _save(name, folder, report)


def run_in_image(report: Report, name: str, *command: str, **options: str) -> str:
    """What a program prints in a container of an image; `options` are those of `buildah run`, e.g. user."""
    flags = [f"--{key}={value}" for key, value in options.items()]
    with _storage(report), tempfile.TemporaryDirectory() as folder:
        if name == BASE:
            _load_base(report)
        container = _buildah("from", "--pull-never", name)
        # On a busy machine buildah sometimes loses what a short program prints. A file keeps it.
        Path(folder).chmod(0o777)
        flags.append(f"--volume={folder}:{_PRINTED}")
        written = ["sh", "-c", f'exec "$@" > {_PRINTED}/output', "sh", *command]
        _buildah("run", "--isolation=chroot", *flags, container, "--", *written)
        return (Path(folder) / "output").read_text(encoding="utf-8").strip()


def inspect_image(report: Report, name: str) -> dict[str, Any]:
    """The configuration of an image, as the OCI image specification has it."""
    with _storage(report):
        found: dict[str, Any] = json.loads(_buildah("inspect", "--type=image", name))["OCIv1"]
        return found


@contextmanager
def _storage(report: Report) -> Iterator[None]:
    """buildah's storage, for one build at a time, without what killed and superseded builds left in it."""
    with locked("images", report) as progress:
        progress.write_text("it builds an image", encoding="utf-8")
        _make_temporary_folder()
        _buildah("rm", "--all")
        _buildah("rmi", "--prune")
        yield


def _temporary_folder() -> Path:
    return cache_folder() / "buildah-temporary"


def _make_temporary_folder() -> None:
    """Where buildah writes layers, without what killed builds left; it takes what is mounted as a cache from there."""
    shutil.rmtree(_temporary_folder(), ignore_errors=True)
    packages = Path(os.environ.get("UV_CACHE_DIR") or cache_folder().parent / "uv")
    packages.mkdir(parents=True, exist_ok=True)
    mounted = _temporary_folder() / "buildah-cache" / "mnt" / "cache"
    mounted.parent.mkdir(parents=True)
    mounted.symlink_to(packages)


def _buildah(*arguments: str) -> str:
    """What buildah prints on its standard output."""
    with _command(*arguments) as (command, environment):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr[-4000:]}{done.stdout[-2000:]}"
    return done.stdout.strip()


def _buildah_reported(what: str, report: Report, *arguments: str) -> None:
    """Run buildah for what takes minutes."""
    with _command(*arguments) as (command, environment):
        run_reported(command, what, report, environment=environment)


@contextmanager
def _command(*arguments: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The command and the environment of buildah.

    Its mounts are in a namespace of their own, and what it knows of mounts in a folder of its own: both end with it,
    also when it is killed.
    """
    with tempfile.TemporaryDirectory() as state:
        options = ["--root", str(cache_folder() / "buildah"), "--runroot", state, "--storage-driver", "overlay"]
        command = ["unshare", "--mount", "buildah", *options, *arguments]
        yield command, {**os.environ, "TMPDIR": str(_temporary_folder())}


def _save(name: str, folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
    archive.unlink(missing_ok=True)
    what = f"Writing the image {name} to a file"
    _buildah_reported(what, report, "push", "--quiet", name, f"docker-archive:{archive}:{name}")
    return archive


def _load_base(report: Report) -> None:
    if BASE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    archive = _base_archive(report)
    container = _buildah("from", "scratch")
    what = "Making the Debian base image"
    _buildah_reported(what, report, "add", "--quiet", container, str(archive), "/")
    _buildah_reported(what, report, "commit", "--quiet", "--rm", container, BASE)
    archive.unlink()


def _base_archive(report: Report) -> Path:
    """The file system of the Debian base."""
    what = "Making the Debian base image"
    archive, folder = (cache_folder() / f"debian-{SUITE}.{suffix}" for suffix in ("tar", "folder"))
    shutil.rmtree(folder, ignore_errors=True)
    # Mounts that a killed debootstrap leaves are in a namespace that ends with it.
    debootstrap = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, folder]
    run_reported(["unshare", "--mount", *debootstrap], what, report)
    left_out = ("dev/*", "proc/*", "sys/*", "var/cache/apt/*", "var/lib/apt/lists/*")
    excluded = [f"--exclude=./{path}" for path in left_out]
    tar = ["tar", "--create", f"--file={archive}", f"--directory={folder}", *excluded, "--numeric-owner", "."]
    run_reported(tar, what, report)
    shutil.rmtree(folder)
    return archive
