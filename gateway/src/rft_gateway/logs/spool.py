"""Files in which lines wait for their upload: what was appended is on the disk, also after the gateway was killed.

A folder for each destination has segments. The last one grows; the others never change. A segment has the name of its
object from its beginning, so that an upload that is repeated writes the same object again. All methods block, and
belong to one thread, except for `Segment.read`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from rft_api.files import atomic_write, open_in_place, open_new, sync
from rft_api.foreign.files import read_file
from rft_api.foreign.text import one_line
from rft_api.invocation_lines import MAXIMUM_BYTES
from rft_api.model import Model
from rft_gateway.shares import fits

SEGMENT_BYTES = 16 << 20
"""Size from which on a segment is closed."""
BATCH_BYTES = MAXIMUM_BYTES
"""Size from which on lines are not written at once with others."""
_LARGEST_SEGMENT = SEGMENT_BYTES + BATCH_BYTES + MAXIMUM_BYTES
_SUFFIX = ".jsonl"
_DESTINATION = "destination.json"
_LARGEST_DESTINATION = 1 << 16
_log = logging.getLogger(__name__)


class SpoolError(Exception):
    """The spool cannot be used; the message names its folder."""


class Destination(Model):
    """Where lines go."""

    namespace: str
    """Namespace of the model that the lines are about."""
    uri: str
    """Address that objects are stored below."""
    secret: str | None = None
    """Name of the Secret with the credentials, in the namespace; None for those of the gateway's environment."""

    @property
    def id(self) -> str:
        """A name for its folder."""
        text = "\0".join((self.namespace, self.uri, self.secret or ""))
        return blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass
