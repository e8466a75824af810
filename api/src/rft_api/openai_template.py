"""Parses the templates of OpenAI's graders: texts with placeholders such as `{{ sample.output_text }}`."""

from __future__ import annotations

import re

Part = str | list[str | int]
"""A piece of text, or the path of a value: its namespace, then names and positions."""

_PATH = re.compile(r"(item|sample)((?:\.[A-Za-z_][\w-]*|\[\d{1,9}\]|\['[^']*'\]|\[\"[^\"]*\"\])+)")
_STEP = re.compile(r"\.([A-Za-z_][\w-]*)|\[(\d+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")
SAMPLE_NAMES = ("output_text", "output_json", "output_tools", "choices")


def parse_template(text: str) -> list[Part]:
    """Return the parts of a template, in order.

    Raises:
        ValueError: the text between double braces is not the path of a value.
    """
    parts: list[Part] = []
    end = 0
    # Not with a regular expression: it would look for the end of each of many beginnings that have none.
    while (start := text.find("{{", end)) >= 0 and (stop := text.find("}}", start + 2)) >= 0:
        if start > end:
            parts.append(text[end:start])
        parts.append(_path(text[start + 2 : stop].strip()))
        end = stop + 2
    if end < len(text):
        parts.append(text[end:])
    return parts


def format_path(path: list[str | int]) -> str:
    """Return a path as people write it, such as `item.answers[0].text`."""
    return str(path[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])


def _path(expression: str) -> list[str | int]:
    match = _PATH.fullmatch(expression)
    if match is None:
        raise ValueError(f"{{{{ {expression} }}}} is not understood: write item.NAME or sample.NAME, with .NAME or [0]")
    steps = _STEP.findall(match[2])
    path = [match[1], *(int(index) if index else name or quoted or other for name, index, quoted, other in steps)]
    if path[0] == "sample" and path[1] not in SAMPLE_NAMES:
        raise ValueError(f"{{{{ {expression} }}}}: sample has {', '.join(SAMPLE_NAMES)}")
    return path
