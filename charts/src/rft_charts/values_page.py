"""Generate the page about the values of the chart from values.yaml: names, defaults, and comments with `# --`."""

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
    """A value that users can set."""

    name: str
    """The whole name, such as `image.tag`."""
    default: Any
    """The default."""
    meaning: str
    """The comment about it."""


def read_values(text: str) -> list[Value]:
    """Read the values that have a comment from the text of a values.yaml, in the order of the file.

    Raises:
        ValueError: when a value has no comment and contains no values with comments.
    """
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, yaml.safe_load(text), lines, ""))


def _values(node: yaml.MappingNode, content: dict[str, Any], lines: list[str], prefix: str) -> list[Value]:
    values: list[Value] = []
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        meaning = _comment_above(lines, key.start_mark.line)
        inner = content[key.value]
        if meaning:
            values.append(Value(name, inner, meaning))
        elif isinstance(value, yaml.MappingNode) and value.value:
            values += _values(value, inner, lines, f"{name}.")
        else:
            raise ValueError(f"values.yaml:{key.start_mark.line + 1}: {name} has no comment that begins with `{_MARK}`")
    return values


def _comment_above(lines: list[str], line: int) -> str:
    """Return the comment that ends above a line; an empty text when it does not begin with the mark."""
    comment: list[str] = []
    while line and lines[line - 1].strip().startswith("#"):
        line -= 1
        text = lines[line].strip()
        if text.startswith(_MARK):
            return " ".join([text.removeprefix(_MARK), *reversed(comment)])
        comment.append(text.removeprefix("#").strip())
    return ""


def render_page(values: str) -> str:
    """Return the README of the chart."""
    rows = [
        f"| `{value.name}` | `{json.dumps(value.default)}` | {value.meaning.replace('|', chr(92) + '|')} |\n"
        for value in read_values(values)
    ]
    return "".join([_TITLE, *rows])
