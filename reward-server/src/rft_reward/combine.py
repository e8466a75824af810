"""Combined rewards: the weighted sum of the scores of several terms. Each score is reported as a component.

A row is a score in the format of the reward protocol: {"id", "aggregate_reward_score", "metrics_list"}, "error" if
there is no score, and "warnings" if there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rft_api.model import Json
from rft_api.reward_protocol import LARGEST_REWARD, failed_row


def combine(names: Sequence[str], weights: Sequence[float], scores: Sequence[Sequence[Json]]) -> list[Json]:
    """Combine one list of rows per term into one row per sample. A sample that a term could not score has no score."""
    return [_combine_sample(names, weights, rows) for rows in zip(*scores, strict=True)]


def _combine_sample(names: Sequence[str], weights: Sequence[float], rows: Sequence[Json]) -> Json:
    sample_id = rows[0]["id"]
    total, components, explanations, warnings = 0.0, [], [], []
    for name, weight, row in zip(names, weights, rows, strict=True):
        score = row["aggregate_reward_score"]
        if score is None:
            return failed_row(sample_id, f"term {name}: {row['error']}")
        total += weight * score
        components.append({"name": name, "value": score, "type": "Reward" if weight else "Metric"})
        components += [{**inner, "name": f"{name}/{inner['name']}", "type": "Metric"} for inner in row["metrics_list"]]
        if row.get("explanation"):
            explanations.append(f"{name}: {row['explanation']}")
        warnings += [{**inner, "message": f"term {name}: {inner['message']}"} for inner in row.get("warnings", ())]
    return _scored(sample_id, total, components, explanations, warnings)


def join(parts: Sequence[Sequence[Json]], names: Sequence[str]) -> list[Json]:
    """Join the combined rows of several groups of terms into one row per sample. The scores are added.

    Args:
        parts: the rows of each group of terms.
        names: the names of all terms, in whose order the components are.
    """
    order = {name: place for place, name in enumerate(names)}
    return [_join_sample(rows, order) for rows in zip(*parts, strict=True)]


def _join_sample(rows: Sequence[Json], order: Mapping[str, int]) -> Json:
    for row in rows:
        if row["aggregate_reward_score"] is None:
            return row
    total = sum(row["aggregate_reward_score"] for row in rows)
    components = [component for row in rows for component in row["metrics_list"]]
    components.sort(key=lambda component: order[component["name"].partition("/")[0]])
    explanations = [row["explanation"] for row in rows if "explanation" in row]
    warnings = [warning for row in rows for warning in row.get("warnings", ())]
    return _scored(rows[0]["id"], total, components, explanations, warnings)


def _scored(
    sample_id: str, total: float, components: list[Json], explanations: Sequence[str], warnings: list[Json]
) -> Json:
    if not -LARGEST_REWARD <= total <= LARGEST_REWARD:
        bounds = f"between -{LARGEST_REWARD:g} and {LARGEST_REWARD:g}"
        return failed_row(sample_id, f"the weighted sum of the terms is {total:.3g}; it must be {bounds}")
    row: Json = {"id": sample_id, "aggregate_reward_score": total, "metrics_list": components}
    if explanations:
        row["explanation"] = "\n".join(explanations)
    if warnings:
        row["warnings"] = warnings
    return row
