"""Follows the files of a run, and sends a tracker what it does not have yet.

The files are read by position. The tracker is asked what it has when a process begins, because the process before it
may have ended between sending something and writing that down. So a tracker gets every line once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from rft_api.exit_codes import ExitCode
from rft_api.files import atomic_write
from rft_api.foreign.text import one_line
from rft_api.run_folder import RunFolder
from rft_api.tracker_state import LONGEST_REASON, Position, TrackerState, read_state
from rft_api.trackers import Tracker
from rft_api.trainer_config import TrainerConfig
from rft_trainer.trackers.records import (
    LINES_AT_ONCE,
    Line,
    Result,
    configuration,
    is_at,
    lines_from,
    position_of,
    read_result,
)

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LONGEST_PAUSE = 60.0
"""Seconds between two attempts to reach a tracker that does not answer, at most."""


@dataclass(frozen=True)
class RunIdentity:
    """What a tracker calls a run."""

    identity: str
    """A name that no other run has."""
    generation: int
    """Number of the tracker's run of this run."""
    name: str
    """Name of the job."""
    namespace: str
    """Namespace of the job."""
    parameters: Mapping[str, str]
    """The configuration."""


@dataclass(frozen=True)
class Contents:
    """What a tracker has of a run."""

    lines: int
    """Number of lines of metrics.jsonl."""
    has_result: bool
    """Whether it has the result."""
    address: str | None
    """Where it shows the run."""


class TrackerClient(Protocol):
    """The connection to a tracker. Every method may raise any error; then the connection is opened again."""

    answers_at_close: bool
    """Whether only `close` returns when the tracker has what was sent; else each call does."""

    def open(self, run: RunIdentity) -> Contents:
        """Begin the tracker's run, or go on with it; return what the tracker has."""
        ...

    def send(self, lines: Sequence[Line]) -> None:
        """Send lines; each one as a whole or not at all."""
        ...

    def send_result(self, result: Result) -> None:
        """Send the result, as a whole or not at all."""
        ...

    def close(self, code: ExitCode) -> None:
        """Say how the run has ended, and end the connection."""
        ...


class Ending:
    """When a process has to end: after a word of the launcher, within some seconds."""

    def __init__(self) -> None:
        self.code = ExitCode.INTERRUPTED
        """How the run has ended."""
        self._deadline = 0.0
        self._told = threading.Event()

    def tell(self, code: ExitCode, seconds: float) -> None:
        """Have the follower send the rest within some seconds."""
        self.code, self._deadline = code, time.monotonic() + seconds
        self._told.set()

    @property
    def is_told(self) -> bool:
        """Whether the run has ended."""
        return self._told.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the time has passed."""
        return self.is_told and time.monotonic() >= self._deadline

    def wait(self, seconds: float) -> None:
        """Wait, at most until the run ends."""
        self._told.wait(seconds)


class Follower:
    """Sends a run to one tracker.

    Args:
        folder: the run's folder.
        config: the run's configuration.
        tracker: the tracker.
        client: the connection to it.
        ending: tells when the run has ended.
    """

    def __init__(
        self, folder: RunFolder, config: TrainerConfig, tracker: Tracker, client: TrackerClient, ending: Ending
    ):
        self._folder = folder
        self._config = config
        self._tracker = tracker
        self._client = client
        self._ending = ending
        self._state = read_state(folder, tracker)
        # The identity is stored before a tracker knows it.
        self._save()
        self._end: Position | None = None
        self._has_result = False

    def run(self) -> bool:
        """Follow until the run has ended and all is sent, or the time has passed; return whether all is sent."""
        pause = POLL_SECONDS
        while True:
            ended = self._ending.is_told
            try:
                self._catch_up()
                if ended:
                    self._close()
                    return True
                pause = POLL_SECONDS
                self._ending.wait(pause)
            except Exception as error:  # whatever a tracker's package raises must not end the run, nor this process
                self._end = None
                self._say(error)
                if self._ending.is_over:
                    return False
                if self._ending.is_told:
                    time.sleep(POLL_SECONDS)
                else:
                    self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _catch_up(self) -> None:
        """Send all that is there and has not been sent."""
        if self._end is None or not is_as_long(self._folder, self._end):
            self._end = self._open()
        for lines in _chunks(lines_from(self._folder, self._end, self._tracker.samples)):
            self._save(sending=lines[-1].end)
            self._client.send(lines)
            self._end = lines[-1].end
            if not self._client.answers_at_close:
                self._save(sent=self._end, sending=None, problem=None)
        result = None if self._has_result else read_result(self._folder, self._tracker.samples)
        if result is not None:
            self._client.send_result(result)
            self._has_result = True
            if not self._client.answers_at_close:
                self._save(has_result=True)

    def _close(self) -> None:
        """End the connection; what was sent has arrived now."""
        assert self._end is not None  # it is open
        self._client.close(self._ending.code)
        self._save(sent=self._end, sending=None, problem=None, has_result=self._has_result)

    def _open(self) -> Position:
        """Open the connection; return the place in metrics.jsonl up to which the tracker has it.

        What a tracker has cannot be taken back. If the lines that it has are no longer those of the file, because a run
        that was killed goes on from a checkpoint and makes steps again, a new run of the tracker gets all lines.
        """
        state = self._state
        positions = [state.sent, *([state.sending] if state.sending else [])]
        if is_at(self._folder, state.sent):
            contents = self._client.open(self._identity())
            fitting = [position for position in positions if is_at(self._folder, position)]
            if contents.lines <= max(position.lines for position in fitting):
                position = position_of(self._folder, contents.lines)
                self._has_result = contents.has_result
                self._save(
                    sent=position, sending=None, has_result=contents.has_result, address=contents.address, problem=None
                )
                return position
        log.warning(
            "%s has steps that the run makes again from a checkpoint; it gets a new run with all lines",
            self._tracker.description,
        )
        while True:
            # A start whose state was lost with its machine may have made runs of the next numbers.
            self._save(generation=self._state.generation + 1, sent=Position(), sending=None, has_result=False)
            contents = self._client.open(self._identity())
            if not contents.lines:
                self._has_result = False
                self._save(address=contents.address, problem=None)
                return Position()

    def _identity(self) -> RunIdentity:
        return RunIdentity(
            self._state.identity,
            self._state.generation,
            self._config.name,
            self._config.namespace,
            configuration(self._config),
        )

    def _say(self, error: Exception) -> None:
        """Record why sending has failed, and say it in the log when it is another reason than before."""
        reason = one_line(str(error) or type(error).__name__, LONGEST_REASON)
        if reason != self._state.problem:
            log.warning("%s: %s; trying again", self._tracker.description, reason)
            self._save(problem=reason)

    def _save(self, **changes: object) -> None:
        state = TrackerState.model_validate({**dict(self._state), **changes})
        if state != self._state or not self._folder.tracker(self._tracker.key).exists():
            self._state = state
            atomic_write(self._folder.tracker(self._tracker.key), state.model_dump_json(by_alias=True) + "\n")


def is_as_long(folder: RunFolder, position: Position) -> bool:
    """Return whether metrics.jsonl still reaches to a place."""
    return not position.bytes or (folder.metrics.exists() and folder.metrics.stat().st_size >= position.bytes)


def _chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while chunk := list(islice(lines, LINES_AT_ONCE)):
        yield chunk
