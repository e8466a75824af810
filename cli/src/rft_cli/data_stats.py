"""`rft data stats`: describe data without a model: rows, lengths, roles, reference answers, duplicates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line, printable
from rft_api.model import Json
from rft_api.prompts import problem_report
from rft_cli.data_sources import ReadSource, Row, read_targets

_SHARES = {"minimum": 0.0, "median": 0.5, "p90": 0.9, "maximum": 1.0}
_KINDS = {str: "text", dict: "object", list: "list", bool: "boolean", int: "number", float: "number"}


def stats(
    targets: Sequence[str],
    format_name: str,
    conversations: bool,
    split: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """Print the figures of data as tables, or as JSON.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: DATA_INVALID when data cannot be read.
    """
    problems: list[str] = []
    remarks: list[str] = []
    sources = read_targets(targets, format_name, conversations, split, problems, remarks)
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report(problems))
    if as_json:
        print(json.dumps([describe(source) for source in sources], ensure_ascii=False, indent=2))
        return
    print_table(sources, console)
    for title, name in (("messages", "messages"), ("characters of the prompt", "characters"),
                        ("characters of the answer", "answerCharacters")):  # fmt: skip
        _print_quantiles(sources, title, name, console)
    for remark in remarks:
        console.print(Text(printable(remark), style="yellow"), soft_wrap=True)


def describe(source: ReadSource) -> Json:
    """Return the figures of a source, which can be written as JSON."""
    rows = source.rows
    figures: Json = {
        "source": source.label,
        "rows": len(rows),
        "distinctPrompts": len({row.digest for row in rows}),
        "messages": _quantiles([len(row.messages) for row in rows]),
        "characters": _quantiles([_characters(row) for row in rows]),
        "roles": dict(Counter(message["role"] for row in rows for message in row.messages)),
    }
    answers = [len(row.answer) for row in rows if row.answer is not None]
    if answers:
        figures["answerCharacters"] = _quantiles(answers)
    else:
        figures["referenceAnswers"] = dict(Counter(_kind(row.reference) for row in rows))
    if source.report is not None:
        figures["invocationLog"] = source.report.model_dump(mode="json", by_alias=True)
    return figures


def print_table(sources: Sequence[ReadSource], console: Console) -> None:
    """Print a table with one line for each source."""
    if not sources:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # A name that is cut into pieces is hard to read; the other columns can be narrower.
    table.add_column("source", overflow="fold", min_width=min(30, max(len(source.label) for source in sources)))
    for column in ("rows", "distinct", "characters"):
        table.add_column(column, justify="right")
    table.add_column("roles")
    table.add_column("reference answers")
    for source in sources:
        figures = describe(source)
        characters = figures["characters"]
        table.add_row(
            one_line(source.label),
            str(figures["rows"]),
            str(figures["distinctPrompts"]),
            f"{characters['minimum']} to {characters['maximum']}" if characters else "",
            _counts(figures["roles"]),
            _counts(figures.get("referenceAnswers", {})),
        )
    console.print(table)


def _print_quantiles(sources: Sequence[ReadSource], title: str, name: str, console: Console) -> None:
    quantiles = [(source.label, figures[name]) for source in sources if (figures := describe(source)).get(name)]
    if not quantiles:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, overflow="fold")
    for column in _SHARES:
        table.add_column(column, justify="right")
    for label, values in quantiles:
        table.add_row(one_line(label), *(str(values[column]) for column in _SHARES))
    console.print(table)


def _characters(row: Row) -> int:
    return sum(len(message["content"]) for message in row.messages)


def _kind(reference: object) -> str:
    return "none" if reference is None else _KINDS.get(type(reference), "other")


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    """Return minimum, median, 90 % quantile and maximum, each of which is one of the values; nothing without values."""
    ascending = sorted(values)
    return {name: ascending[round(share * (len(ascending) - 1))] for name, share in _SHARES.items() if ascending}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
