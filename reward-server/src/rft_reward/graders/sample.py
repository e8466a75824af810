"""Reads the text of the completion and the reference answer from a sample, for the builtins."""

from __future__ import annotations

from typing import Any

from rft_reward.graders.term import Unscorable

DEFAULT_ANSWER_KEYS = ("final_answer", "answer", "value")
_OTHER_FIELDS = ("ground_truth", "answer", "expected_answer", "solution", "label", "target")
"""Fields in which public datasets have the answer."""


def completion_text(sample: dict[str, Any]) -> str:
    """Return the text of the last message, or of its text parts. It is empty for a message without text, such as a tool
    call."""
    content = sample["messages"][-1].get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def reference_answer(sample: dict[str, Any]) -> Any:
    """Return the reference answer, from either field that may contain it.

    Raises:
        Unscorable: there is no reference answer.
    """
    reference = sample.get("reference_answer")
    if reference is None:
        reference = (sample.get("metadata") or {}).get("reference_answer")
    if reference is None:
        fields = sample.get("metadata") or {}
        other = next((name for name in _OTHER_FIELDS if fields.get(name) is not None), None)
        raise Unscorable(
            "the sample has no reference_answer"
            + (
                f"; if {other} is the answer: rft data convert FILE --from OpenAIChat --answer-field {other} "
                "--output NEW"
                if other
                else ""
            )
        )
    return reference


def selected_answer(sample: dict[str, Any], answer_key: str | None) -> Any:
    """Return the reference answer, or its field `answer_key`, or a field with a usual name, if it is an object.

    Raises:
        Unscorable: there is no such value.
    """
    reference = reference_answer(sample)
    if not isinstance(reference, dict):
        return reference
    keys = (answer_key,) if answer_key else DEFAULT_ANSWER_KEYS
    key = next((key for key in keys if reference.get(key) is not None), None)
    if key is None and not answer_key and isinstance(reference.get("text"), str):
        key = "text"  # texts that were wrapped for handlers, as in data for Amazon Bedrock
    if key is None:
        raise Unscorable(
            f"the reference_answer is an object without {' or '.join(keys)}: "
            "set answerKey to the field that holds the answer"
        )
    return reference[key]


def expected_text(sample: dict[str, Any], answer_key: str | None) -> str:
    """Return the selected answer as text.

    Raises:
        Unscorable: there is no such value, or it is neither text nor a number.
    """
    reference = selected_answer(sample, answer_key)
    if isinstance(reference, bool) or not isinstance(reference, (str, int, float)):
        raise Unscorable(f"the reference_answer is a {type(reference).__name__}, not text or a number")
    if not str(reference).strip():
        raise Unscorable("the reference_answer is empty")
    return str(reference)


def unwrapped(reference: Any) -> Any:
    """Return the text of a reference answer that is {"text": TEXT} and nothing else; any other reference answer
    unchanged."""
    if isinstance(reference, dict) and reference.keys() == {"text"} and isinstance(reference["text"], str):
        return reference["text"]
    return reference
