"""Draw the dashboards with matplotlib, with data of a Prometheus server, as pictures for the documentation.

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
"""Returns the series of an expression, in the format of Prometheus' API for range queries."""

POINTS = 200
"""The largest number of values of a series."""
LEGENDS = 6
"""The largest number of series in a legend; a longer legend would cover the curves."""
_UNIT_INCHES = (0.65, 0.3)
"""Width and height of a unit of Grafana's grid. A dashboard is 24 units wide."""
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
    """Replace the variables of an expression as Grafana does when every variable is set to All."""
    intervals = {"$__rate_interval": "1m", "$__range": f"{round(seconds)}s"}
    for name, value in intervals.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\w+", ".*", expression)


def draw_dashboard(dashboard: Json, fetch: Fetch, target: Path) -> None:
    """Draw a dashboard to a file, with each panel where Grafana shows it.

    Args:
        dashboard: the dashboard in Grafana's JSON.
        fetch: returns the series of an expression.
        target: the file; its suffix determines the format.
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
            panel_height = place["h"] / (height + 1)
            area = (left + 0.03, top - 0.84 * panel_height, place["w"] / width - 0.04, 0.68 * panel_height)
            _DRAWING_FUNCTIONS[panel["type"]](figure.add_axes(area, title=panel["title"]), panel, fetch)
        figure.savefig(target, dpi=90)


def _draw_curves(axis: Axes, panel: Json, fetch: Fetch) -> None:
    count = 0
    for target in panel["targets"]:
        for series in fetch(target["expr"]):
            times, values = _points(series)
            label = _name(target, series) if count < LEGENDS else None
            axis.plot(times, values, marker="." if len(values) == 1 else None, label=label)
            count += 1
    match panel["fieldConfig"]["defaults"].get("unit"):
        case "percentunit":
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        case "s":
            axis.set_ylabel("s")
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="best")


def _draw_numbers(axis: Axes, panel: Json, fetch: Fetch) -> None:
    axis.axis("off")
    numbers = [(_name(t, series), _points(series)[1][-1]) for t in panel["targets"] for series in fetch(t["expr"])]
    for index, (name, value) in enumerate(numbers[:LEGENDS]):
        height = 1 - (index + 0.5) / len(numbers[:LEGENDS])
        axis.text(0.5, height, f"{value:g}", ha="center", fontsize=20, transform=axis.transAxes)
        axis.text(0.5, height - 0.14, name, ha="center", fontsize=7, transform=axis.transAxes)


def _draw_table(axis: Axes, panel: Json, fetch: Fetch) -> None:
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


def _draw_distribution(axis: Axes, panel: Json, fetch: Fetch) -> None:
    """Draw a histogram over time. Its buckets are cumulative, so the next lower bucket is subtracted from each."""
    (target,) = panel["targets"]
    buckets = sorted(fetch(target["expr"]), key=lambda series: float(series["metric"]["le"]))
    times = sorted({timestamp for series in buckets for timestamp, _ in series["values"]})
    lower_bucket = dict.fromkeys(times, 0.0)
    counts = []
    for series in buckets:
        bucket = lower_bucket | {timestamp: float(value) for timestamp, value in series["values"]}
        counts.append([max(0.0, bucket[timestamp] - lower_bucket[timestamp]) for timestamp in times])
        lower_bucket = bucket
    if counts:
        axis.pcolormesh(_dates(times), range(len(counts)), counts, cmap="Blues", shading="nearest")
        axis.set_yticks(range(len(counts)), [series["metric"]["le"] for series in buckets], fontsize=6)
    axis.grid(visible=False)


_DRAWING_FUNCTIONS = {
    "timeseries": _draw_curves,
    "stat": _draw_numbers,
    "table": _draw_table,
    "heatmap": _draw_distribution,
}


def _points(series: Json) -> tuple[NDArray[np.datetime64], list[float]]:
    """Return the times and the values of a series."""
    return _dates([timestamp for timestamp, _ in series["values"]]), [float(value) for _, value in series["values"]]


def _dates(timestamps: list[float]) -> NDArray[np.datetime64]:
    """Convert timestamps in seconds since 1970."""
    return np.array([round(1000 * timestamp) for timestamp in timestamps], dtype="datetime64[ms]")


def _name(target: Json, series: Json) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: series["metric"].get(match[1], ""), target["legendFormat"])


def fetch_from(prometheus: str, seconds: float) -> Fetch:
    """Return a function that queries a Prometheus server for the last seconds.

    Raises:
        httpx.HTTPError: when the function cannot reach the server, or the server refuses a query.
    """
    end = time.time()

    def fetch(expression: str) -> list[Json]:
        parameters = {
            "query": fill_variables(expression, seconds),
            "start": str(end - seconds),
            "end": str(end),
            "step": str(max(1, round(seconds / POINTS))),
        }
        response = httpx.get(f"{prometheus}/api/v1/query_range", params=parameters, trust_env=False, timeout=60)
        series: list[Json] = response.raise_for_status().json()["data"]["result"]
        return series

    return fetch


def draw(prometheus: str, seconds: float, output: Path) -> list[Path]:
    """Draw every dashboard to a file in a folder, and return the files."""
    output.mkdir(parents=True, exist_ok=True)
    fetch, files = fetch_from(prometheus, seconds), []
    for name, text in build_dashboards().items():
        files.append(output / f"{name}.png")
        draw_dashboard(json.loads(text), fetch, files[-1])
    return files


def main() -> None:
    """Draw the dashboards as the command line says, and print the files."""
    parser = argparse.ArgumentParser(description="Draw the dashboards with matplotlib.")
    parser.add_argument("--prometheus", default="http://localhost:9090", help="address of the Prometheus server")
    parser.add_argument("--seconds", type=float, default=10800, help="time range of the pictures (10800)")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    for file in draw(options.prometheus, options.seconds, options.output):
        print(file)


if __name__ == "__main__":
    main()
