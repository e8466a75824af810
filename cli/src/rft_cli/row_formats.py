"""The forms of rows that `rft data convert` reads besides invocation logs, and how each becomes a row of chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rft_api.model import Json
from rft_api.openai_chat import read_messages, read_text, read_turns, split_row, with_system
from rft_api.prompts import Message

_SOLUTION_MARK = "####"
_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class _Turns:
    """What a row says: the conversation before the answer, the answer, and the names of the fields that hold them."""

    messages: list[Message]
    answer: Any
    fields: tuple[str, ...]
    further: Mapping[str, Any]
    """Fields that the row gets in addition."""


@dataclass(frozen=True)
class RowFormat:
    """A form of rows.

    Its reader gets a row, the names of the fields of its prompt and of its answer, and whether the answer is to be
    imitated as it stands. It raises ValueError when the row has another form.
    """

    name: str
    prompt_field: str
    answer_field: str
    read: Callable[[Json, str, str, bool], _Turns]


def convert_row(row: Json, form: RowFormat, prompt_field: str | None, answer_field: str | None, imitate: bool) -> Json:
    """Convert a row to OpenAI chat format.

    Args:
        row: the row.
        form: its form.
        prompt_field: the name of the field of the prompt; that of the form when None. A field of an object in the row
            is named with a dot: reward_model.ground_truth.
        answer_field: the same for the answer.
        imitate: whether the answer becomes the last message; otherwise it becomes the reference answer.

    Raises:
        ValueError: when the row cannot be converted; the message says why, with the field.
    """
    row = _with_field(row, prompt_field, "--prompt-field names the field of the prompt")
    row = _with_field(row, answer_field, "--answer-field names the field of the answer")
    turns = form.read(row, prompt_field or form.prompt_field, answer_field or form.answer_field, imitate)
    messages = with_system(turns.messages, row.get("system"))
    own = {*turns.fields, "messages", "system", "reference_answer", "schemaVersion"}
    further = {key: value for key, value in row.items() if key not in own} | dict(turns.further)
    if imitate:
        if turns.answer is None:
            raise ValueError("there is no answer to imitate")
        if not isinstance(turns.answer, str):
            raise ValueError("the answer must be a text to be imitated")
        messages = [*messages, {"role": "assistant", "content": turns.answer}]
    converted: Json = {"messages": messages}
    if not imitate:
        # A reference answer beside an answer that somebody wrote is what the reward compares with.
        nested = row["metadata"].get("reference_answer") if isinstance(row.get("metadata"), dict) else None
        stated = nested if row.get("reference_answer") is None else row["reference_answer"]
        reference_answer = turns.answer if stated is None else stated
        if reference_answer is not None:
            converted["reference_answer"] = reference_answer
    converted |= further
    split_row(converted, "conversation" if imitate else "prompt")  # what is written can be read
    return converted


def _with_field(row: Json, name: str | None, advice: str) -> Json:
    """Return the row with the field that an option names at its top level."""
    if name is None or name in row:
        return row
    value: Any = row
    for step in name.split("."):
        if not isinstance(value, dict) or step not in value:
            raise ValueError(f"{name} is missing; {advice}")
        value = value[step]
    return {**row, name: value}


def _chat(row: Json, prompt_field: str, answer_field: str, imitate: bool) -> _Turns:
    """Read messages, in the form of OpenAI or of Amazon Bedrock's Converse; the assistant's last is the answer."""
    messages = read_messages(row.get(prompt_field), prompt_field)
    return _with_answer(row, messages, prompt_field, answer_field)


def _sharegpt(row: Json, prompt_field: str, answer_field: str, imitate: bool) -> _Turns:
    messages = []
    for place, turn in read_turns(row.get(prompt_field), prompt_field, "turn", "from and value"):
        speaker = turn.get("from", turn.get("role"))
        role = _SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise ValueError(f"{place}.from must be one of {', '.join(_SHAREGPT_ROLES)}, not {speaker!r}")
        messages.append({"role": role, "content": read_text(turn.get("value", turn.get("content")), f"{place}.value")})
    return _with_answer(row, messages, prompt_field, answer_field)


def _with_answer(row: Json, messages: list[Message], prompt_field: str, answer_field: str) -> _Turns:
    written = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    answer = row.get(answer_field) if written is None or answer_field != "reference_answer" else written
    return _Turns(messages, written if answer is None else answer, (prompt_field, answer_field), {})


def _alpaca(row: Json, prompt_field: str, answer_field: str, imitate: bool) -> _Turns:
    """Read an instruction with its input, and the earlier turns in `history`, as pairs."""
    text = _text(row, prompt_field)
    if row.get("input"):
        text = f"{text}\n\n{_text(row, 'input')}"
    messages = []
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError("history must hold pairs of texts")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    messages.append({"role": "user", "content": text})
    return _Turns(messages, row.get(answer_field), (prompt_field, "input", "history", answer_field), {})


def _prompt_completion(row: Json, prompt_field: str, answer_field: str, imitate: bool) -> _Turns:
    """Read texts (OpenAI's older format) or messages (TRL's conversational format)."""
    messages = _prompt_turns(row, prompt_field)
    answer = _only_answer(row.get(answer_field), answer_field)
    return _Turns(messages, answer, (prompt_field, answer_field), {})


def _question_answer(row: Json, prompt_field: str, answer_field: str, imitate: bool) -> _Turns:
    """Read a question and its answer, as in GSM8K; the text after #### becomes the reference answer."""
    messages = [{"role": "user", "content": _text(row, prompt_field)}]
    answer = row.get(answer_field)
    if answer is None:
        raise ValueError(f"{answer_field} is missing; --answer-field names the field of the answer")
    if isinstance(answer, str) and not imitate and _SOLUTION_MARK in answer:
        solution, _, final = (part.strip() for part in answer.rpartition(_SOLUTION_MARK))
        own = row.get("solution")
        if own is not None and solution and own != solution and "solution" not in (prompt_field, answer_field):
            raise ValueError(
                f"solution would be replaced by what stands before {_SOLUTION_MARK} in {answer_field}; rename it: "
                "jq -c '.own_solution = .solution | del(.solution)' FILE > NEW"
            )
        further = {"solution": solution} if solution or own is None else {}
        return _Turns(messages, final, (prompt_field, answer_field), further)
    return _Turns(messages, answer, (prompt_field, answer_field), {})


def _text(row: Json, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text; --prompt-field names the field of the prompt")
    return value


def _prompt_turns(row: Json, field: str) -> list[Message]:
    value = row.get(field)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field} must be a text or a list of messages")
    return read_messages(value, field)


def _only_answer(value: Any, field: str) -> Any:
    """Return the text of an answer that is written as a list of one message; any other answer as it is."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or "role" not in value[0]:
        return value
    messages = read_messages(value, field)
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"{field} must be one message of the assistant, not {roles}")
    return messages[0]["content"]


ROW_FORMATS: Mapping[str, RowFormat] = {
    form.name: form
    for form in (
        RowFormat("OpenAIChat", "messages", "reference_answer", _chat),
        RowFormat("Converse", "messages", "reference_answer", _chat),
        RowFormat("ShareGPT", "conversations", "reference_answer", _sharegpt),
        RowFormat("Alpaca", "instruction", "output", _alpaca),
        RowFormat("PromptCompletion", "prompt", "completion", _prompt_completion),
        RowFormat("QuestionAnswer", "question", "answer", _question_answer),
    )
}
