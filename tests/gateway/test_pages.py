"""The pages about the gateway: every flag, metric and code of an error is on them, and nothing else."""

from __future__ import annotations

import re

import pytest
from support.pages import ROOT, page

from rft_api.gateway_routes import Route
from rft_gateway import errors
from rft_gateway.budgets import Budgets
from rft_gateway.keys import Key, KeyRing, Limits
from rft_gateway.limits import Limiter
from rft_gateway.metrics import Metrics
from rft_gateway.settings import read_settings
from rft_gateway.usage import Usage

SOURCES = ROOT / "gateway" / "src" / "rft_gateway"


def section(name: str, heading: str) -> str:
    """A section of a page, to the next heading."""
    return page(name).split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]


def first_cells(text: str) -> list[str]:
    """The code in the first column of a table."""
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_flag_is_on_the_page(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    flags = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert flags
    assert {cell.split()[0] for cell in first_cells(section("gateway-operation.md", "## Flags"))} == flags


def test_every_metric_is_on_the_page_with_its_labels():
    metrics, route = Metrics(), Route(namespace="n", model="m", base="b", served_model="m", servers=[])
    metrics.count_request(route, "Answered", 200, 1.0)
    metrics.count_usage(route, Usage(2, 1, 1))
    metrics.count_missing_usage(route)
    metrics.count_error("code")
    metrics.count_log_record(route, "Kept")
    metrics.count_log_failure("n")
    metrics.watch_logs(lambda: 0.0, lambda: 0.0, lambda: 0.0)
    metrics.observe_first_token(route, 1.0)
    metrics.count_refused(route, "QueueFull")
    metrics.count_cold_start("n", "b", "Started")
    metrics.observe_cold_start("n", "b", 1.0)
    keys, limiter = KeyRing(), Limiter(0.0)
    keys.replace([Key("k", "n", "0" * 64, limits=Limits(tokens_per_day=1))], [])
    metrics.budgets.register(Budgets(keys, limiter, clock=lambda: 0.0))
    with metrics.waiting(route):
        served = {
            (f"{family.name}_total" if family.type == "counter" else family.name, *sorted(family.samples[-1].labels))
            for registry in (metrics.registry, metrics.budgets)
            for family in registry.collect()
        }
    stated = set()
    for cell in first_cells(section("gateway-operation.md", "## Metrics")):
        name, _, labels = cell.rstrip("}").partition("{")
        stated.add((name, *sorted(filter(None, labels.split(",")))))
    assert stated == served


def test_every_code_of_an_error_is_on_the_page():
    rows = re.findall(r"^\| \d[^|]+\| ([^|]+) \|", section("gateway.md", "### Errors"), re.MULTILINE)
    stated = [code for row in rows for code in re.findall(r"`([a-z_]+)`", row)]
    source = "".join(file.read_text(encoding="utf-8") for file in sorted(SOURCES.rglob("*.py")))
    raised = re.findall(r'\bcode ?= ?"([a-z_]+)"', source) + re.findall(r'_error\(\d{3}, "([a-z_]+)"', source)
    raised += [getattr(errors, name) for name in re.findall(r"\bcode ?= ?([A-Z_]{2,})\b", source)]
    assert sorted(stated) == sorted(set(raised))
