"""What a reward server says of its start: where it listens, and at `GET /readyz` whether it scores, or why not.

The operator and the command line decide by the reasons; the messages are for people.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from pydantic import BaseModel, ConfigDict

READINESS_PATH: Final = "/readyz"
_LISTENING = "listening on "


def format_address(url: str) -> str:
    """Return the first line that a reward server prints: where it listens."""
    return f"{_LISTENING}{url}"


def find_address(output: str) -> str | None:
    """Return the URL at which a reward server listens, from its output; None as long as it has not said so."""
    line = re.search(rf"^{_LISTENING}(\S+)\n", output, re.MULTILINE)
    return None if line is None else line.group(1).rstrip("/")


class NotReadyReason(enum.StrEnum):
    """Why a reward server does not score."""

    WORKERS_STARTING = "WorkersStarting"
    """Its workers are starting; nothing is known to be wrong."""
    WORKERS_FAILING = "WorkersFailing"
    """Its workers cannot start: the code cannot be loaded, say."""
    TEST_FAILED = "TestFailed"
    """A test of the manifest did not score as expected."""


class _Document(BaseModel):
    """Base of the documents: programs of other versions may add fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class NotReady(_Document):
    """One reason why a reward server does not score."""

    reason: NotReadyReason
    """The reason."""
    message: str
    """The reason in words, for a person, with the place of what is wrong."""
    test: int | None = None
    """Index in `spec.tests` of the test that failed; None for other reasons."""


class Readiness(_Document):
    """The answer: with HTTP status 200 when the server scores, 503 when it does not."""

    reasons: list[NotReady] = []
    """Why the server does not score; empty when it does."""

    @property
    def ready(self) -> bool:
        """Whether the server scores."""
        return not self.reasons

    @property
    def failures(self) -> list[NotReady]:
        """What is wrong: the reasons that do not pass by waiting for the start to end."""
        return [reason for reason in self.reasons if reason.reason is not NotReadyReason.WORKERS_STARTING]

    @property
    def message(self) -> str:
        """The reasons in words, one a line."""
        return "\n".join(reason.message for reason in self.reasons)
