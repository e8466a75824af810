"""Reads what people have said about answers, which the gateway keeps beside the log of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from rft_api.conversation_logs import FEEDBACK_FOLDER
from rft_api.exact_json import parse_line
from rft_api.feedback import LONGEST_CORRECTION, Feedback, Rating
from rft_api.invocation_lines import lines
from rft_api.invocation_log import FeedbackFilter, parse_timestamp


@dataclass(frozen=True, slots=True)
class Opinion:
    """What was said last about the answer to a request."""

    time: datetime
    rating: Rating | None
    label: str | None
    corrected_answer: str | None


def is_feedback(name: str) -> bool:
    """Return whether an object below the address of a log holds feedback, by its name."""
    return FEEDBACK_FOLDER in PurePosixPath(name).parts


def read_opinions(files: Iterable[Path], before: str | None) -> tuple[dict[str, Opinion], list[tuple[Path, int, str]]]:
    """Read the feedback of files.

    Args:
        files: the files.
        before: a time; what was said at it or later is not read, so that the same data is read later, too.

    Returns:
        The last opinion about each request, by its id, and for each line that cannot be read its file, its number and
        the reason.
    """
    end = None if before is None else parse_timestamp(before)
    opinions: dict[str, Opinion] = {}
    damaged: list[tuple[Path, int, str]] = []
    for file in files:
        for number, line in lines(file):
            try:
                name, opinion = _opinion(line)
            except ValueError as error:
                damaged.append((file, number, str(error)))
                continue
            earlier = opinions.get(name)
            if (end is None or opinion.time < end) and (earlier is None or earlier.time <= opinion.time):
                opinions[name] = opinion
    return opinions, damaged


def satisfies(opinion: Opinion | None, condition: FeedbackFilter | None) -> bool:
    """Return whether what was said about an answer satisfies a condition."""
    if condition is None:
        return True
    if opinion is None:
        return False
    if condition.rating == "Up" and opinion.rating != "Up" and opinion.corrected_answer is None:
        return False
    if condition.rating == "Down" and opinion.rating != "Down":
        return False
    return not condition.labels or opinion.label in condition.labels


def correction_of(opinions: Mapping[str, Opinion], request_id: str) -> str | None:
    """Return the answer that should have been given to a request, if somebody has written one."""
    opinion = opinions.get(request_id)
    return opinion.corrected_answer if opinion else None


def _opinion(line: bytes | Exception) -> tuple[str, Opinion]:
    if isinstance(line, Exception):
        raise ValueError(str(line))
    document = parse_line(line)
    try:
        feedback = Feedback.model_validate(document, by_alias=True, by_name=False)
        time = parse_timestamp(feedback.timestamp)
    except (ValidationError, ValueError):
        raise ValueError("is no feedback, as the gateway writes it") from None
    correction = feedback.corrected_answer
    if correction is not None and len(correction) > LONGEST_CORRECTION:
        raise ValueError(f"has a corrected answer of more than {LONGEST_CORRECTION:,} characters")
    return feedback.request_id, Opinion(time, feedback.rating, feedback.label, correction or None)