class Segment:
    """Lines that become one object."""

    path: Path
    created: datetime
    size: int = 0
    records: int = 0
    file: BinaryIO | None = None
    """Open while lines are appended."""

    @property
    def hour(self) -> str:
        """Hour in which it was created, in which all of its lines were written: YYYY/MM/DD/HH."""
        return _hour(self.created)

    @property
    def object_name(self) -> str:
        """Name of its object below the address, as Amazon Bedrock names those of logs."""
        return f"{self.hour}/{self.path.stem}.json.gz"

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, and return when they are on the disk.

        Raises:
            OSError: when they are not. The segment is as it was, or ends with a part of them.
        """
        assert self.file is not None
        data = memoryview(b"".join(lines))
        descriptor, size = self.file.fileno(), len(data)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fdatasync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, self.size)
            raise
        self.size += size
        self.records += len(lines)

    def read(self) -> bytes:
        """Return the lines that are on the disk.

        Raises:
            OSError, ValueError: when they cannot be read.
        """
        return read_file(self.path, _LARGEST_SEGMENT)[: self.size]

    def close(self) -> None:
        """Let nothing be appended any more."""
        if self.file is not None:
            with suppress(OSError):  # its lines are on the disk already
                self.file.close()
            self.file = None


@dataclass
class Queue:
    """The segments of a destination."""

    destination: Destination
    folder: Path
    open: Segment | None = None
    closed: list[Segment] = field(default_factory=list)

    @property
    def segments(self) -> list[Segment]:
        """All segments, the oldest first."""
        return [*self.closed, *([self.open] if self.open else [])]

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    def close_segment(self) -> None:
        """Close the open segment, so that it can be uploaded."""
        if self.open is not None:
            segment, self.open = self.open, None
            segment.close()
            self.closed.append(segment)


class Spool:
    """The spool of one gateway.

    Args:
        folder: where segments are.
        limit: bytes of all segments together. A namespace may have as many bytes as are left for the others: one alone
            gets half, two get a third each. So none takes the room of the others while its stores are away, however
            many destinations it has.
    """

    def __init__(self, folder: Path, limit: int):
        self._folder = folder
        self._limit = limit
        self.queues: dict[str, Queue] = {}

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(queue.size for queue in list(self.queues.values()))

    @property
    def records(self) -> int:
        """Lines that wait."""
        return sum(segment.records for queue in list(self.queues.values()) for segment in queue.segments)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest segment that waits was begun."""
        segments = (segment for queue in list(self.queues.values()) for segment in queue.segments[:1])
        return min((segment.created for segment in segments), default=None)

    def open(self) -> None:
        """Lock the folder, and take over what an earlier gateway has left in it.

        Raises:
            SpoolError: when it cannot be read or written, or another gateway uses it.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = open_in_place(self._folder / ".lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in sorted(path for path in self._folder.iterdir() if path.is_dir()):
                self._take_over(folder)
        except BlockingIOError:
            raise SpoolError(f"{self._folder}: another gateway uses this spool") from None
        except OSError as error:
            raise SpoolError(f"{error.filename or self._folder}: {error.strerror or error}") from None

    def append(self, lines: Sequence[tuple[Destination, bytes]], now: datetime) -> list[str | None]:
        """Append lines, and return for each why it is not kept, or None when it is on the disk.

        Args:
            lines: with their line ends, and where they go.
            now: the time.
        """
        reasons: list[str | None] = [None] * len(lines)
        groups: dict[Destination, list[int]] = {}
        for number, (destination, line) in enumerate(lines):
            if len(line) > MAXIMUM_BYTES:
                reasons[number] = "TooLarge"
            else:
                groups.setdefault(destination, []).append(number)
        for destination, numbers in groups.items():
            kept: list[int] = []
            own, all_ = self._size_of(destination.namespace), self.size
            for number in numbers:
                size = len(lines[number][1])
                if not fits(size, own, all_, self._limit):
                    reasons[number] = "SpoolFull"
                    continue
                kept.append(number)
                own, all_ = own + size, all_ + size
            try:
                self._write(destination, [lines[number][1] for number in kept], now)
            except OSError as error:
                _log.error("%s: conversations are not kept: %s", self._folder, error.strerror or error)
                for number in kept:
                    reasons[number] = "SpoolFailed"
        return reasons

    def close_segments(self, before: datetime) -> None:
        """Close the segments that were begun at a time or before it."""
        for queue in self.queues.values():
            if queue.open is not None and queue.open.created <= before:
                queue.close_segment()

    def remove(self, queue: Queue, segment: Segment) -> None:
        """Remove a closed segment, which is stored elsewhere, and the folder of a destination for which nothing waits.

        Raises:
            OSError: when the segment cannot be removed.
        """
        segment.path.unlink(missing_ok=True)
        queue.closed.remove(segment)
        if not queue.segments:
            del self.queues[queue.destination.id]
            # What is left of the folder is removed at the next start, or used when the destination comes again.
            shutil.rmtree(queue.folder, ignore_errors=True)

    def close(self) -> None:
        """Close all segments, and unlock the folder."""
        for queue in self.queues.values():
            queue.close_segment()
        self._lock.close()

    def _size_of(self, namespace: str) -> int:
        return sum(queue.size for queue in self.queues.values() if queue.destination.namespace == namespace)

    def _write(self, destination: Destination, lines: list[bytes], now: datetime) -> None:
        if not lines:
            return
        queue = self.queues.get(destination.id) or self._add_queue(destination)
        segment = queue.open
        if segment is not None and (segment.size >= SEGMENT_BYTES or segment.hour != _hour(now)):
            queue.close_segment()
        if queue.open is None:
            queue.open = _begin(queue.folder, now)
        try:
            queue.open.write(lines)
        except OSError:
            queue.close_segment()  # nothing follows a line that may not be whole
            raise

    def _add_queue(self, destination: Destination) -> Queue:
        folder = self._folder / destination.id
        folder.mkdir(mode=0o700, exist_ok=True)
        atomic_write(folder / _DESTINATION, destination.model_dump_json(by_alias=True), durable=True)
        sync(self._folder)
        return self.queues.setdefault(destination.id, Queue(destination, folder))

    def _take_over(self, folder: Path) -> None:
        paths = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
        segments = [segment for path in paths if (segment := _recover(path)) is not None]
        if not segments:
            shutil.rmtree(folder)
            return
        try:
            content = read_file(folder / _DESTINATION, _LARGEST_DESTINATION)
            destination = Destination.model_validate_json(content)
        except (OSError, ValueError, ValidationError) as error:
            reason = one_line(str(error))
            raise SpoolError(f"{folder / _DESTINATION}: {reason}; move {folder} away to go on without it") from None
        self.queues[destination.id] = Queue(destination, folder, closed=segments)


def _hour(time: datetime) -> str:
    return f"{time:%Y/%m/%d/%H}"


def _begin(folder: Path, now: datetime) -> Segment:
    """Create a segment, whose name no other gateway will choose."""
    stamp = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z"
    path = folder / f"{stamp}_{secrets.token_hex(8)}{_SUFFIX}"
    file = open_new(path)
    sync(folder)
    return Segment(path, now, file=file)


def _recover(path: Path) -> Segment | None:
    """Return a segment that was left; None when it has no whole line. The last line may not be whole."""
    stamp = path.stem.partition("_")[0]
    try:
        created = datetime.strptime(stamp, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
        content = read_file(path, _LARGEST_SEGMENT)
    except ValueError as error:
        raise SpoolError(f"{path}: is no segment of a spool: {error}; move it away to go on without it") from None
    size = content.rfind(b"\n") + 1
    if not size:
        path.unlink()
        return None
    if size < len(content):
        os.truncate(path, size)
    return Segment(path, created, size, content.count(b"\n"))
