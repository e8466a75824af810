"""Requests and answers of Amazon Bedrock's models, in each of their formats, as messages with text."""

from __future__ import annotations

import re
from typing import Any

from rft_api.invocation_log import LeftOut
from rft_api.model import Json
from rft_api.prompt_templates import prompt_messages
from rft_api.prompts import Message

ROLES = ("system", "developer", "user", "assistant")
# Beside what was said: marks for caches, and what a model thought.
_NOT_SAID = {"cachePoint", "reasoningContent", "thinking", "redacted_thinking", "reasoning"}
_THOUGHT = re.compile(r"\s*<(think|reasoning)>.*?</\1>\s*", re.DOTALL)
_OPEN_THOUGHT = re.compile(r"\s*<(?:think|reasoning)>")
_UNFINISHED = {
    # cut off at a limit
    "max_tokens", "max_token", "length", "max_output_tokens", "content_length", "model_context_window_exceeded",
    "error_limit",
    # replaced, withheld or ended by a filter, a guardrail or an error
    "content_filter", "content_filtered", "guardrail_intervened", "refusal", "error", "error_toxic", "pause_turn",
    "malformed_model_output", "malformed_tool_use",
    # calls of tools
    "tool_use", "tool_calls", "function_call", "tool_call",
}  # fmt: skip
"""Reasons, in lower case, why an answer ended that is not the whole answer of the model in text."""


class NotUsable(Exception):
    """Raised for a body that cannot be used; the reason is the one under which its record is counted."""

    def __init__(self, reason: LeftOut):
        super().__init__(reason)
        self.reason: LeftOut = reason


def request_messages(body: Any) -> list[Message]:
    """Return the messages of a request: Converse, Anthropic, Nova, OpenAI, Cohere, Titan, and prompts as text.

    Raises:
        NotUsable: UnknownBody, NotText or NoPrompt.
    """
    if not isinstance(body, dict):
        raise NotUsable("UnknownBody")
    messages: list[Message] = []
    for name in ("system", "instructions"):
        if body.get(name):
            messages.append({"role": "system", "content": _text(body[name])})
    turns = body.get("messages", body.get("input"))
    if isinstance(turns, list):
        messages += [_message(turn) for turn in turns]
    elif isinstance(body.get("message"), str):
        history = body.get("chat_history") or []
        messages += [_cohere_message(turn) for turn in history] if isinstance(history, list) else []
        messages.append({"role": "user", "content": body["message"]})
    else:
        messages += _prompt_messages(_prompt(body))
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise NotUsable("NoPrompt")
    return messages


def answer_text(body: Any) -> str:
    """Return the text that a model answered with, also in pieces, as streams are logged.

    Raises:
        NotUsable: NoAnswer when there is none, it is not text alone, or it is not the whole answer of the model (cut
            off, blocked or ended by an error); NotText for what other kinds of models return.
    """
    pieces = body if isinstance(body, list) else [body]
    texts = []
    for piece in pieces:
        if not isinstance(piece, dict):
            raise NotUsable("NoAnswer")
        if _is_unfinished(piece):
            raise NotUsable("NoAnswer")
        try:
            texts.append(_answer_piece(piece))
        except NotUsable:
            # An answer that calls a tool is no answer to imitate or to compare with.
            raise NotUsable("NoAnswer") from None
    text = "".join(texts)
    if not text.strip():
        raise NotUsable("NoAnswer")
    return text


def without_thoughts(text: str) -> str:
    """Return an answer without what the model thought, where that stands before it, as gpt-oss and DeepSeek write it.

    Raises:
        NotUsable: NoAnswer when there is nothing else.
    """
    thought = _THOUGHT.match(text)
    said = text[thought.end() :] if thought else text
    if not said.strip() or (not thought and _OPEN_THOUGHT.match(text)):
        raise NotUsable("NoAnswer")
    return said


def makes_no_text(body: Any) -> bool:
    """Return whether an answer is that of a model for embeddings or images, whose requests look like prompts."""
    return isinstance(body, dict) and bool({"embedding", "embeddings", "embeddingsByType", "images"} & body.keys())


