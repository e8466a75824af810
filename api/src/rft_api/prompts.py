"""Prompts and conversations, whatever format they were read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Json
from rft_api.sources import DataSource

# Enough to see the pattern of what is wrong without flooding a terminal or a termination message.
REPORTED_LINES = 20

Message = dict[str, str]
"""A message: its `role` and its text, the `content`."""
Check = Callable[[list[Message]], object]
"""Raises ValueError, with the reason, for messages that the model's chat template refuses."""

# One encoder for all rows: json.dumps with an option makes a new one for each call.
_canonical = json.JSONEncoder(sort_keys=True).encode


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
    """A conversation whose last message is to be imitated. A row with several such answers is several of them, with the
    same line."""

    source: str
    messages: list[Message]
    line: int = 0
    """Where the conversation stands in its file, as for a prompt."""


def prompt_of(source: DataSource, line: int, messages: list[Message], reference_answer: Any, metadata: Json) -> Prompt:
    """Return the prompt that a source has at a line; its id is made of both."""
    return Prompt(f"{source.name}-{line}", source.name, source.reward, messages, reference_answer, metadata, line)


def with_system_prompt(messages: list[Message], text: str | None) -> list[Message]:
    """Return a conversation that begins with a system message of this text, unless it has one, or `text` is None.

    A message of the role developer is one, too.
    """
    if text is None or any(message["role"] in ("system", "developer") for message in messages):
        return messages
    return [{"role": "system", "content": text}, *messages]


def no_check(messages: list[Message]) -> None:
    """Accept all messages; for callers without a chat template."""


def refusal(check: Check, messages: list[Message]) -> str | None:
    """Return why a check refuses the messages; None when it accepts them."""
    try:
        check(messages)
    except ValueError as error:
        return str(error)
    return None


def prompt_digest(messages: list[Message]) -> bytes:
    """Return the digest of a prompt; identical messages have the same digest."""
    return hashlib.sha256(_canonical(messages).encode()).digest()[:16]


def split_by_prompt(
    sources: Mapping[str, Sequence[Prompt]], fraction: float
) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """Set a share of each source's prompts aside for validation.

    Rows with the same prompt are on one side, in all sources, so that no prompt is both trained on and validated with.
    The choice depends on the content of the rows, so that adding lines does not shuffle it.

    Returns:
        The rows that stay, and those that are set aside, by source.

    Raises:
        RunError: DATA_INVALID when of a source nothing or everything would be set aside.
    """
    digests = {name: [prompt_digest(prompt.messages) for prompt in prompts] for name, prompts in sources.items()}
    chosen: set[bytes] = set()
    for name, prompts in sources.items():
        contents = [_content_digest(prompt) for prompt in prompts]
        chosen |= _choose(contents, digests[name], round(len(prompts) * fraction))
    stay: dict[str, list[Prompt]] = {}
    aside: dict[str, list[Prompt]] = {}
    for name, prompts in sources.items():
        pairs = list(zip(prompts, digests[name], strict=True))
        stay[name] = [prompt for prompt, digest in pairs if digest not in chosen]
        aside[name] = [prompt for prompt, digest in pairs if digest in chosen]
        if not stay[name] or not aside[name]:
            raise RunError(
                ExitCode.DATA_INVALID,
                f"data.train {name}: {len(prompts)} prompts cannot be split with validationFraction {fraction}; "
                f"add prompts or name a validation source",
            )
    return stay, aside


def split_conversations(
    conversations: Sequence[Conversation], fraction: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Set a share of the rows of each source of conversations aside, as `split_by_prompt` does with prompts.

    Answers of one row stay together, and rows whose first prompts are the same.

    Returns:
        The conversations that stay, and those that are set aside.

    Raises:
        RunError: DATA_INVALID when of a source nothing or everything would be set aside.
    """
    rows: dict[str, dict[int, list[Conversation]]] = {}
    for conversation in conversations:
        rows.setdefault(conversation.source, {}).setdefault(conversation.line, []).append(conversation)
    firsts = {
        name: {line: prompt_digest(row[0].messages[:-1]) for line, row in lines.items()} for name, lines in rows.items()
    }
    chosen: set[bytes] = set()
    for name, lines in rows.items():
        contents = [hashlib.sha256(_canonical(row[-1].messages).encode()).hexdigest() for row in lines.values()]
        chosen |= _choose(contents, list(firsts[name].values()), round(len(lines) * fraction))
    aside = [each for each in conversations if firsts[each.source][each.line] in chosen]
    stay = [each for each in conversations if firsts[each.source][each.line] not in chosen]
    for name, lines in rows.items():
        if not all(any(each.source == name for each in part) for part in (stay, aside)):
            raise RunError(
                ExitCode.DATA_INVALID,
                f"warmup.data {name}: {len(lines)} conversations cannot be split with validationFraction {fraction}; "
                f"add conversations or name a source in warmup.validation",
            )
    return stay, aside


def _choose(contents: Sequence[str], digests: Sequence[bytes], count: int) -> set[bytes]:
    """Choose prompts that together have about `count` rows; returns their digests.

    Args:
        contents: digest of each row.
        digests: digest of its prompt.
        count: the number of rows.
    """
    groups: dict[bytes, list[str]] = {}
    for content, digest in zip(contents, digests, strict=True):
        groups.setdefault(digest, []).append(content)
    chosen: set[bytes] = set()
    rows = 0
    order = sorted(groups, key=lambda digest: min(groups[digest]))
    for digest in order:
        size = len(groups[digest])
        # A prompt with many rows is set aside only when that comes closer to the share than leaving it.
        if rows + size / 2 <= count:
            chosen.add(digest)
            rows += size
        if rows >= count:
            break
    if count and not chosen:  # every prompt has more rows than the share
        chosen.add(order[0])
    return chosen


def problem_report(problems: Sequence[str]) -> str:
    """Return a text of the first problems and the number of the others."""
    shown = list(problems[:REPORTED_LINES])
    if len(problems) > REPORTED_LINES:
        shown.append(f"and {len(problems) - REPORTED_LINES} more")
    return "\n".join(shown)


def _content_digest(prompt: Prompt) -> str:
    return hashlib.sha256(_canonical([prompt.messages, prompt.reference_answer]).encode()).hexdigest()
