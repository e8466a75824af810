"""Reads prompts and conversations from JSONL in OpenAI chat format; refuses files with bad lines, naming each."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft_api.run import DataConfig, ExitCode, RunError, SourceConfig

ROLES = ("system", "developer", "user", "assistant", "tool")
# Enough to see the pattern of what is wrong without flooding a terminal or a termination message.
REPORTED_LINES = 20

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A conversation to be continued, and what its reward needs."""

    id: str
    source: str
    reward: str
    messages: list[Message]
    reference_answer: Any
    metadata: dict[str, Any]
    line: int = 0
    """Where the prompt stands in its file, counted from 1."""


@dataclass(frozen=True)
class Conversation:
    """A conversation whose last message is to be imitated."""

    source: str
    messages: list[Message]


@dataclass
class Dataset:
    """All prompts of a run."""

    train: dict[str, list[Prompt]]
    """Training prompts by source, in the file's order."""
    validation: list[Prompt]
    test: list[Prompt]
    """Empty when the validation prompts serve as held-out prompts."""
    weights: dict[str, float]
    """Share of each training source in the mixture."""
    too_long: dict[str, int] = field(default_factory=dict)
    """Prompts left out for their length, by split and source."""


def load_dataset(config: DataConfig, max_prompt_tokens: int, count_tokens: Callable[[list[Message]], int]) -> Dataset:
    """Reads and checks every file of a run's data.

    Args:
        config: the files.
        max_prompt_tokens: prompts with more tokens are left out and counted.
        count_tokens: tokens of a prompt as the model will see it, the generation prompt included; raises ValueError
            with the reason for messages that the model's chat template refuses.

    Raises:
        RunError: DATA_INVALID, with file, line and reason of what is wrong, in all files at once.
    """
    problems: list[str] = []
    too_long: dict[str, int] = {}

    def read(split: str, sources: Sequence[SourceConfig]) -> dict[str, list[Prompt]]:
        result = {}
        for source in sources:
            fitting: list[Prompt] = []
            left_out = 0
            for row in read_prompts(source, problems):
                try:
                    fits = count_tokens(row.messages) <= max_prompt_tokens
                except ValueError as error:
                    problems.append(f"{source.path}:{row.line}: {error}")
                    continue
                if fits:
                    fitting.append(row)
                else:
                    left_out += 1
            if left_out:
                too_long[f"{split}/{source.name}"] = left_out
            if left_out and not fitting:
                problems.append(
                    f"{source.path}: all {left_out} prompts have more than {max_prompt_tokens} tokens; raise "
                    f"spec.hyperparameters.maxPromptTokens"
                )
            result[source.name] = fitting
        return result

    train = read("train", config.train)
    validation = read("validation", config.validation)
    test = read("test", config.test)
    if problems:
        raise RunError(ExitCode.DATA_INVALID, _report(problems))
    held_out = [prompt for rows in validation.values() for prompt in rows]
    if config.validation_fraction:
        train, held_out = _split(train, config.validation_fraction)
    return Dataset(
        train=train,
        validation=held_out,
        test=[prompt for rows in test.values() for prompt in rows],
        weights={source.name: source.weight for source in config.train},
        too_long=too_long,
    )


def load_conversations(
    sources: Sequence[SourceConfig], count_tokens: Callable[[list[Message]], int]
) -> list[Conversation]:
    """Reads and checks the files of a warm-up; `count_tokens` is as for `load_dataset`.

    Raises:
        RunError: DATA_INVALID, with file, line and reason of what is wrong, in all files at once.
    """
    problems: list[str] = []
    conversations = []
    for source in sources:
        for number, row in _json_lines(source.path, problems):
            messages, problem = _messages(row, last_role="assistant")
            if problem is None:
                try:
                    count_tokens(messages)
                except ValueError as error:
                    problem = str(error)
            if problem:
                problems.append(f"{source.path}:{number}: {problem}")
            else:
                conversations.append(Conversation(source.name, messages))
    if problems:
        raise RunError(ExitCode.DATA_INVALID, _report(problems))
    return conversations


def read_prompts(source: SourceConfig, problems: list[str]) -> list[Prompt]:
    """The prompts of one file; what is wrong with its lines is appended to `problems`."""
    prompts = []
    for number, row in _json_lines(source.path, problems):
        messages, problem = _messages(row, last_role="user")
        if problem:
            problems.append(f"{source.path}:{number}: {problem}")
            continue
        rest = {key: value for key, value in row.items() if key not in ("messages", "reference_answer", "metadata")}
        nested = row.get("metadata") or {}
        if not isinstance(nested, dict):
            problems.append(f"{source.path}:{number}: metadata must be an object, not {json.dumps(nested)[:40]}")
            continue
        metadata = {**nested, **rest}
        prompts.append(
            Prompt(
                id=f"{source.name}-{number}",
                source=source.name,
                reward=source.reward or "",
                messages=messages,
                # Bedrock's samples carry the reference answer in either place.
                reference_answer=row.get("reference_answer", metadata.get("reference_answer")),
                metadata=metadata,
                line=number,
            )
        )
    return prompts


