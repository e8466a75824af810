"""Reads the prompts and conversations of a data source: JSONL in OpenAI chat format, or invocation logs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLog, InvocationLogReport
from rft_api.invocation_reading import InvocationLogReader, LoggedPrompt
from rft_api.sources import DataSource, Source, WarmupSource

ROLES = ("system", "developer", "user", "assistant", "tool")
# Enough to see the pattern of what is wrong without flooding a terminal or a termination message.
REPORTED_LINES = 20

Message = dict[str, str]
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
    metadata: dict[str, Any]
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
    """Accepts all messages: for callers without a chat template."""


def read_prompts(
    source: DataSource, problems: list[str], check: Check = no_check
) -> tuple[list[Prompt], InvocationLogReport | None]:
    """The prompts of a source, and for invocation logs what was taken.

    Args:
        source: where they are.
        problems: what is wrong with the source is appended, each as FILE:LINE: REASON. Logs are not the user's own
            writing: records of theirs that cannot be used are only counted, unless none is left.
        check: looks at the messages of each.
    """
    options = source.effective_invocation_log
    if options is not None:
        taken, report = _logged(source, options, problems, check, to_imitate=False)
        return [_logged_prompt(source, prompt) for prompt in taken], report
    prompts = []
    for number, row in json_lines(source.uri, problems):
        prompt, problem = _prompt(source, number, row)
        problem = problem or _refusal(check, prompt.messages)
        if problem:
            problems.append(f"{source.uri}:{number}: {problem}")
        else:
            prompts.append(prompt)
    return prompts, None


def read_conversations(
    source: WarmupSource, problems: list[str], check: Check = no_check
) -> tuple[list[Conversation], InvocationLogReport | None]:
    """The conversations of a warm-up's source; as `read_prompts`."""
    options = source.effective_invocation_log
    if options is not None:
        taken, report = _logged(source, options, problems, check, to_imitate=True)
        return [Conversation(source.name, _with_answer(prompt), prompt.record) for prompt in taken], report
    conversations = []
    for number, row in json_lines(source.uri, problems):
        messages, problem = _messages(row, last_role="assistant")
        problem = problem or _refusal(check, messages)
        if problem:
            problems.append(f"{source.uri}:{number}: {problem}")
        else:
            conversations.append(Conversation(source.name, messages, number))
    return conversations, None


def split_by_content(source: str, rows: list[Prompt], fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """Sets a share of a source's prompts aside, chosen by content so that adding lines moves no other line.

    Raises:
        RunError: DATA_INVALID when the share would be nothing or everything.
    """
    count = round(len(rows) * fraction)
    if count == 0 or count == len(rows):
        raise RunError(
            ExitCode.DATA_INVALID,
            f"data.train {source}: {len(rows)} prompts cannot be split with validationFraction {fraction}; "
            f"add prompts or name a validation source",
        )
    by_content = sorted(rows, key=_content_digest)
    chosen = {row.id for row in by_content[:count]}
    return [row for row in rows if row.id not in chosen], [row for row in rows if row.id in chosen]


def problem_report(problems: Sequence[str]) -> str:
    """The first problems, and how many more there are."""
    shown = list(problems[:REPORTED_LINES])
    if len(problems) > REPORTED_LINES:
        shown.append(f"and {len(problems) - REPORTED_LINES} more")
    return "\n".join(shown)


def _refusal(check: Check, messages: list[Message]) -> str | None:
    try:
        check(messages)
    except ValueError as error:
        return str(error)
    return None


def _logged(
    source: Source, options: InvocationLog, problems: list[str], check: Check, to_imitate: bool
) -> tuple[list[LoggedPrompt], InvocationLogReport | None]:
    with_answers = to_imitate or options.reference == "LoggedAnswer"
    try:
        reader = InvocationLogReader(Path(source.uri), options, with_answers)
    except (OSError, ValueError) as error:
        problems.append(f"{source.uri}: {getattr(error, 'strerror', None) or error}")
        return [], None
    taken = []
    for prompt in reader:
        if _refusal(check, _with_answer(prompt) if to_imitate else prompt.messages) is None:
            taken.append(prompt)
        else:
            reader.refuse(prompt, "ChatTemplate")
    report = reader.report()
    if not taken:
        problems.append(f"{source.uri}: no record of the invocation logs can be used: {report}")
    return taken, report


def _with_answer(prompt: LoggedPrompt) -> list[Message]:
    return [*prompt.messages, {"role": "assistant", "content": prompt.answer or ""}]


def _logged_prompt(source: DataSource, prompt: LoggedPrompt) -> Prompt:
    return Prompt(
        id=f"{source.name}-{prompt.record}",
        source=source.name,
        reward=source.reward,
        messages=prompt.messages,
        reference_answer=prompt.answer,
        metadata=prompt.metadata,
        line=prompt.record,
    )


def _prompt(source: DataSource, number: int, row: dict[str, Any]) -> tuple[Prompt, str | None]:
    messages, problem = _messages(row, last_role="user")
    rest = {key: value for key, value in row.items() if key not in ("messages", "reference_answer", "metadata")}
    nested = row.get("metadata") or {}
    if not isinstance(nested, dict):
        problem = problem or f"metadata must be an object, not {json.dumps(nested)[:40]}"
        nested = {}
    metadata = {**nested, **rest}
    prompt = Prompt(
        id=f"{source.name}-{number}",
        source=source.name,
        reward=source.reward,
        messages=messages,
        # Bedrock's samples carry the reference answer in either place.
        reference_answer=row.get("reference_answer", metadata.get("reference_answer")),
        metadata=metadata,
        line=number,
    )
    return prompt, problem


def _content_digest(prompt: Prompt) -> tuple[str, str]:
    content = json.dumps([prompt.messages, prompt.reference_answer], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest(), prompt.id


def json_lines(path: str, problems: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers; what is wrong with lines is appended to `problems`."""
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
