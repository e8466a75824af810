"""Build Grafana dashboards from panels, rows and variables. Users choose the data source at the top of a dashboard."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        expression: the expression in PromQL.
        legend: the name of each series; in a table, the name of the column.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: the title.
        description: what a healthy curve looks like, and what other curves mean.
        queries: the queries whose series the panel shows.
        unit: Grafana's name of the unit.
        kind: curves over time, one number for each series, a table with a row for each set of labels, or a
            distribution over time.
        span: the width in columns; a dashboard has 24.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["curves", "numbers", "table", "distribution"] = "curves"
    span: int = 8


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A variable, for which users choose one or more values at the top of the dashboard. At first all are chosen."""

    name: str
    label: str
    values: str
    """The query of the values: `label_values(METRIC, LABEL)`."""


def rate(metric: str, selector: str, by: str) -> str:
    """Return the expression of the rate at which a counter grows per second."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantiles(buckets: str, name: str) -> tuple[Query, ...]:
    """Return the queries of the median and the 95 % quantile.

    Args:
        buckets: the expression of the rates of a histogram's buckets.
        name: the name of each series.
    """
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{name} {label}".strip())
        for share, label in ((0.5, "50%"), (0.95, "95%"))
    )


@dataclass(frozen=True)
class Servers:
    """The servers of reward functions or of endpoints, which have the name of the resource that owns them."""

    variable: str
    """The variable of the dashboard that chooses the owners."""
    by = "namespace, rft_dev_owner"
    name = "{{rft_dev_owner}}"

    @property
    def selector(self) -> str:
        """The selector of the servers that the variables choose."""
        return f'namespace=~"$namespace", rft_dev_owner=~"${self.variable}"'

    def rate(self, metric: str, by: str = "", more: str = "") -> str:
        """Return the expression of the rate at which a counter of each server grows per second."""
        selector = f"{self.selector}, {more}" if more else self.selector
        return rate(metric, selector, f"{self.by}, {by}" if by else self.by)

    def quantiles(self, metric: str) -> tuple[Query, ...]:
        """Return the queries of the median and the 95 % quantile of each server, from the buckets of a histogram."""
        return quantiles(self.rate(metric, "le"), self.name)


def build_dashboard(
    title: str, uid: str, description: str, variables: Sequence[Variable], rows: Sequence[Row]
) -> dashboards.Dashboard:
    """Build a dashboard."""
    builder = (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["rft"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in variables:
        builder.with_variable(_variable(variable))
    numbers = itertools.count(1)
    for row in rows:
        builder.with_row(dashboards.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            builder.with_panel(_panel(panel).id(next(numbers)))
    return builder


def _variable(variable: Variable) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.values)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel:
    builder = _panel_of_kind(panel)
    builder.title(panel.title).description(panel.description).datasource(_SOURCE).height(_HEIGHT).span(panel.span)
    for index, query in enumerate(panel.queries):
        builder.with_target(_target(query, chr(ord("A") + index), panel.kind))
    return builder


def _panel_of_kind(panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel:
    match panel.kind:
        case "curves":
            return (
                timeseries.Panel()
                .unit(panel.unit)
                .line_width(2)
                .fill_opacity(0)
                .show_points(common.VisibilityMode.AUTO)
                # A step may take longer than a scrape interval, so gaps up to 5 minutes are bridged.
                .span_nulls(300000)
                .legend(
                    common_builders.VizLegendOptions()
                    .display_mode(common.LegendDisplayMode.LIST)
                    .placement(common.LegendPlacement.BOTTOM)
                    .show_legend(True)
                )
            )
        case "numbers":
            return stat.Panel().unit(panel.unit).graph_mode(common.BigValueGraphMode.NONE)
        case "table":
            # The table gets one row for each set of labels and one column for each query.
            names = {f"Value #{chr(ord('A') + index)}": query.legend for index, query in enumerate(panel.queries)}
            return (
                table.Panel()
                .unit(panel.unit)
                .show_header(True)
                .with_transformation(DataTransformerConfig(id_val="merge", options={}))
                .with_transformation(
                    DataTransformerConfig(
                        id_val="organize",
                        options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": {}},
                    )
                )
            )
        case "distribution":
            return (
                heatmap.Panel()
                .show_tooltip()
                .y_axis(heatmap.YAxisConfig().unit(panel.unit))
                .color(
                    heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Blues").steps(32)
                )
            )


def _target(query: Query, reference: str, kind: str) -> prometheus.Dataquery:
    builder = prometheus.Dataquery().expr(query.expression).ref_id(reference).datasource(_SOURCE)
    match kind:
        case "table":
            return builder.instant().format(PromQueryFormat.TABLE)
        case "numbers":
            return builder.instant().legend_format(query.legend)
        case "distribution":
            return builder.range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
        case _:
            return builder.range().legend_format(query.legend)
