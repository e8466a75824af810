"""Draws the dashboards' panels with matplotlib, from a Prometheus: pictures for the documentation, not Grafana's own.

python -m rft_charts.draw --prometheus http://localhost:9090 --seconds 900 OUTPUT
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from rft_api.model import Json
from rft_charts.dashboards import build_dashboards

Fetch = Callable[[str], list[Json]]
"""The series of an expression, as Prometheus' API answers a range query."""

POINTS = 200
"""Values of a series, at most."""
LEGENDS = 6
"""Series that are named; more would cover the curves."""
_UNIT_INCHES = (0.65, 0.3)
"""Size of Grafana's grid, of which 24 units are the width."""
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "date.converter": "concise",
    "grid.color": "#e8e8e8",
    "legend.fontsize": 6.5,
    "legend.framealpha": 0.7,
    "legend.edgecolor": "none",
}


def fill_variables(expression: str, seconds: float) -> str:
    """A panel's expression as Grafana sends it with all variables at All."""
    known = {"$__rate_interval": "1m", "$__range": f"{round(seconds)}s"}
    for name, value in known.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\w+", ".*", expression)


def draw_dashboard(dashboard: Json, fetch: Fetch, target: Path) -> None:
    """Draws a dashboard to a file, each panel where Grafana has it.

    Args:
        dashboard: its JSON.
        fetch: gets the series of an expression whose variables are filled in.
        target: the file; its ending says in which format.
    """
    panels = dashboard["panels"]
    width, height = 24, max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width * _UNIT_INCHES[0], (height + 1) * _UNIT_INCHES[1]))
        for panel in panels:
            place = panel["gridPos"]
            left, top = place["x"] / width, 1 - (place["y"] + 1) / (height + 1)
            if panel["type"] == "row":
                figure.text(left + 0.005, top - 0.5 / (height + 1), panel["title"], fontsize=11, fontweight="bold")
                continue
            tall = place["h"] / (height + 1)
            inner = (left + 0.03, top - 0.84 * tall, place["w"] / width - 0.04, 0.68 * tall)
            _DRAWN[panel["type"]](figure.add_axes(inner, title=panel["title"]), panel, fetch)
        figure.savefig(target, dpi=90)


def _curves(axis: Axes, panel: Json, fetch: Fetch) -> None:
    named = 0
    for target in panel["targets"]:
        for series in fetch(target["expr"]):
            moments, values = _points(series)
            label = _name(target, series) if named < LEGENDS else None
            axis.plot(moments, values, marker="." if len(values) == 1 else None, label=label)
            named += 1
    match panel["fieldConfig"]["defaults"].get("unit"):
        case "percentunit":
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        case "s":
            axis.set_ylabel("s")
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="best")


def _numbers(axis: Axes, panel: Json, fetch: Fetch) -> None:
    axis.axis("off")
    found = [(_name(t, series), _points(series)[1][-1]) for t in panel["targets"] for series in fetch(t["expr"])]
    for index, (name, value) in enumerate(found[:LEGENDS]):
        height = 1 - (index + 0.5) / len(found[:LEGENDS])
        axis.text(0.5, height, f"{value:g}", ha="center", fontsize=20, transform=axis.transAxes)
        axis.text(0.5, height - 0.14, name, ha="center", fontsize=7, transform=axis.transAxes)


def _table(axis: Axes, panel: Json, fetch: Fetch) -> None:
    axis.axis("off")
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    labels: list[str] = []
    for column, target in enumerate(panel["targets"]):
        for series in fetch(target["expr"]):
            labels = sorted(series["metric"])
            rows.setdefault(tuple(series["metric"][label] for label in labels), {})[column] = (
                f"{_points(series)[1][-1]:.4g}"
            )
    if rows:
        columns = range(len(panel["targets"]))
        texts = [[*key, *(values.get(column, "") for column in columns)] for key, values in sorted(rows.items())]
        (names,) = [t["options"]["renameByName"] for t in panel["transformations"] if t["id"] == "organize"]
        headings = [*labels, *(names[f"Value #{target['refId']}"] for target in panel["targets"])]
        axis.table(cellText=texts, colLabels=headings, loc="upper center", cellLoc="left").scale(1, 1.3)


def _distribution(axis: Axes, panel: Json, fetch: Fetch) -> None:
    """Buckets are cumulative: each is drawn less the one below it."""
    (target,) = panel["targets"]
    buckets = sorted(fetch(target["expr"]), key=lambda series: float(series["metric"]["le"]))
    moments = sorted({moment for series in buckets for moment, _ in series["values"]})
    below = dict.fromkeys(moments, 0.0)
    shares = []
    for series in buckets:
        now = below | {moment: float(value) for moment, value in series["values"]}
        shares.append([max(0.0, now[moment] - below[moment]) for moment in moments])
        below = now
    if shares:
        axis.pcolormesh(_dates(moments), range(len(shares)), shares, cmap="Blues", shading="nearest")
        axis.set_yticks(range(len(shares)), [series["metric"]["le"] for series in buckets], fontsize=6)
    axis.grid(visible=False)


_DRAWN = {"timeseries": _curves, "stat": _numbers, "table": _table, "heatmap": _distribution}


def _points(series: Json) -> tuple[NDArray[np.datetime64], list[float]]:
    return _dates([moment for moment, _ in series["values"]]), [float(value) for _, value in series["values"]]


def _dates(moments: list[float]) -> NDArray[np.datetime64]:
    return np.array([round(1000 * moment) for moment in moments], dtype="datetime64[ms]")


def _name(target: Json, series: Json) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: series["metric"].get(found[1], ""), target["legendFormat"])


def fetch_from(prometheus: str, seconds: float) -> Fetch:
    """Asks a Prometheus for the last seconds.

    Raises:
        httpx.HTTPError: it cannot be reached, or refuses a query.
    """
    end = time.time()

    def fetch(expression: str) -> list[Json]:
        parameters = {
            "query": fill_variables(expression, seconds),
            "start": str(end - seconds),
            "end": str(end),
            "step": str(max(1, round(seconds / POINTS))),
        }
        answer = httpx.get(f"{prometheus}/api/v1/query_range", params=parameters, trust_env=False, timeout=60)
        found: list[Json] = answer.raise_for_status().json()["data"]["result"]
        return found

    return fetch


def draw(prometheus: str, seconds: float, output: Path) -> list[Path]:
    """Draws every dashboard into a folder; returns the files."""
    output.mkdir(parents=True, exist_ok=True)
    fetch, files = fetch_from(prometheus, seconds), []
    for name, text in build_dashboards().items():
        files.append(output / f"{name}.png")
        draw_dashboard(json.loads(text), fetch, files[-1])
    return files


def main() -> None:
    """Draws what the command line says."""
    parser = argparse.ArgumentParser(description="Draws the dashboards with matplotlib.")
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its address")
    parser.add_argument("--seconds", type=float, default=10800, help="how far back (10800)")
    parser.add_argument("output", type=Path, help="folder of the pictures")
    options = parser.parse_args()
    for file in draw(options.prometheus, options.seconds, options.output):
        print(file)


if __name__ == "__main__":
    main()
