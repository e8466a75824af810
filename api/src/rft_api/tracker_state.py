"""What a tracker has been sent of a run: the files in the folder `trackers` of the run, and what is missing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from rft_api.foreign.files import open_file, read_document
from rft_api.foreign.text import one_line
from rft_api.model import Model
from rft_api.run_folder import RunFolder
from rft_api.trackers import Tracker, distinct_trackers

_CHUNK = 1 << 20
LONGEST_REASON = 300
"""Characters of the reason why something has not reached a tracker."""


class Position(Model):
    """A place in `metrics.jsonl`: that behind a complete line."""

    lines: int = 0
    """Number of lines before it."""
    bytes: int = 0
    """Number of bytes before it."""
    sha256: str = ""
    """Digest of these bytes; empty when there are none."""


class TrackerState(Model):
    """The state of one tracker."""

    identity: str
    """Name of this run in the tracker, which no other run has."""
    generation: int = 1
    """Number of the tracker's run: a new one follows when a resumed run repeats steps that the tracker has."""
    sent: Position = Position()
    """Up to where the tracker has the lines of `metrics.jsonl`."""
    sending: Position | None = None
    """Up to where lines were sent without an answer yet; the tracker may have them or not."""
    has_result: bool = False
    """Whether the tracker has the result."""
    address: str | None = None
    """Where the tracker shows the run."""
    problem: str | None = None
    """Why the last attempt to send failed; null after one that did not."""


def read_state(folder: RunFolder, tracker: Tracker) -> TrackerState:
    """Return the state of a tracker, or a new one.

    Raises:
        ValueError: when the file holds something else.
        OSError: when it cannot be read.
    """
    file = folder.tracker(tracker.key)
    return read_document(file, TrackerState) if file.exists() else TrackerState(identity=secrets.token_hex(8))


def missing_sentences(folder: RunFolder, trackers: Sequence[Tracker], address: str) -> Iterator[str]:
    """Yield, for each tracker that does not have all of a run, a sentence that says what, why, and what to do.

    Args:
        folder: the run's folder.
        trackers: the run's trackers.
        address: what users call the run's folder.
    """
    for tracker in distinct_trackers(trackers):
        try:
            state = read_state(folder, tracker)
        except (OSError, ValueError) as error:
            state = TrackerState(identity="", problem=f"{folder.tracker(tracker.key)}: {error}")
        lines = count_lines(folder, state.sent.bytes)
        parts = [f"{lines} line{'s' if lines > 1 else ''} of metrics.jsonl"] if lines else []
        if folder.summary.exists() and not state.has_result:
            parts.append("the result")
        if parts:
            reason = one_line(state.problem or "there was no time left", LONGEST_REASON)
            verb = "have" if len(parts) > 1 or lines > 1 else "has"
            # The reason is the last, because a sentence that is too long for its place loses its end.
            yield (
                f"{' and '.join(parts)} {verb} not reached {tracker.description}; 'rft track {address}' sends what is "
                f"missing. The reason: {reason}"
            )


def count_lines(folder: RunFolder, start: int = 0) -> int:
    """Return the number of complete lines of `metrics.jsonl` from a byte on."""
    if not folder.metrics.exists():
        return 0
    lines = 0
    with open_file(folder.metrics) as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            lines += chunk.count(b"\n")
    return lines
