"""The dashboards: every query is PromQL, and of metrics that the programs serve."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from support.dashboards import METRIC, alert_queries, panel_queries, read_dashboards

from rft_gateway.budgets import Budgets
from rft_gateway.keys import KeyRing
from rft_gateway.limits import Limiter
from rft_gateway.metrics import Metrics as GatewayMetrics
from rft_operator.reconcile.metrics import Metrics as OperatorMetrics
from rft_operator.resources import RESOURCES
from rft_reward.metrics import Metrics as RewardMetrics
from rft_trainer.progress import ProgressReporter

DASHBOARDS = read_dashboards()
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


def test_there_are_the_dashboards_of_the_chart():
    assert set(DASHBOARDS) == {"training", "fleet", "rewards", "serving"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_a_healthy_curve_looks_like(name):
    panels = [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]
    assert all(len(panel["description"]) > 20 for panel in panels), [p["title"] for p in panels]
    assert len({panel["title"] for panel in panels}) == len(panels)
    numbers = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_several_jobs_can_be_compared():
    variables = {v["name"]: v for v in DASHBOARDS["training"]["templating"]["list"]}
    assert variables["job"]["multi"]
    of_jobs = [asked for asked in panel_queries() if asked.place.startswith("training: ")]
    assert of_jobs
    assert all('job=~".*"' in asked.expression for asked in of_jobs)


def test_every_query_is_promql(promtool: Path, tmp_path: Path):
    rules = [{"record": "a", "labels": {"of": asked.place}, "expr": asked.expression} for asked in panel_queries()]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")  # JSON is YAML
    done = subprocess.run([promtool, "check", "rules", "--lint=none", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_is_served():
    gateway = GatewayMetrics()
    gateway.watch_logs(float, float, float)
    gateway.registry.register(Budgets(KeyRing(), Limiter(0.0)))
    registries = (
        OperatorMetrics(RESOURCES).registry,
        gateway.registry,
        RewardMetrics().registry,
        ProgressReporter("n", "j").registry,
    )
    served = {name for registry in registries for name in names(registry.collect())} | of_vllm()
    for asked in (*panel_queries(), *alert_queries()):
        assert asked.metrics, asked.place
        assert asked.metrics <= served, (asked.place, asked.metrics - served)
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            assert set(METRIC.findall(str(variable["query"]))) <= served, (name, variable["name"])


def names(families: Iterable[Metric]) -> set[str]:
    """Names of the series of metrics."""
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def of_vllm() -> set[str]:
    """Names of the series that vLLM serves, read from the sources: importing it takes long."""
    found = set()
    for package, file in (
        ("vllm", "v1/metrics/loggers.py"),
        ("prometheus_fastapi_instrumentator", "metrics.py"),
    ):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = (Path(spec.origin).parent / file).read_text(encoding="utf-8")
        for kind, name in re.findall(
            r"(counter|gauge|histogram)(?:_cls)?\(\s*name=\"([\w:]+)\"", source, re.IGNORECASE
        ):
            found |= {name.removesuffix("_total") + suffix for suffix in SUFFIXES.get(kind.lower(), ("",))}
    return found
