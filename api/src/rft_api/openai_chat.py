"""Reads JSONL in OpenAI chat format: a line holds the messages, and what else a reward needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rft_api.jsonl import read_json_lines
from rft_api.model import Json
from rft_api.prompts import Check, Conversation, Message, Prompt, refusal
from rft_api.sources import DataSource, WarmupSource

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_prompts(source: DataSource, problems: list[str], check: Check) -> tuple[list[Prompt], None]:
    """The prompts of a file; see `rft_api.data_formats.DataFormat`."""
    prompts = []
    for line in read_json_lines(Path(source.uri), problems):
        prompt, problem = _prompt(source, line.number, line.row)
        problem = problem or refusal(check, prompt.messages)
        if problem:
            problems.append(f"{source.uri}:{line.number}: {problem}")
        else:
            prompts.append(prompt)
    return prompts, None


def read_conversations(source: WarmupSource, problems: list[str], check: Check) -> tuple[list[Conversation], None]:
    """The conversations of a file; see `rft_api.data_formats.DataFormat`."""
    conversations = []
    for line in read_json_lines(Path(source.uri), problems):
        messages, problem = _messages(line.row, last_role="assistant")
        problem = problem or refusal(check, messages)
        if problem:
            problems.append(f"{source.uri}:{line.number}: {problem}")
        else:
            conversations.append(Conversation(source.name, messages, line.number))
    return conversations, None


def _prompt(source: DataSource, number: int, row: Json) -> tuple[Prompt, str | None]:
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


def _messages(row: Json, last_role: str) -> tuple[list[Message], str | None]:
    """The row's messages as role and text, or what is wrong with them."""
    entries = row.get("messages")
    if entries is None:
        return [], "messages is missing"
    if not isinstance(entries, list) or not entries:
        return [], "messages must be a list with at least one message"
    messages = []
    for index, message in enumerate(entries):
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
