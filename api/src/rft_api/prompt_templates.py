"""Prompts that are written as text in the template of a model, as messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rft_api.prompts import Message

_LLAMA_TURN = re.compile(r"<\|(?:start_header_id|header_start)\|>\s*(\w+)\s*<\|(?:end_header_id|header_end)\|>")
_LLAMA_END = re.compile(r"<\|(?:eot_id|eot|eom_id|end_of_text)\|>")
_CHATML_TURN = re.compile(r"<\|im_start\|>(\w+)\n")
_CHATML_END = re.compile(r"<\|im_end\|>")
_MISTRAL_TURN = re.compile(r"(\[/?INST\])")
_LLAMA_2_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_DEEPSEEK_TURN = re.compile(r"<｜(User|Assistant)｜>")
_DEEPSEEK_MARKS = re.compile(r"<｜(?:begin|end)▁of▁sentence｜>")
_CLAUDE_TURN = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}


def prompt_messages(prompt: str) -> list[Message]:
    """Return the messages of a prompt: those that a template was filled with, or one message of the user.

    The templates are those of Llama 2 to 4, Mistral, DeepSeek, ChatML (Qwen and others) and older models of Anthropic.
    If the last message is the assistant's, it is the start of the answer. Roles are those of the template.
    """
    for turn, end in ((_LLAMA_TURN, _LLAMA_END), (_CHATML_TURN, _CHATML_END)):
        if turn.search(prompt):
            _, *rest = turn.split(prompt)
            turns = zip(rest[::2], rest[1::2], strict=True)
            return _without_empty_end((role, end.split(text)[0]) for role, text in turns)
    if "[INST]" in prompt:
        return _mistral(prompt)
    if _DEEPSEEK_TURN.search(prompt):
        return _turns(_DEEPSEEK_MARKS.sub("", prompt), _DEEPSEEK_TURN)
    if _CLAUDE_TURN.search(prompt) and "\n\nAssistant:" in prompt:
        return _turns(prompt, _CLAUDE_TURN)
    return [{"role": "user", "content": prompt}]


def _turns(prompt: str, turn: re.Pattern[str]) -> list[Message]:
    """Return the messages of a template that has the system's text first, and then turns of the user and the
    assistant."""
    system, *rest = turn.split(prompt)
    turns = [(_ROLES[name], text) for name, text in zip(rest[::2], rest[1::2], strict=True)]
    return _without_empty_end([("system", system), *turns] if system.strip() else turns)


def _mistral(prompt: str) -> list[Message]:
    turns = []
    role = "assistant"
    for part in _MISTRAL_TURN.split(prompt):
        if part in ("[INST]", "[/INST]"):
            role = "user" if part == "[INST]" else "assistant"
            continue
        system = _LLAMA_2_SYSTEM.match(part) if role == "user" else None
        if system:
            turns.append(("system", system[1]))
            part = part[system.end() :]
        text = part.replace("<s>", "").replace("</s>", "")
        if text.strip():
            turns.append((role, text))
    return _without_empty_end(turns)


def _without_empty_end(turns: Iterable[tuple[str, str]]) -> list[Message]:
    messages = [{"role": role, "content": text.strip()} for role, text in turns]
    # A template ends with the start of the assistant's turn.
    ends = bool(messages) and messages[-1]["role"] == "assistant" and not messages[-1]["content"]
    return messages[:-1] if ends else messages
