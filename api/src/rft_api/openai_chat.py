"""Reads rows in OpenAI chat format: a row holds the messages, and what else a reward needs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rft_api.dataset_files import is_data_file
from rft_api.exact_json import parse_row
from rft_api.jsonl import DataRow
from rft_api.model import Json
from rft_api.prompts import Check, Conversation, Message, Prompt, prompt_of, refusal
from rft_api.rows import read_rows
from rft_api.sources import DataSource, Source, WarmupSource

ROLES = ("system", "developer", "user", "assistant", "tool")

Use = Literal["prompt", "conversation", "completion"]
"""What a row is read for: to be continued, to be imitated, or to be scored. The last two end with the assistant."""

# Roles of the assistant in data for other models.
_ASSISTANTS = {"nova_assistant": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text", None)
"""Types of parts that are text: in OpenAI's chat API, in its responses API, and in Amazon Bedrock's Converse, whose
parts have nothing but their text."""
_TOOLS = ("tools", "toolConfig", "functions")
"""Fields of a row that define tools: in OpenAI's chat API, in Converse, and in OpenAI's older API."""
_NO_TOOLS = ("[]", "{}", "null")
"""What rows without tools have there in datasets that keep the definitions as text."""
_CALLS = ("tool_calls", "function_call")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message for what the model thought, in several libraries."""
_INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")
"""Categories of characters that show nothing."""

# Fields of prompts in rows of other formats: the name by which `rft data convert` knows the format, and its own names
# of the fields of the prompt and of the answer.
_OTHER_FORMATS = {
    "conversations": ("ShareGPT", "conversations", None),
    "conversation": ("ShareGPT", "conversations", None),
    "instruction": ("Alpaca", "instruction", "output"),
    "prompt": ("PromptCompletion", "prompt", "completion"),
    **dict.fromkeys(("question", "problem", "query", "input"), ("QuestionAnswer", "question", "answer")),
}
_ANSWERS = (
    "answer",
    "completion",
    "solution",
    "expected_answer",
    "ground_truth",
    "correct_answer",
    "final_answer",
    "label",
    "output",
    "target",
    "response",
    "ideal",
    "expected",
    "expected_output",
)


@dataclass(frozen=True)
class ChatRow:
    """A row, divided into what the model sees and what the reward sees."""

    messages: list[Message]
    """The messages; they begin with the row's `system`, if it has one."""
    reference_answer: Any
    metadata: Json
    """The row's `metadata`, and its further fields."""
    imitated: tuple[int, ...] = ()
    """Which messages are imitated, by their places; none unless it was read for that."""


def split_row(row: Json, use: Use, *, every_answer: bool = False) -> ChatRow:
    """Divide a row into its messages, its reference answer and its metadata.

    Args:
        row: the row.
        use: what it is read for.
        every_answer: whether all messages of the assistant are imitated, and not only the last one, unless they have a
            weight that says otherwise.

    Raises:
        ValueError: when it cannot be used so; the message says why, with the field.
    """
    for field in _TOOLS:
        if row.get(field) and row[field] not in _NO_TOOLS:
            raise ValueError(f"{field}: definitions of tools are not supported yet; leave the field out, or the row")
    messages, imitated = _messages(row, use, every_answer)
    nested = row.get("metadata")
    if nested is None:
        nested = {}
    if not isinstance(nested, dict):
        raise ValueError(f"metadata must be an object, not {json.dumps(nested)[:40]}")
    own = ("messages", "reference_answer", "metadata", "system", *_TOOLS)
    metadata = {**nested, **{key: value for key, value in row.items() if key not in own}}
    reference_answer = row.get("reference_answer")
    if reference_answer is None:  # Bedrock's samples carry it in either place.
        reference_answer = metadata.get("reference_answer")
    elif metadata.get("reference_answer") not in (None, reference_answer):
        # Rewards find the answer in both places, so one of the two would be lost.
        raise ValueError("reference_answer and metadata.reference_answer differ; keep one, or rename the other")
    return ChatRow(messages, reference_answer, metadata, imitated)


def read_prompts(source: DataSource, problems: list[str], check: Check) -> tuple[list[Prompt], None]:
    """Return the prompts of a file; see `rft_api.data_formats.DataFormat`."""
    prompts = []
    for row, chat in read_chat_rows(Path(source.uri), "prompt", problems, source.split):
        problem = refusal(check, chat.messages)
        if problem:
            problems.append(f"{row.place}: {problem}")
        else:
            prompts.append(prompt_of(source, row.number, chat.messages, chat.reference_answer, chat.metadata))
    return prompts, None


