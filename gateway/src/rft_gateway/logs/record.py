"""The lines of a log: a conversation as Amazon Bedrock's invocation logs have it, with redacted text only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from rft_api.gateway_routes import Route
from rft_api.invocation_lines import MAXIMUM_BYTES
from rft_api.invocation_log import Redaction, RedactionPattern
from rft_api.model import Json
from rft_api.redaction import RedactedTooLong, Redactor, redactor
from rft_gateway.requests import Api, Call, parse_body
from rft_gateway.usage import Usage

_STRUCTURE = frozenset({
    "system", "developer", "user", "assistant", "tool", "function", "text", "input_text", "output_text", "message",
    "stop", "length", "tool_calls", "completed", "incomplete", "chat.completion", "text_completion", "response",
})  # fmt: skip
"""Texts with which an API marks parts of a conversation. A broad pattern must not make a conversation unreadable."""

_PIECES = frozenset({
    "logprobs", "prompt_logprobs", "top_logprobs", "token_ids", "prompt_token_ids", "tokens", "bytes",
})  # fmt: skip
"""Fields in which an API repeats a text token by token. No pattern matches a piece, and together they are the text."""
_PROMPTS = frozenset({"prompt", "input"})
"""Fields with a text, or with the numbers of its tokens."""

_FIELD = re.compile("[a-z][A-Za-z_]{0,63}")
"""Names of an API's fields; other names are texts of a client."""


class LineTooLarge(Exception):
    """A line would be longer than what readers take."""

    RESULT = "TooLarge"
    """What metrics call it."""


@dataclass(frozen=True)
class Conversation:
    """A request, and the whole answer that a server has given."""

    request_id: str
    arrival: datetime
    route: Route
    call: Call
    answer: Json | bytes
    """The answer; the bytes of a large one, which takes more memory once it is parsed."""
    usage: Usage


def conversation_line(conversation: Conversation) -> bytes:
    """Return the line of a conversation, with the line end.

    Raises:
        LineTooLarge: when it is too long, before its redaction, which takes time that grows with it, or after it.
        ValueError: when a pattern of its redaction cannot be used.
    """
    call, usage, model, answer = conversation.call, conversation.usage, conversation.route.model, conversation.answer
    if len(call.body) > MAXIMUM_BYTES or (isinstance(answer, bytes) and len(answer) > MAXIMUM_BYTES):
        raise LineTooLarge
    if isinstance(answer, bytes):
        answer = orjson.loads(answer)
        if call.api is Api.RESPONSES and isinstance(answer.get("response"), dict):
            answer = answer["response"]  # of the last event of a stream
    # Both are parsed here, and forgotten with the line: a client may take its answer for longer.
    document = parse_body(call.body)
    metadata = document.get("metadata")
    record: Json = {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": timestamp(conversation.arrival.replace(microsecond=0)),
        "requestId": conversation.request_id,
        "operation": "InvokeModelWithResponseStream" if call.stream else "InvokeModel",
        "modelId": model,
    }
    texts: Json = {
        "input": {
            "inputContentType": "application/json",
            "inputBodyJson": document,
            "inputTokenCount": usage.prompt_tokens,
        },
        "output": {
            "outputContentType": "application/json",
            "outputBodyJson": {**answer, "model": model},
            "outputTokenCount": usage.completion_tokens,
        },
    }
    if isinstance(metadata, dict):
        texts["requestMetadata"] = {key: value for key, value in metadata.items() if isinstance(value, str)}
    plain = line({**record, **texts})
    if len(plain) > MAXIMUM_BYTES:
        raise LineTooLarge
    redacted_texts = redacted(texts, conversation.route)
    if redacted_texts is texts:
        return plain
    redacted_line = line({**record, **redacted_texts})
    if len(redacted_line) > MAXIMUM_BYTES:
        raise LineTooLarge
    return redacted_line


def line(record: Json) -> bytes:
    """Return a record as a line."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def timestamp(time: datetime) -> str:
    """Return a time as the logs write it."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def redacted(texts: Json, route: Route) -> Json:
    """Return texts without what the log of a model must not have: in values, and in names that are no fields.

    Texts that are there a second time, token by token, are left out, and so are prompts of tokens.

    Raises:
        ValueError: when a pattern cannot be used. Then nothing may be written.
        LineTooLarge: when they are longer than a line may be once they are redacted.
    """
    redaction = route.logs.redact if route.logs else None
    if redaction is None:
        return texts
    rules = tuple((rule.pattern, rule.replacement) for rule in redaction.patterns)
    redact = _redactor(rules).of_record(MAXIMUM_BYTES)
    try:
        return {name: _redacted(value, redact) for name, value in texts.items()}
    except RedactedTooLong:
        raise LineTooLarge from None


@lru_cache(maxsize=256)
def _redactor(patterns: tuple[tuple[str, str], ...]) -> Redactor:
    rules = [RedactionPattern(pattern=pattern, replacement=replacement) for pattern, replacement in patterns]
    return redactor(Redaction(patterns=rules))


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if value in _STRUCTURE else redact(value)
    if isinstance(value, list):
        return [_redacted(item, redact) for item in value]
    if isinstance(value, dict):
        return {
            _redacted_name(name, redact): _redacted(item, redact)
            for name, item in value.items()
            if not _is_in_pieces(name, item)
        }
    return value


def _is_in_pieces(name: str, value: Any) -> bool:
    """Return whether a field has text in a form that no pattern matches."""
    return (name in _PIECES and isinstance(value, dict | list)) or (name in _PROMPTS and _is_tokens(value))


def _is_tokens(value: Any) -> bool:
    """Return whether a prompt is tokens, or a list of such prompts: servers refuse lists of both kinds."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int)


def _redacted_name(name: str, redact: Callable[[str], str]) -> str:
    return name if _FIELD.fullmatch(name) else redact(name)