def mix(train: dict[str, list[Prompt]], weights: dict[str, float], epochs: int, seed: int) -> list[Prompt]:
    """The order of training prompts for the whole run: every epoch holds each source in its share of the weights.

    An epoch has as many prompts as the sources together. Within a source, every prompt is used once before one is used
    twice, so a source that is larger than its share is gone through over several epochs.
    """
    generator = random.Random(seed)
    size = sum(len(rows) for rows in train.values())
    total = sum(weights[name] for name in train)
    wanted = {name: size * weights[name] / total for name in train}
    remaining: dict[str, list[Prompt]] = {name: [] for name in train}
    owed = dict.fromkeys(train, 0.0)
    order: list[Prompt] = []
    for _ in range(epochs):
        epoch: list[Prompt] = []
        for name, rows in train.items():
            owed[name] += wanted[name]
            count = round(owed[name])
            owed[name] -= count
            for _ in range(count):
                if not remaining[name]:
                    remaining[name] = generator.sample(rows, len(rows))
                epoch.append(remaining[name].pop())
        generator.shuffle(epoch)
        order.extend(epoch)
    return order


def _split(train: dict[str, list[Prompt]], fraction: float) -> tuple[dict[str, list[Prompt]], list[Prompt]]:
    """Sets a share of every source aside, chosen by content so that adding lines moves no other line."""
    kept: dict[str, list[Prompt]] = {}
    aside: list[Prompt] = []
    for name, rows in train.items():
        count = round(len(rows) * fraction)
        if count == 0 or count == len(rows):
            raise RunError(
                ExitCode.DATA_INVALID,
                f"data.train {name}: {len(rows)} prompts cannot be split with validationFraction {fraction}; "
                f"add prompts or name a validation source",
            )
        by_content = sorted(rows, key=_content_digest)
        chosen = {row.id for row in by_content[:count]}
        aside.extend(row for row in rows if row.id in chosen)
        kept[name] = [row for row in rows if row.id not in chosen]
    return kept, aside


def _content_digest(prompt: Prompt) -> tuple[str, str]:
    content = json.dumps([prompt.messages, prompt.reference_answer], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest(), prompt.id


def _json_lines(path: str, problems: list[str]) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    before = len(problems)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
        return rows
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            # A byte order mark is what Windows tools put in front of the first line.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problems.append(f"{path}:{number}: is not UTF-8 (byte {error.start + 1} of the line)")
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            problems.append(f"{path}:{number}: is not JSON: {error}")
            continue
        if not isinstance(row, dict):
            problems.append(f"{path}:{number}: must be a JSON object with messages, not {type(row).__name__}")
            continue
        rows.append((number, row))
    if not rows and len(problems) == before:
        problems.append(f"{path}: is empty; expected one JSON object per line")
    return rows


def _messages(row: dict[str, Any], last_role: str) -> tuple[list[Message], str | None]:
    """The row's messages as role and text, or what is wrong with them."""
    given = row.get("messages")
    if given is None:
        return [], "messages is missing"
    if not isinstance(given, list) or not given:
        return [], "messages must be a list with at least one message"
    messages = []
    for index, message in enumerate(given):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            return [], f"{place} must be an object with role and content"
        role = message.get("role")
        if role not in ROLES:
            return [], f"{place}.role must be one of {', '.join(ROLES)}, not {json.dumps(role)}"
        if message.get("tool_calls"):
            return [], f"{place}.tool_calls: tool calls are not supported"
        text, problem = _text(message.get("content"))
        if problem:
            return [], f"{place}.content {problem}"
        messages.append({"role": role, "content": text})
    last = messages[-1]["role"]
    if last_role == "user" and last not in ("user", "tool"):
        return [], f"the last message must be the user's, not the {last}'s; an expected answer goes to reference_answer"
    if last_role == "assistant" and last != "assistant":
        return [], f"the last message must be the assistant's, which is imitated, not the {last}'s"
    return messages, None


def _text(content: Any) -> tuple[str, str | None]:
    if isinstance(content, str):
        return content, None
    if isinstance(content, list):
        texts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                return "", "may hold text parts only"
            texts.append(part["text"])
        return "".join(texts), None
    return "", "must be text" if content is not None else "is missing"


def _report(problems: list[str]) -> str:
    shown = problems[:REPORTED_LINES]
    if len(problems) > REPORTED_LINES:
        shown.append(f"and {len(problems) - REPORTED_LINES} more")
    return "\n".join(shown)