def read_conversations(source: WarmupSource, problems: list[str], check: Check) -> tuple[list[Conversation], None]:
    """Return the conversations of a file; see `rft_api.data_formats.DataFormat`."""
    conversations = []
    every_answer = source.imitate == "EveryAnswer"
    for row, chat in read_chat_rows(
        Path(source.uri), "conversation", problems, source.split, every_answer=every_answer
    ):
        of_row = [Conversation(source.name, chat.messages[: place + 1], row.number) for place in chat.imitated]
        refusals = [(problem, each) for each in of_row if (problem := refusal(check, each.messages))]
        if refusals:
            problem, answer = refusals[0]
            earlier = (
                "" if len(answer.messages) == len(chat.messages) else f"the first {len(answer.messages)} messages: "
            )
            problems.append(f"{row.place}: {earlier}{problem}")
        else:
            conversations += of_row
    return conversations, None


@dataclass(frozen=True)
class SplitFiles:
    """The filter of the files of a folder that can hold rows of a split; equal for equal splits."""

    split: str | None

    def __call__(self, name: str) -> bool:
        """Return whether a file, by its name relative to the folder, is read."""
        return is_data_file(name, self.split)


def files(source: Source) -> SplitFiles:
    """Return the filter of the files of a folder that can hold rows of the source's split."""
    return SplitFiles(source.split)


def read_chat_rows(
    path: Path, use: Use, problems: list[str], split: str | None = None, *, every_answer: bool = False
) -> Iterator[tuple[DataRow, ChatRow]]:
    """Read the rows of a file that can be used; what is wrong with the others is appended to `problems`."""
    for row in read_rows(path, problems, split):
        try:
            chat = split_row(row.row, use, every_answer=every_answer)
        except ValueError as error:
            problems.append(f"{row.place}: {error}")
        else:
            yield row, chat


def read_messages(entries: Any, field: str = "messages") -> list[Message]:
    """Return the messages of a conversation as role and text; `field` is the name of their field, for messages.

    Raises:
        ValueError: when they are no such messages; the message says why, with the field.
    """
    messages = []
    for place, message in read_turns(_unpacked(entries, field), field, "message", "role and content"):
        role = message.get("role")
        role = _ASSISTANTS.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise ValueError(f"{place}.role must be one of {', '.join(ROLES)}, not {json.dumps(role)}")
        for calls in _CALLS:
            if message.get(calls):
                raise ValueError(f"{place}.{calls}: tool calls are not supported")
        messages.append({"role": role, "content": read_text(message.get("content"), f"{place}.content")})
    return messages


def read_turns(turns: Any, field: str, noun: str, parts: str) -> Iterator[tuple[str, Json]]:
    """Yield the objects of a list, each with its place, such as `messages[2]`.

    Args:
        turns: the list.
        field: the name of its field, for messages.
        noun: what an object is called.
        parts: the fields that an object has, in words.

    Raises:
        ValueError: when it is no list of objects, or empty; the message says why, with the field.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{field} must be a list with at least one {noun}")
    for index, turn in enumerate(turns):
        place = f"{field}[{index}]"
        if not isinstance(turn, dict):
            raise ValueError(f"{place} must be an object with {parts}")
        yield place, turn


def with_system(messages: list[Message], system: Any) -> list[Message]:
    """Return the messages that begin with the `system` of their row, a text or a list of parts; unchanged if it has
    none.

    Raises:
        ValueError: when it is no text, or when the messages begin with a system message already.
    """
    if not system:
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        raise ValueError("system: messages begins with a system message already; keep one of them")
    return [{"role": "system", "content": read_text(system, "system")}, *messages]


def read_text(content: Any, place: str) -> str:
    """Return a text, or the joined texts of a list of parts in the form of OpenAI or of Amazon Bedrock's Converse.

    Raises:
        ValueError: when it is neither; the message begins with the place.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = []
        for part in content:
            is_text = isinstance(part, dict) and part.get("type") in _TEXT_PARTS
            if not is_text or not isinstance(part.get("text"), str):
                raise ValueError(f"{place} may hold text parts only")
            texts.append(part["text"])
        return "".join(texts)
    raise ValueError(f"{place} must be text" if content is not None else f"{place} is missing")


