"""Shows what `rft serve` has served: requests and tokens of each model, from the gateway's metrics."""

from __future__ import annotations

import re
from collections import Counter
from typing import Self

import httpx
from rich.console import Console
from rich.table import Table

from rft_cli.live_view import LiveView

_SAMPLE = re.compile(r"^rft_gateway_(requests|tokens)_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_LARGEST_PAGE = 4 << 20
COLUMNS = ("requests", "prompt", "cached", "completion")

Usage = dict[str, Counter[str]]
"""Requests and tokens by kind, of each model."""


def read_usage(address: str) -> Usage | None:
    """Ask the gateway for its metrics; return None when it does not answer."""
    try:
        response = httpx.get(f"{address}/metrics", timeout=5, trust_env=False)
    except httpx.TransportError:
        return None
    return parse_usage(response.text[:_LARGEST_PAGE])


def parse_usage(metrics: str) -> Usage:
    """Return the usage that a page of metrics states."""
    usage: Usage = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        fields = dict(_LABEL.findall(labels))
        column = "requests" if name == "requests" else fields.get("kind", "")
        usage.setdefault(fields.get("model", ""), Counter())[column] += int(float(value))
    return usage


class UsageDisplay(LiveView):
    """Shows the usage: in a table that changes on a terminal, and elsewhere in a line for each change."""

    def __init__(self, console: Console, models: tuple[str, ...]):
        super().__init__(console)
        self._console = console
        self._models = models
        self._last: Usage = {}

    def __enter__(self) -> Self:
        super().__enter__()
        self.show(self._table())
        return self

    def update(self, usage: Usage) -> None:
        """Show the usage, if it has changed."""
        changed = [model for model in self._models if usage.get(model) != self._last.get(model)]
        self._last = usage
        if self.is_live:
            self.show(self._table())
            return
        for model in changed:
            counts = usage.get(model, Counter())
            numbers = f"{_amount(counts['requests'], 'request')}, {_amount(counts['prompt'], 'prompt token')}"
            cached = f" ({counts['cached']:,} cached)" if counts["cached"] else ""
            self._console.print(f"{model}: {numbers}{cached}, {_amount(counts['completion'], 'completion token')}")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_row("", *COLUMNS, style="dim")
        for model in self._models:
            counts = self._last.get(model, Counter())
            table.add_row(model, *(f"{counts[column]:,}" for column in COLUMNS))
        return table


def _amount(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"
