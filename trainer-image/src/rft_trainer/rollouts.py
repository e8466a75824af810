"""Scored completions, their statistics, and the parquet files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rft_api.component_names import MOST_RECORDED_NAMES
from rft_api.files import atomic_file
from rft_api.metrics import ShadowScores
from rft_api.reward_protocol import Score
from rft_api.run_folder import COMPONENT_COLUMN_PREFIX, SHADOW_COLUMN_PREFIX, SHADOW_ERROR_COLUMN_PREFIX
from rft_api.tables import read_table
from rft_trainer.data import Prompt
from rft_trainer.rewards import ShadowScore
from rft_trainer.statistics import mean, prompt_means


@dataclass
class ScoredCompletion:
    """A completion with its reward and its advantage."""

    prompt: Prompt
    completion: str
    tokens: int
    clipped: bool
    """Whether it was cut off at the token limit."""
    reward: float | None
    error: str | None
    components: dict[str, float] = field(default_factory=dict)
    explanation: str | None = None
    """The reward function's explanation of the reward, if it gives one."""
    advantage: float | None = None
    shadows: dict[str, ShadowScore] = field(default_factory=dict)
    """The score of each shadow, by name."""
    components_left_out: int = 0
    """Number of components that are not recorded, because a reward may name only so many."""


def scored(prompt: Prompt, completion: str, tokens: int, clipped: bool, score: Score) -> ScoredCompletion:
    """Return a completion with its score."""
    components: dict[str, float] = {}
    for metric in score.metrics_list:
        if metric.name in components or len(components) < MOST_RECORDED_NAMES:
            components[metric.name] = metric.value
    left_out = len({metric.name for metric in score.metrics_list}) - len(components)
    return ScoredCompletion(
        prompt,
        completion,
        tokens,
        clipped,
        score.aggregate_reward_score,
        score.error,
        components=components,
        explanation=score.explanation,
        components_left_out=left_out,
    )


def add_shadows(rows: Sequence[ScoredCompletion], scores_by_shadow: Mapping[str, Sequence[ShadowScore]]) -> None:
    """Add the scores of the shadows, which have the order of the rows, to the rows."""
    for name, scores in scores_by_shadow.items():
        for row, score in zip(rows, scores, strict=True):
            row.shadows[name] = score


def shadow_scores(rows: Sequence[ScoredCompletion]) -> dict[str, ShadowScores]:
    """Return the mean reward and the number of failures of each shadow over the rows."""
    scores_by_shadow: dict[str, list[ShadowScore]] = {}
    for row in rows:
        for name, score in row.shadows.items():
            scores_by_shadow.setdefault(name, []).append(score)
    return {
        name: ShadowScores(
            reward=mean([score.reward for score in scores if score.reward is not None]),
            failed=sum(score.error is not None for score in scores),
        )
        for name, scores in sorted(scores_by_shadow.items())
    }


def component_means(rows: Sequence[ScoredCompletion]) -> dict[str, float]:
    """Return the mean of each component over the rows that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.components.items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in sorted(values.items())}


def source_means(rows: Sequence[ScoredCompletion], samples: int = 1) -> dict[str, float]:
    """Return the mean reward of each data source over its prompts, each of which has `samples` rows.

    Rows that could not be scored do not count.
    """
    values: dict[str, list[float]] = {}
    for first, reward in zip(rows[::samples], prompt_means([row.reward for row in rows], samples), strict=True):
        if reward is not None:
            values.setdefault(first.prompt.source, []).append(reward)
    return {name: sum(numbers) / len(numbers) for name, numbers in sorted(values.items())}


def mean_reward(rows: Sequence[ScoredCompletion]) -> float | None:
    """Return the mean reward of the scored rows; None when there are none."""
    return mean([row.reward for row in rows if row.reward is not None])


def mean_of_prompts(rows: Sequence[ScoredCompletion], samples: int) -> float | None:
    """Return the mean reward of the prompts, each of which has `samples` rows; None when none has a reward."""
    means = prompt_means([row.reward for row in rows], samples)
    return mean([value for value in means if value is not None])


def mean_length(rows: Sequence[ScoredCompletion]) -> float:
    """Return the mean number of completion tokens; 0 when there are no rows."""
    return mean([row.tokens for row in rows]) or 0.0


def write_rollouts(path: Path, rows: Sequence[ScoredCompletion]) -> None:
    """Write rows to a parquet file; replace an existing one.

    The columns are those of `rft_api.run_folder.RolloutRow`, one for each component, and one or two for each shadow.
    """
    names = sorted({name for row in rows for name in row.components})
    columns: dict[str, pa.Array] = {
        "sampleId": pa.array([row.prompt.id for row in rows], pa.string()),
        "source": pa.array([row.prompt.source for row in rows], pa.string()),
        "prompt": pa.array([_json(row.prompt.messages) for row in rows], pa.string()),
        "completion": pa.array([row.completion for row in rows], pa.string()),
        "referenceAnswer": pa.array([_json(row.prompt.reference_answer) for row in rows], pa.string()),
        "metadata": pa.array([_json(row.prompt.metadata) for row in rows], pa.string()),
        "reward": pa.array([row.reward for row in rows], pa.float64()),
        "error": pa.array([row.error for row in rows], pa.string()),
        "advantage": pa.array([row.advantage for row in rows], pa.float64()),
        "tokens": pa.array([row.tokens for row in rows], pa.int64()),
        "finishReason": pa.array(["length" if row.clipped else "stop" for row in rows], pa.string()),
    }
    if any(row.explanation is not None for row in rows):
        columns["explanation"] = pa.array([row.explanation for row in rows], pa.string())
    for name in names:
        values = [row.components.get(name) for row in rows]
        columns[COMPONENT_COLUMN_PREFIX + name] = pa.array(values, pa.float64())
    for name in sorted({name for row in rows for name in row.shadows}):
        scores = [row.shadows.get(name, ShadowScore(None, None)) for row in rows]
        columns[SHADOW_COLUMN_PREFIX + name] = pa.array([score.reward for score in scores], pa.float64())
        if any(score.error is not None for score in scores):
            columns[SHADOW_ERROR_COLUMN_PREFIX + name] = pa.array([score.error for score in scores], pa.string())
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns), file)


def read_rollouts(path: Path, prompts: Sequence[Prompt]) -> list[ScoredCompletion]:
    """Read the file that `write_rollouts` has written for exactly these prompts, in the same order."""
    rows = read_table(path)
    return [
        ScoredCompletion(
            prompt=prompt,
            completion=row["completion"],
            tokens=row["tokens"],
            clipped=row.get("finishReason") == "length",
            reward=row["reward"],
            error=row["error"],
            components={
                name.removeprefix(COMPONENT_COLUMN_PREFIX): value
                for name, value in row.items()
                if name.startswith(COMPONENT_COLUMN_PREFIX) and value is not None
            },
            explanation=row.get("explanation"),
            advantage=row["advantage"],
            shadows={
                name.removeprefix(SHADOW_COLUMN_PREFIX): ShadowScore(
                    value, row.get(SHADOW_ERROR_COLUMN_PREFIX + name.removeprefix(SHADOW_COLUMN_PREFIX))
                )
                for name, value in row.items()
                if name.startswith(SHADOW_COLUMN_PREFIX)
            },
        )
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