def _unpacked(entries: Any, field: str) -> Any:
    """Return a list that may be JSON in a text, as some datasets keep it; anything else as it is."""
    if not isinstance(entries, str) or not entries.lstrip().startswith("["):
        return entries
    try:
        return parse_row(entries.encode())
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _messages(row: Json, use: Use, every_answer: bool) -> tuple[list[Message], tuple[int, ...]]:
    """Return the messages of a row, and the places of those that are imitated."""
    if row.get("messages") is None:
        raise ValueError(f"messages is missing{_conversion(row)}")
    entries = _unpacked(row["messages"], "messages")
    messages = with_system(read_messages(entries), row.get("system"))
    last = messages[-1]["role"]
    prompt = messages
    if use == "prompt":
        if last not in ("user", "tool"):
            raise ValueError(
                f"the last message must be the user's, not the {last}'s; an expected answer goes to reference_answer"
                + (
                    ": rft data convert FILE --from OpenAIChat --output NEW moves it"
                    if _ends_with_answer(messages)
                    else ""
                )
            )
    else:
        if last != "assistant":
            purpose = "imitated" if use == "conversation" else "scored"
            raise ValueError(f"the last message must be the assistant's, which is {purpose}, not the {last}'s")
        if use == "conversation":
            answers = _imitated(entries, every_answer)
            shift = len(messages) - len(entries)  # of the row's `system`
            for place in answers:
                _require_no_thoughts(entries[place], place)
                if place < len(entries) - 1:
                    _require_prompt(messages[: place + shift], f"messages[{place}]: it is imitated, and ")
            if answers[-1] == len(entries) - 1:
                _require_prompt(messages[:-1])
            return messages, tuple(place + shift for place in answers)
        prompt = messages[:-1]
    _require_prompt(prompt)
    return messages, ()


def _require_prompt(prompt: list[Message], place: str = "") -> None:
    """Refuse a prompt that says nothing."""
    if not any(_shows_something(message["content"]) for message in prompt):
        raise ValueError(f"{place}the prompt is empty: no message has a text")
    if prompt[-1]["role"] == "user" and not _shows_something(prompt[-1]["content"]):
        raise ValueError(f"{place}the prompt is empty: the user's last message has no text")


def _imitated(entries: list[Json], every_answer: bool) -> list[int]:
    """Return the places of the messages that are imitated: their weight says so, or else their role and place."""
    places = []
    for place, entry in enumerate(entries):
        is_answer, weight = _ASSISTANTS.get(entry["role"], entry["role"]) == "assistant", entry.get("weight")
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or not is_answer):
            raise ValueError(f"messages[{place}].weight: must be 0 or 1, of a message of the assistant")
        if is_answer and (weight == 1 or (weight is None and (every_answer or place == len(entries) - 1))):
            places.append(place)
    if not places:
        raise ValueError("no message is imitated: those of the assistant have the weight 0")
    return places


def _require_no_thoughts(entry: Json, place: int) -> None:
    """Refuse an answer whose thoughts are in a field of their own: they would not be imitated, in silence."""
    for field in _THOUGHTS:
        if entry.get(field):
            raise ValueError(
                f"messages[{place}].{field}: only content is imitated; write it there in the form in which "
                "the model thinks, or leave it out"
            )


def _ends_with_answer(messages: list[Message]) -> bool:
    return len(messages) > 1 and messages[-1]["role"] == "assistant" and messages[-2]["role"] in ("user", "tool")


def _shows_something(text: str) -> bool:
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)


def _conversion(row: Json) -> str:
    """Return the command that makes rows of this format of a row of another one; empty for a row without fields."""
    for field, value in row.items():
        if isinstance(value, dict) and "messages" in value:
            return f"; it is in {field}: jq -c '.{field}' FILE > NEW"
        if isinstance(value, list) and value and isinstance(value[0], dict) and "messages" in value[0]:
            return f"; the rows are in {field}: jq -c '.{field}[]' FILE > NEW"
    for field, (name, prompt_field, answer_field) in _OTHER_FORMATS.items():
        if field in row:
            if name == "QuestionAnswer" and isinstance(row[field], list):
                name, prompt_field, answer_field = "OpenAIChat", "messages", "reference_answer"
            options = "" if field == prompt_field else f" --prompt-field {field}"
            answer = _answer_field(row, field)
            options += "" if answer is None or answer_field in (None, *row) else f" --answer-field {answer}"
            return f"; rft data convert FILE --from {name}{options} --output NEW reads {field}"
    if not row:
        return ""
    return (
        "; name the fields of the prompt and of the answer: rft data convert FILE --from QuestionAnswer "
        "--prompt-field NAME --answer-field NAME --output NEW"
    )


def _answer_field(row: Json, prompt_field: str) -> str | None:
    """Return the field that most likely holds the answer of a row of another format."""
    for name in ("reward_model", "reward_spec"):  # rows of verl and SkyRL
        if isinstance(row.get(name), dict) and "ground_truth" in row[name]:
            return f"{name}.ground_truth"
    return next((name for name in _ANSWERS if name in row and name != prompt_field), None)
