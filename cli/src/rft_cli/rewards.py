"""`rft rewards list`, `show` and `init`: list the rewards, show their options, and write a manifest to start from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.builtin_table import options_key
from rft_api.crd import structural_schema
from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Json
from rft_api.reward_function import RewardFunction
from rft_cli.new_file import new_files
from rft_cli.reward_templates import TEMPLATES, Template

_FIELDS = {"Python": "python", "Combine": "combine", "OpenAI": "openai", "Lambda": "lambda", "Http": "http"}


def list_rewards(console: Console) -> None:
    """Print each reward with one line about it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "kind", "scores"):
        table.add_column(column)
    for name, template in TEMPLATES.items():
        table.add_row(name, template.kind, template.line)
    console.print(table)
    console.print("rft rewards show NAME: its options, and an example", highlight=False)
    console.print("rft rewards init NAME [FILE]: writes a manifest to start from", highlight=False)


def show_reward(name: str, console: Console) -> None:
    """Print the options of a reward, from the schema of the manifest, and an example.

    Raises:
        RunError: CONFIGURATION_INVALID when there is no such reward.
    """
    name, template = _template(name)
    console.print(Text(name, style="bold"), Text(f"· {template.line}"))
    field, schema = _options(name, template)
    rows = list(_rows(schema, ""))
    if rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        first = f"option of {field}"
        table.add_column(first, min_width=len(first))  # a narrow terminal would cut the name of the field
        for column in ("type", "default", "meaning"):
            table.add_column(column)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        console.print("It has no options.")
    console.print(Text(template.manifest(manifest_name(name)).rstrip()), soft_wrap=True)


def init_reward(name: str, file: Path, console: Console) -> None:
    """Write a manifest to start from.

    Raises:
        RunError: CONFIGURATION_INVALID when there is no such reward, OUTPUT_INVALID when the file exists already.
    """
    if not name:
        message = "name a reward (rft rewards list shows them all), or a file with your code: --from-file CODE.py"
        raise RunError(ExitCode.CONFIGURATION_INVALID, message)
    name, template = _template(name)
    with new_files([file]) as (target,):
        target.write(template.manifest(manifest_name(file.stem)).encode())
    console.print(f"Wrote {file}. Next: rft score {file} COMPLETIONS.jsonl", highlight=False, soft_wrap=True)


def _template(name: str) -> tuple[str, Template]:
    """Return the name of a reward in its usual case, and its template."""
    for template_name, template in TEMPLATES.items():
        if template_name.casefold() == name.casefold():
            return template_name, template
    matches = get_close_matches(name.casefold(), [template_name.casefold() for template_name in TEMPLATES], n=1)
    hint = next((f"did you mean {reward}?" for reward in TEMPLATES if [reward.casefold()] == matches), "")
    raise RunError(
        ExitCode.CONFIGURATION_INVALID,
        f"there is no reward {name}; {hint or 'rft rewards list shows them all'}",
    )


def manifest_name(text: str) -> str:
    """Return the name of a resource that is made from a text, such as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "reward"


def _options(name: str, template: Template) -> tuple[str, Json]:
    """Return the field of the manifest that has the options of a reward, and their schema."""
    spec = structural_schema(RewardFunction)["properties"]["spec"]["properties"]
    if template.kind == "builtin":
        field = options_key(name)
        return f"builtin.{field}", spec["builtin"]["properties"][field]
    field = _FIELDS.get(name, "judge")
    return field, spec[field]


def _rows(schema: Json, path: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each option of a schema, also of nested ones: path, type, default and description."""
    for name, field in schema.get("properties", {}).items():
        kind = " | ".join(field["enum"]) if "enum" in field else str(field.get("type", "any"))
        required = name in schema.get("required", [])
        default = (
            "(required)" if required else "" if field.get("default") in (None, {}, []) else _text(field["default"])
        )
        yield f"{path}{name}", kind, default, field.get("description", "")
        yield from _rows(field, f"{path}{name}.")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