def _prompt(body: Json) -> str:
    """Return the prompt of a request without messages. OpenAI's completions may have it as a list of one text."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    text = next((value for value in (prompt, body.get("inputText"), body.get("input")) if isinstance(value, str)), None)
    if text is None:
        raise NotUsable("UnknownBody")
    return text


def _message(turn: Any) -> Message:
    role = turn.get("role") if isinstance(turn, dict) else None
    # Applications send answers back as their client library writes them, with null for what is not there.
    if role == "tool" or (isinstance(turn, dict) and (turn.get("tool_calls") or turn.get("function_call"))):
        raise NotUsable("NotText")
    if role not in ROLES:
        raise NotUsable("UnknownBody" if role is not None or not isinstance(turn, dict) else _kind_of(turn))
    return {"role": str(role), "content": _text(turn.get("content"))}


def _kind_of(item: Json) -> LeftOut:
    # The Responses API lists calls of tools and their results beside the messages.
    return "NotText" if isinstance(item.get("type"), str) and item["type"] != "message" else "UnknownBody"


def _text(content: Any) -> str:
    """Return the text of a content: a string, or a list of parts of one of the formats."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NotUsable("UnknownBody")
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise NotUsable("UnknownBody")
    if isinstance(part.get("text"), str) and part.get("type") in (None, "text", "input_text", "output_text"):
        return str(part["text"])
    guarded = part.get("guardContent")
    if isinstance(guarded, dict) and isinstance(guarded.get("text"), dict):
        return _part_text(guarded["text"])
    if _NOT_SAID & part.keys() or part.get("type") in _NOT_SAID:
        return ""
    raise NotUsable("NotText")


def _cohere_message(turn: Any) -> Message:
    roles = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system"}
    if not isinstance(turn, dict) or not isinstance(turn.get("message"), str):
        raise NotUsable("UnknownBody")
    role = roles.get(str(turn.get("role")).upper())
    if role is None:
        raise NotUsable("UnknownBody")
    return {"role": role, "content": turn["message"]}


def _prompt_messages(prompt: str) -> list[Message]:
    messages = prompt_messages(prompt)
    if any(message["role"] not in ROLES for message in messages):
        raise NotUsable("NotText" if any(m["role"] in ("ipython", "tool") for m in messages) else "UnknownBody")
    return messages


def _is_unfinished(piece: Json) -> bool:
    lists = ("choices", "outputs", "results", "generations")
    first = next((entry for entry in (_first(piece, name) for name in lists) if entry), {})
    stop = piece.get("messageStop")
    delta = piece.get("delta")
    incomplete = piece.get("incomplete_details")
    places = [
        (piece, ("stopReason", "stop_reason", "finish_reason", "completionReason")),
        (first, ("finish_reason", "stop_reason", "completionReason")),
        (stop, ("stopReason",)),
        (delta, ("stop_reason",)),
        (incomplete, ("reason",)),
    ]
    reasons = [place.get(name) for place, names in places if isinstance(place, dict) for name in names]
    blocked = piece.get("amazon-bedrock-guardrailAction") == "INTERVENED"
    failed = any(name.endswith("Exception") for name in piece)  # a stream that ended with an error
    return blocked or failed or any(isinstance(reason, str) and reason.lower() in _UNFINISHED for reason in reasons)


def _answer_piece(piece: Json) -> str:
    """Return the text of an answer, or of a piece of a streamed one; pieces without text are empty."""
    output = piece.get("output")
    if isinstance(output, dict) and isinstance(output.get("message"), dict):  # Converse, Nova
        return _text(output["message"].get("content"))
    if isinstance(output, list):  # OpenAI's Responses API
        spoken = [item for item in output if isinstance(item, dict) and item.get("type") == "message"]
        if any(isinstance(item, dict) and str(item.get("type")).endswith("_call") for item in output):
            raise NotUsable("NotText")
        return "".join(_text(item.get("content")) for item in spoken)
    for name in ("contentBlockDelta", "delta"):  # streams of Converse and Nova, of Anthropic
        inner = piece.get(name)
        if isinstance(inner, dict):
            delta = inner.get("delta", inner)
            return delta["text"] if isinstance(delta, dict) and isinstance(delta.get("text"), str) else ""
    if _starts_tool(piece):
        raise NotUsable("NotText")
    if isinstance(piece.get("content"), list):  # Anthropic
        return _text(piece["content"])
    choice = _first(piece, "choices")  # OpenAI, Mistral, DeepSeek
    if choice is not None:
        message = choice.get("message", choice.get("delta", choice))
        if not isinstance(message, dict) or message.get("tool_calls"):
            raise NotUsable("NotText")
        said = message.get("content", message.get("text"))
        return _text(said) if said is not None else ""
    for name, key in (("outputs", "text"), ("results", "outputText"), ("generations", "text")):
        entry = _first(piece, name)  # Mistral, Titan, Cohere
        if entry is not None:
            return _string(entry.get(key))
    # Llama, Cohere, streams of Titan, older ones of Anthropic
    return next(
        (piece[key] for key in ("generation", "text", "outputText", "completion") if isinstance(piece.get(key), str)),
        "",
    )


def _starts_tool(piece: Json) -> bool:
    started = piece.get("content_block", piece.get("contentBlockStart"))
    if not isinstance(started, dict):
        return False
    start = started.get("start")
    return started.get("type") == "tool_use" or (isinstance(start, dict) and "toolUse" in start)


def _first(piece: Json, name: str) -> Json | None:
    entries = piece.get(name)
    return entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else None


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
