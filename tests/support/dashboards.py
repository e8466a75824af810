"""The queries of the dashboards and of the alerts, as Prometheus gets them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from rft_charts.draw import fill_variables
from support.helm import CHART

METRIC = re.compile(r"\b(?!rft_dev_owner\b)(?:rft_\w+|vllm:\w+|http_\w+)\b")
"""A metric's name in a query, and not a label."""


@dataclass(frozen=True)
class Asked:
    """A query and where it stands."""

    place: str
    expression: str

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics that it reads."""
        return set(METRIC.findall(self.expression))


def read_dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards' JSON, by name."""
    files = sorted((CHART / "files" / "dashboards").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def panel_queries() -> Iterator[Asked]:
    """Queries of every panel, with every variable at All."""
    for name, dashboard in read_dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield Asked(f"{name}: {panel['title']} {target['refId']}", fill_variables(target["expr"], 3600))


def alert_rules() -> list[dict[str, Any]]:
    """The chart's alerts."""
    document = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def alert_queries() -> Iterator[Asked]:
    """Expressions of every alert."""
    for number, rule in enumerate(alert_rules()):
        yield Asked(f"{rule['alert']} {number}", rule["expr"])
