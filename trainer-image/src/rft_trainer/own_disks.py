"""Copies files between machines with a disk each: the first has the run's folder, the others the files that they read.

If all machines share one folder, or there is one machine, nothing is copied. The launcher tells its processes which
case it is with the variable RFT_OWN_DISKS. One process of each machine sends and receives its files, in chunks over
gloo.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from rft_api.files import open_new
from rft_api.progress import Report, count_bytes, ignore_report
from rft_trainer.distributed import COLLECTIVE_TIMEOUT, local_rank, rank, world_size

CHUNK_BYTES = 1 << 26
"""Bytes of a file that are in memory at a time."""

File = tuple[str, int]
"""A file's path relative to the folder and its size."""


def on_first_machine() -> bool:
    """Return whether this process can read the complete folder of the run."""
    return not _has_own_disks() or rank() < _processes_per_machine()


def collect(folder: Path) -> None:
    """Move the files that processes of other machines have written to a folder into that folder of the first machine.

    Every rank calls it, after all of them have written their files.

    Args:
        folder: its path on this machine.
    """
    if not _has_own_disks():
        return
    group = _file_group()
    if local_rank() > 0:
        return
    if rank() > 0:
        files = _files(folder, [folder])
        dist.send_object_list([files], dst=0, group=group)
        for name, size in files:
            _read(folder / name, size, functools.partial(dist.send, dst=0, group=group))
        # Processes that have nothing to write do not create it.
        if folder.exists():
            shutil.rmtree(folder)
        return
    for sender in _sender_ranks()[1:]:
        header: list[list[File]] = [[]]
        dist.recv_object_list(header, src=sender, group=group)
        for name, size in header[0]:
            _write(folder / name, size, functools.partial(dist.recv, src=sender, group=group))


def spread(root: Path, paths: Iterable[Path], report: Report = ignore_report) -> None:
    """Copy files and folders of the first machine to the others, where they replace existing ones.

    Every rank calls it. The files are on all machines after it has returned on all ranks.

    Args:
        root: the run's folder on this machine.
        paths: files and folders below `root`; only those of rank 0 matter. Missing ones are left out.
        report: called with the number of bytes that have been copied, and the number of all bytes.
    """
    if not _has_own_disks():
        return
    group = _file_group()
    if local_rank() > 0:
        return
    header: list[tuple[list[str], list[File]]] = [([], [])]
    if rank() == 0:
        listed = list(paths)
        header = [([path.relative_to(root).as_posix() for path in listed], _files(root, listed))]
    dist.broadcast_object_list(header, src=0, group=group)
    replaced, files = header[0]
    if rank() > 0:
        for name in replaced:
            _remove(root / name)
    count = count_bytes(sum(size for _, size in files), report)

    def move(chunk: torch.Tensor) -> None:
        dist.broadcast(chunk, src=0, group=group)
        count(len(chunk))

    for name, size in files:
        (_read if rank() == 0 else _write)(root / name, size, move)


def _has_own_disks() -> bool:
    return os.environ.get("RFT_OWN_DISKS") == "1"


def _processes_per_machine() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"])


def _sender_ranks() -> list[int]:
    """Return the first rank of each machine, which sends and receives its files."""
    return list(range(0, world_size(), _processes_per_machine()))


@functools.cache
def _file_group() -> dist.ProcessGroup:
    # On GPUs, the default group uses NCCL, which cannot send host memory.
    return dist.new_group(_sender_ranks(), timeout=COLLECTIVE_TIMEOUT, backend="gloo")


def _files(root: Path, paths: Iterable[Path]) -> list[File]:
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [(file.relative_to(root).as_posix(), file.stat().st_size) for file in files if file.is_file()]


def _chunks(size: int) -> Iterator[torch.Tensor]:
    for start in range(0, size, CHUNK_BYTES):
        yield torch.empty(min(CHUNK_BYTES, size - start), dtype=torch.uint8)


def _read(path: Path, size: int, move: Callable[[torch.Tensor], object]) -> None:
    with path.open("rb") as file:
        for chunk in _chunks(size):
            if file.readinto(chunk.numpy().data) != len(chunk):
                raise OSError(f"{path} changed while it was copied to another machine")
            move(chunk)


def _write(path: Path, size: int, move: Callable[[torch.Tensor], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_new(path) as file:
        for chunk in _chunks(size):
            move(chunk)
            file.write(chunk.numpy().data)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
