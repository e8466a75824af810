"""Prompts and conversations, whatever format they were read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Json

# Enough to see the pattern of what is wrong without flooding a terminal or a termination message.
REPORTED_LINES = 20

Message = dict[str, str]
"""A message: its `role` and its text, the `content`."""
Check = Callable[[list[Message]], object]
"""Raises ValueError, with the reason, for messages that the model's chat template refuses."""


@dataclass(frozen=True)
class Prompt:
    """A conversation to be continued, and what its reward needs."""

    id: str
    source: str
    reward: str
    messages: list[Message]
    reference_answer: Any
    metadata: Json
    line: int = 0
    """Where the prompt stands in its file, counted from 1; of a log, the number of its record."""


@dataclass(frozen=True)
class Conversation:
    """A conversation whose last message is to be imitated."""

    source: str
    messages: list[Message]
    line: int = 0
    """Where the conversation stands in its file, as for a prompt."""


def no_check(messages: list[Message]) -> None:
    """Accept all messages; for callers without a chat template."""


def refusal(check: Check, messages: list[Message]) -> str | None:
    """Why a check refuses the messages; None when it accepts them."""
    try:
        check(messages)
    except ValueError as error:
        return str(error)
    return None


def prompt_digest(messages: list[Message]) -> bytes:
    """Digest of a prompt; identical messages have the same digest."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()[:16]


def split_by_content(source: str, prompts: list[Prompt], fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """Split a source's prompts into those that stay and a share that is set aside. The choice depends on the content of
    each prompt, so that adding lines moves no other line.

    Raises:
        RunError: DATA_INVALID when the share would be nothing or everything.
    """
    count = round(len(prompts) * fraction)
    if count == 0 or count == len(prompts):
        raise RunError(
            ExitCode.DATA_INVALID,
            f"data.train {source}: {len(prompts)} prompts cannot be split with validationFraction {fraction}; "
            f"add prompts or name a validation source",
        )
    by_content = sorted(prompts, key=_content_digest)
    chosen = {prompt.id for prompt in by_content[:count]}
    return [prompt for prompt in prompts if prompt.id not in chosen], [p for p in prompts if p.id in chosen]


def problem_report(problems: Sequence[str]) -> str:
    """A text of the first problems and the number of the others."""
    shown = list(problems[:REPORTED_LINES])
    if len(problems) > REPORTED_LINES:
        shown.append(f"and {len(problems) - REPORTED_LINES} more")
    return "\n".join(shown)


def _content_digest(prompt: Prompt) -> tuple[str, str]:
    content = json.dumps([prompt.messages, prompt.reference_answer], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest(), prompt.id
