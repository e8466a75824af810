"""Files between machines that have a disk each: the first has the run's folder, the others what they read of it.

Where all machines share one folder, or there is one machine, nothing is moved. The launcher tells its processes which
case it is by the variable RFT_OWN_DISKS. One process of each machine speaks for it; data travel in chunks over gloo,
straight from disk to disk.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from rft_trainer.distributed import COLLECTIVE_TIMEOUT, local_rank, rank, world_size

CHUNK_BYTES = 1 << 26
"""How much of a file is in memory at once."""

File = tuple[str, int]
"""A file's path relative to the folder and its size."""


def on_first_machine() -> bool:
    """Return whether this process sees the whole folder of the run."""
    return not _apart() or rank() < _processes_per_machine()


def collect(folder: Path) -> None:
    """Move what other machines' processes have written into a folder to the same folder of the first machine.

    To be called by every rank, and only when all of them have written.

    Args:
        folder: its path on this machine.
    """
    if not _apart():
        return
    group = _speakers()
    if local_rank() > 0:
        return
    if rank() > 0:
        files = _files(folder, [folder])
        dist.send_object_list([files], dst=0, group=group)
        for name, size in files:
            _read(folder / name, size, functools.partial(dist.send, dst=0, group=group))
        shutil.rmtree(folder)
        return
    for speaker in _ranks()[1:]:
        header: list[list[File]] = [[]]
        dist.recv_object_list(header, src=speaker, group=group)
        for name, size in header[0]:
            _write(folder / name, size, functools.partial(dist.recv, src=speaker, group=group))


def spread(root: Path, chosen: Iterable[Path]) -> None:
    """Copy files and folders of the first machine to the others, in place of what these have there.

    To be called by every rank; the others' files are there once all have returned.

    Args:
        root: the run's folder on this machine.
        chosen: what to copy, below `root`; only the first machine's choice counts. What is not there is left out.
    """
    if not _apart():
        return
    group = _speakers()
    if local_rank() > 0:
        return
    header: list[tuple[list[str], list[File]]] = [([], [])]
    if rank() == 0:
        paths = list(chosen)
        header = [([path.relative_to(root).as_posix() for path in paths], _files(root, paths))]
    dist.broadcast_object_list(header, src=0, group=group)
    replaced, files = header[0]
    if rank() > 0:
        for name in replaced:
            _remove(root / name)
    move = functools.partial(dist.broadcast, src=0, group=group)
    for name, size in files:
        (_read if rank() == 0 else _write)(root / name, size, move)


def _apart() -> bool:
    return os.environ.get("RFT_OWN_DISKS") == "1"


def _processes_per_machine() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"])


def _ranks() -> list[int]:
    """Return the ranks that speak for their machines."""
    return list(range(0, world_size(), _processes_per_machine()))


@functools.cache
def _speakers() -> dist.ProcessGroup:
    # Not the group of all: on GPUs that one is NCCL's, which knows no host memory.
    return dist.new_group(_ranks(), timeout=COLLECTIVE_TIMEOUT, backend="gloo")


def _files(root: Path, paths: Iterable[Path]) -> list[File]:
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [(file.relative_to(root).as_posix(), file.stat().st_size) for file in found if file.is_file()]


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
    with path.open("wb") as file:
        for chunk in _chunks(size):
            move(chunk)
            file.write(chunk.numpy().data)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
