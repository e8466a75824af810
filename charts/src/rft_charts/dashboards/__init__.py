"""The Grafana dashboards, as code."""

from __future__ import annotations

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from rft_charts.dashboards import fleet, rewards, serving, training


def build_dashboards() -> dict[str, str]:
    """Return the JSON of the dashboards, by name."""
    dashboards = {
        "training": training.build(),
        "fleet": fleet.build(),
        "rewards": rewards.build(),
        "serving": serving.build(),
    }
    return {
        name: JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(dashboard.build()) + "\n"
        for name, dashboard in dashboards.items()
    }
