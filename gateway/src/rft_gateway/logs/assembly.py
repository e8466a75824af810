"""Makes one answer of the chunks of a stream, as the server would have answered without a stream. Pure."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rft_api.invocation_lines import MAXIMUM_BYTES
from rft_api.model import Json
from rft_gateway.errors import ApiError

_MOST_CHOICES = 4096
_MOST_CALLS = 1024
_LONGEST_NAME = 256
"""Characters of an id, a name, a role, and of the reason for an end."""
_OBJECT_BYTES = 512
"""What a completion, a call or a text counts for, besides its characters."""
_CHARACTER_BYTES = 4
"""Memory that a character may take: one that needs four bytes has all others of the text take as many."""
_GRAIN = 16 << 10
"""Size that is counted at once."""
_LARGEST_USAGE = 64 << 10
"""Bytes of an event whose usage is kept. Parsed, the values of an event may take twenty times its bytes."""
_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
"""Fields of a message that a stream sends in pieces."""
_LAST_EVENTS = ("response.completed", "response.incomplete")


@dataclass
class _ToolCall:
    fields: Json = field(default_factory=dict)
    name: str = ""
    arguments: io.StringIO = field(default_factory=io.StringIO)


@dataclass
class _Choice:
    role: str = "assistant"
    texts: dict[str, io.StringIO] = field(default_factory=dict)
    calls: dict[int, _ToolCall] = field(default_factory=dict)
    finish_reason: str | None = None


class Assembly:
    """An answer that comes in chunks.

    Memory is bounded and counted: an answer that is too large for a log, or for which there is no room, is forgotten.

    Args:
        take: counts bytes that are held, and raises an ApiError when there is no room for them.
    """

    def __init__(self, take: Callable[[int], object] = int) -> None:
        self._take = take
        self._taken = 0
        self._head: Json = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None
        self._response: Json | None = None
        self._size = 0

    @property
    def is_too_large(self) -> bool:
        """Whether the answer is too large for a log."""
        return self._size > MAXIMUM_BYTES

    def add(self, document: Json, size: int) -> None:
        """Add a chunk of chat or completions, or an event of /v1/responses.

        Args:
            document: the chunk or event.
            size: bytes of the event.
        """
        if "type" in document and "choices" not in document:
            if document["type"] in _LAST_EVENTS and isinstance(document.get("response"), dict):
                self._response = document["response"]
            return
        if not self._head:
            self._head = self._named(document, "id", "object")
            if isinstance(document.get("created"), int):
                self._head["created"] = document["created"]
        if size <= _LARGEST_USAGE:
            self._usage = document.get("usage") or self._usage
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            self._add_choice(choice)
        if self.is_too_large:
            self._choices.clear()

    def answer(self) -> Json | None:
        """Return the whole answer; None when a part of it is missing, or when it was too large."""
        if self._response is not None:
            return self._response
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not choices or self.is_too_large or any(choice.finish_reason is None for choice in choices):
            return None
        is_chat = str(self._head.get("object", "")).startswith("chat")
        parts = [
            {"index": index, **(_message(choice) if is_chat else _text(choice)), "finish_reason": choice.finish_reason}
            for index, choice in enumerate(choices)
        ]
        kind = "chat.completion" if is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": parts, "usage": self._usage}

    def _add_choice(self, part: Any) -> None:
        index = part.get("index", 0) if isinstance(part, dict) else None
        if not isinstance(index, int) or not 0 <= index < _MOST_CHOICES or self.is_too_large:
            return
        if index not in self._choices:
            self._choices[index] = _Choice()
            self._grow(_OBJECT_BYTES)
        choice = self._choices[index]
        choice.finish_reason = self._name(part.get("finish_reason")) or choice.finish_reason
        delta = part.get("delta")
        if not isinstance(delta, dict):
            self._append(choice, "text", part.get("text"))
            return
        choice.role = self._name(delta.get("role")) or choice.role
        for name in _TEXTS:
            self._append(choice, name, delta.get(name))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            self._add_call(choice, call)

    def _append(self, choice: _Choice, name: str, text: Any) -> None:
        if isinstance(text, str):
            if name not in choice.texts:
                choice.texts[name] = io.StringIO()
                self._grow(_OBJECT_BYTES)
            self._grow(len(text))
            choice.texts[name].write(text)

    def _add_call(self, choice: _Choice, part: Any) -> None:
        index = part.get("index", 0) if isinstance(part, dict) else None
        if not isinstance(index, int) or not 0 <= index < _MOST_CALLS:
            return
        if index not in choice.calls:
            choice.calls[index] = _ToolCall()
            self._grow(2 * _OBJECT_BYTES)
        call = choice.calls[index]
        call.fields |= self._named(part, "id", "type")
        function = part.get("function")
        if isinstance(function, dict):
            call.name = self._name(function.get("name")) or call.name
            arguments = function.get("arguments")
            if isinstance(arguments, str):
                self._grow(len(arguments))
                call.arguments.write(arguments)

    def _named(self, fields: Json, *names: str) -> Json:
        return {name: value for name in names if (value := self._name(fields.get(name))) is not None}

    def _name(self, value: Any) -> str | None:
        """Return a field with a short text; None if it is none. With a longer one, the answer is too large."""
        if not isinstance(value, str):
            return None
        if len(value) > _LONGEST_NAME:
            self._forget()
            return None
        return value

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size - self._taken >= _GRAIN and not self.is_too_large:
            try:
                self._take(_CHARACTER_BYTES * (self._size - self._taken))
            except ApiError:
                self._forget()  # the answer itself goes on
            self._taken = self._size

    def _forget(self) -> None:
        self._size = MAXIMUM_BYTES + 1


def _message(choice: _Choice) -> Json:
    texts = {name: text.getvalue() for name, text in choice.texts.items() if name == "content" or text.tell()}
    message: Json = {"role": choice.role, "content": None, **texts}
    if choice.calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [
            {**call.fields, "function": {"name": call.name, "arguments": call.arguments.getvalue()}}
            for _, call in sorted(choice.calls.items())
        ]
    return {"message": message}


def _text(choice: _Choice) -> Json:
    text = choice.texts.get("text")
    return {"text": text.getvalue() if text else ""}
