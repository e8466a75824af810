"""What the builtins read from a sample: the completion's text and the reference answer."""

from __future__ import annotations

from typing import Any

from rft_reward.graders.term import Unscorable

DEFAULT_ANSWER_KEYS = ("final_answer", "answer", "value")


def completion_text(sample: dict[str, Any]) -> str:
    """Text of the last message; of a message in parts, the text parts; empty without text, as in a tool call."""
    content = sample["messages"][-1].get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def reference_answer(sample: dict[str, Any]) -> Any:
    """The reference answer from either place where it may stand.

    Raises:
        Unscorable: when it is in neither.
    """
    reference = sample.get("reference_answer")
    if reference is None:
        reference = (sample.get("metadata") or {}).get("reference_answer")
    if reference is None:
        raise Unscorable("the sample has no reference_answer")
    return reference


def selected_answer(sample: dict[str, Any], answer_key: str | None) -> Any:
    """The reference answer: itself, or the field of an object that `answer_key` or a usual name selects.

    Raises:
        Unscorable: when it is missing.
    """
    reference = reference_answer(sample)
    if not isinstance(reference, dict):
        return reference
    keys = (answer_key,) if answer_key else DEFAULT_ANSWER_KEYS
    key = next((key for key in keys if reference.get(key) is not None), None)
    if key is None:
        raise Unscorable(
            f"the reference_answer is an object without {' or '.join(keys)}: "
            "set answerKey to the field that holds the answer"
        )
    return reference[key]


def expected_text(sample: dict[str, Any], answer_key: str | None) -> str:
    """The reference answer as text: itself, or the field of an object that `answer_key` or a usual name selects.

    Raises:
        Unscorable: when it is missing or neither text nor a number.
    """
    reference = selected_answer(sample, answer_key)
    if isinstance(reference, bool) or not isinstance(reference, (str, int, float)):
        raise Unscorable(f"the reference_answer is a {type(reference).__name__}, not text or a number")
    if not str(reference).strip():
        raise Unscorable("the reference_answer is empty")
    return str(reference)
