"""The spool of logs: what was appended outlives its process; destinations do not take each other's room."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rft_gateway.logs import Spool
from rft_gateway.logs.spool import MAXIMUM_BYTES, SEGMENT_BYTES, Destination, Queue

NOW = datetime(2026, 11, 30, 4, 59, 59, 123456, tzinfo=UTC)
OURS = Destination(namespace="team", uri="s3://ours/logs")
THEIRS = Destination(namespace="other", uri="s3://theirs/logs")


def opened(folder: Path, limit: int = 1 << 30) -> Spool:
    spool = Spool(folder, limit)
    spool.open()
    return spool


def lines(spool: Spool, destination: Destination = OURS) -> list[bytes]:
    queue = spool.queues.get(destination.id)
    return [line for segment in (queue.segments if queue else []) for line in segment.read().splitlines()]


def queue_of(spool: Spool) -> Queue:
    return spool.queues[OURS.id]


def test_a_segment_has_its_objects_name_from_its_beginning(tmp_path):
    spool = opened(tmp_path)
    assert spool.append([(OURS, b"1\n"), (OURS, b"2\n")], NOW) == [None, None]
    [segment] = queue_of(spool).segments
    name = segment.object_name
    assert name.startswith("2026/11/30/04/20261130T045959123Z_")
    assert (spool.records, spool.size, spool.oldest) == (2, 4, NOW)
    spool.close()
    again = opened(tmp_path)
    [left] = queue_of(again).closed
    assert (left.object_name, left.read()) == (name, b"1\n2\n")
    assert (again.records, again.size) == (2, 4)


def test_records_are_in_objects_of_their_hour_or_a_later_one(tmp_path):
    spool = opened(tmp_path)
    for seconds in (0, 1):
        spool.append([(OURS, b"1\n")], NOW + timedelta(seconds=seconds))
    assert [segment.hour for segment in queue_of(spool).segments] == ["2026/11/30/04", "2026/11/30/05"]


def test_segments_are_closed_by_size_and_age(tmp_path):
    spool = opened(tmp_path)
    line = b"x" * (MAXIMUM_BYTES - 1) + b"\n"
    for _ in range(SEGMENT_BYTES // len(line) + 1):
        assert spool.append([(OURS, line)], NOW) == [None]
    assert len(queue_of(spool).closed) == 1
    spool.close_segments(NOW - timedelta(seconds=1))
    assert queue_of(spool).open is not None
    spool.close_segments(NOW)
    assert (len(queue_of(spool).closed), queue_of(spool).open) == (2, None)
    spool.remove(queue_of(spool), queue_of(spool).closed[0])
    assert lines(spool) == [line.rstrip()]


def test_half_of_a_line_is_left_out(tmp_path):
    spool = opened(tmp_path)
    spool.append([(OURS, b"1\n"), (THEIRS, b"1\n")], NOW)
    for destination, rest in ((OURS, b'{"half'), (THEIRS, b"")):
        [segment] = spool.queues[destination.id].segments
        with segment.path.open("ab") as file:
            file.write(rest)
    [theirs] = spool.queues[THEIRS.id].segments
    os.truncate(theirs.path, 1)
    spool.close()
    again = opened(tmp_path)
    assert lines(again) == [b"1"]
    assert THEIRS.id not in again.queues


def test_a_line_that_cannot_be_written_leaves_the_others_whole(tmp_path, monkeypatch):
    spool = opened(tmp_path)
    spool.append([(OURS, b"1\n")], NOW)
    write = os.write

    def fail(descriptor: int, data: memoryview) -> int:
        if len(data) > 2:
            return write(descriptor, data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    assert spool.append([(OURS, b"half\n")], NOW) == ["SpoolFailed"]
    monkeypatch.undo()
    assert spool.append([(OURS, b"2\n")], NOW + timedelta(seconds=1)) == [None]
    assert lines(spool) == [b"1", b"2"]
    spool.close()
    assert lines(opened(tmp_path)) == [b"1", b"2"]


def test_a_line_that_no_reader_takes_is_not_kept(tmp_path):
    spool = opened(tmp_path)
    assert spool.append([(OURS, b"x" * (MAXIMUM_BYTES + 1)), (OURS, b"1\n")], NOW) == ["TooLarge", None]


@pytest.mark.parametrize(("destinations", "share"), [(1, 2), (2, 3), (4, 5)])
def test_a_namespace_gets_as_much_as_is_left_for_the_others(tmp_path, destinations, share):
    spool = opened(tmp_path, limit=3000)
    all_ = [Destination(namespace=f"n{number}", uri="s3://b") for number in range(destinations)]
    for _ in range(300):
        spool.append([(destination, b"123456789\n") for destination in all_], NOW)
    for destination in all_:
        assert abs(spool.queues[destination.id].size - 3000 / share) <= 20 * destinations
    # A new one finds room.
    assert spool.append([(OURS, b"1\n")], NOW) == [None]


def test_a_namespace_gets_no_more_with_many_destinations(tmp_path):
    spool = opened(tmp_path, limit=3000)
    destinations = [Destination(namespace="greedy", uri=f"s3://b/{number}") for number in range(20)]
    for _ in range(30):
        spool.append([(destination, b"123456789\n") for destination in destinations], NOW)
    assert spool.size == 1500
    assert spool.append([(OURS, b"x" * 700)], NOW) == [None]


def test_a_destination_for_which_nothing_waits_is_forgotten(tmp_path):
    spool = opened(tmp_path)
    spool.append([(OURS, b"1\n"), (THEIRS, b"1\n")], NOW)
    queue = queue_of(spool)
    queue.close_segment()
    spool.append([(OURS, b"2\n")], NOW)
    spool.remove(queue, queue.closed[0])
    assert lines(spool) == [b"2"]  # it stays for as long as it has a line
    queue.close_segment()
    spool.remove(queue, queue.closed[0])
    assert list(spool.queues) == [THEIRS.id]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [THEIRS.id]
    spool.append([(OURS, b"3\n")], NOW)
    assert lines(spool) == [b"3"]
    spool.close()
    assert lines(opened(tmp_path)) == [b"3"]
