"""The page of the chart's values, made from values.yaml: names, defaults, and the comments that begin with `# --`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import yaml

_TITLE = """# rft-operator: Helm chart

Generated from the comments in `values.yaml` by `make generate`. How to install, upgrade and uninstall is in
[docs/install.md](../../docs/install.md).

| Value | Default | Meaning |
|---|---|---|
"""
_MARK = "# -- "


@dataclass(frozen=True)
class Value:
    """A value that can be set."""

    name: str
    """With those that it stands in: `image.tag`."""
    default: Any
    """What it is unless it is set."""
    meaning: str
    """Its comment."""


def read_values(text: str) -> list[Value]:
    """The values of a values.yaml that have a comment, in its order.

    Raises:
        ValueError: for a value that has none and in which none stands.
    """
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, yaml.safe_load(text), lines, ""))


def _values(node: yaml.MappingNode, content: dict[str, Any], lines: list[str], prefix: str) -> list[Value]:
    found: list[Value] = []
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        meaning = _comment_above(lines, key.start_mark.line)
        inner = content[key.value]
        if meaning:
            found.append(Value(name, inner, meaning))
        elif isinstance(value, yaml.MappingNode) and value.value:
            found += _values(value, inner, lines, f"{name}.")
        else:
            raise ValueError(f"values.yaml:{key.start_mark.line + 1}: {name} has no comment that begins with `{_MARK}`")
    return found


def _comment_above(lines: list[str], line: int) -> str:
    """The block of comment that ends above a line, if it begins with the mark."""
    comment: list[str] = []
    while line and lines[line - 1].strip().startswith("#"):
        line -= 1
        text = lines[line].strip()
        if text.startswith(_MARK):
            return " ".join([text.removeprefix(_MARK), *reversed(comment)])
        comment.append(text.removeprefix("#").strip())
    return ""


def render_page(values: str) -> str:
    """The chart's README."""
    rows = [
        f"| `{value.name}` | `{json.dumps(value.default)}` | {value.meaning.replace('|', chr(92) + '|')} |\n"
        for value in read_values(values)
    ]
    return "".join([_TITLE, *rows])
