"""Completions of a run that a changed reward has scored again: their means, signal, and best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

from rft_api.constant_reward import SAME
from rft_api.model import Json
from rft_api.reward_function import RewardFunction
from rft_api.run_folder import Stage
from rft_api.sources import DataSource
from rft_api.trainer_config import TrainerConfig
from rft_cli.report import Run, read_rollouts
from rft_cli.score import Line, read_lines, score_lines
from rft_cli.stage_display import StageDisplay


@dataclass(frozen=True)
class Regraded:
    """A completion with its stored reward and its reward by the changed version."""

    file: Path
    """File of the run that holds it."""
    line: Line
    """The completion."""
    prompt: str
    """Id of its prompt."""
    stored: float | None
    """The stored reward; None when it could not be computed."""
    regraded: float | None
    """The new reward; None when it could not be computed. Equal to `stored` if the reward of the source is the same."""
    changed: bool = False
    """Whether the reward of its source is one of those that are changed."""
    error: str | None = None
    """The error that kept the new reward from being computed."""


@dataclass(frozen=True)
class SplitRewards:
    """Names of the run's rewards by the name of their source, for each kind of stored completions."""

    rollouts: Mapping[str, str]
    """Those of the training prompts."""
    validations: Mapping[str, str]
    """Those of the validation prompts."""
    evaluations: Mapping[str, str]
    """Those of the held-out prompts."""


@dataclass(frozen=True)
class Means:
    """Mean rewards of the completions of one file, by both versions; None when none could be scored."""

    stored: float | None
    """By the stored rewards, which are those of the run."""
    regraded: float | None
    """By the changed reward."""

    def to_json(self) -> Json:
        """Return the means as a JSON object."""
        return {"stored": self.stored, "regraded": self.regraded}


@dataclass(frozen=True)
class Signal:
    """Groups of completions of one prompt, and how many of them have a signal.

    A group without different rewards has advantages of 0, so training learns nothing from it.
    """

    groups: int
    """All groups."""
    stored: int
    """Groups with different stored rewards."""
    regraded: int
    """Groups with different new rewards."""
    gained: int
    """Groups whose rewards were equal and become different."""
    lost: int
    """Groups whose rewards were different and become equal."""

    def to_json(self) -> Json:
        """Return the numbers as a JSON object."""
        return {
            "groups": self.groups,
            "withSignalStored": self.stored,
            "withSignalRegraded": self.regraded,
            "gainSignal": self.gained,
            "loseSignal": self.lost,
        }


@dataclass(frozen=True)
class Choice:
    """The checkpoint that validation chooses, by both versions; None without validations."""

    exported: int | None
    """Step of the checkpoint that the run has exported, or would export now."""
    best: int | None
    """Step of the checkpoint with the highest mean of the new reward."""


def reward_of_sources(config: TrainerConfig) -> SplitRewards:
    """Return the name of the reward of each source of prompts, for each kind of stored completions."""
    data = config.data

    def rewards(sources: Sequence[DataSource]) -> dict[str, str]:
        return {source.name: source.reward for source in sources}

    train = rewards(data.train or [])
    # Without sources of their own, validation prompts are set aside from training prompts, and are held out.
    validation = rewards(data.validation) if data.validation else train
    return SplitRewards(train, validation, rewards(data.test) if data.test else validation)


def regrade_files(
    files: Mapping[Path, Mapping[str, str]], functions: Mapping[str, RewardFunction], stage: StageDisplay
) -> dict[Path, list[Regraded]]:
    """Return the rows of each file, with their new rewards.

    Args:
        files: for each file of rollouts, validations or evaluations, the name of the run's reward of each source.
        functions: the changed rewards, by the name of the reward that each replaces.
        stage: shows how far it is.

    Raises:
        RunError: when a file cannot be read, or a server does not become ready or does not answer.
    """
    rows: dict[Path, list[Regraded]] = {}
    to_score: dict[str, list[tuple[Path, int]]] = {name: [] for name in functions}
    for file, rewards in files.items():
        rows[file] = []
        stage.update(f"reading {file}")
        for index, (rollout, line) in enumerate(zip(read_rollouts(file), read_lines(file), strict=True)):
            reward = rewards.get(rollout.source, "")
            # Ids are distinct over all files, because all of them are scored by one server.
            part = f"{file.parent.name}/{file.stem}"
            line = replace(line, sample={**line.sample, "id": f"{part}/{index}"}, part=part)
            changed = reward in functions
            rows[file].append(Regraded(file, line, rollout.sample_id, rollout.reward, rollout.reward, changed=changed))
            if changed:
                to_score[reward].append((file, index))
    for name, places in to_score.items():
        if not places:
            continue
        scores = score_lines(functions[name], [rows[file][index].line for file, index in places], stage)
        for (file, index), score in zip(places, scores, strict=True):
            rows[file][index] = replace(rows[file][index], regraded=score.aggregate_reward_score, error=score.error)
    return rows


def means(rows: Sequence[Regraded], samples: int = 1) -> Means:
    """Return the mean rewards of prompts with `samples` rows each, whose reward is the mean of those with one."""
    return common_means({"base": rows}, samples)["base"]


def common_means(stages: Mapping[Stage, Sequence[Regraded]], samples: int) -> dict[Stage, Means]:
    """Return the mean rewards of the models over the prompts that all of them have a score of, by each version.

    Evaluations have the same prompts in the same order, with `samples` rows each. Means over different prompts could
    not be compared.
    """

    def rewards(rows: Sequence[Regraded], version: Literal["stored", "regraded"]) -> list[float | None]:
        """Return the mean reward of each prompt."""
        scores: list[float | None] = [getattr(row, version) for row in rows]
        groups = [scores[start : start + samples] for start in range(0, len(scores), samples)]
        scored = [[score for score in group if score is not None] for group in groups]
        return [fmean(group) if group else None for group in scored]

    def mean(stage: Stage, version: Literal["stored", "regraded"]) -> float | None:
        of_stages = {name: rewards(rows, version) for name, rows in stages.items()}
        scored = [
            reward
            for reward, *others in zip(of_stages[stage], *of_stages.values(), strict=False)
            if reward is not None and None not in others
        ]
        return fmean(scored) if scored else None

    return {stage: Means(mean(stage, "stored"), mean(stage, "regraded")) for stage in stages}


def group_rows(rows: Sequence[Regraded], size: int) -> list[list[Regraded]]:
    """Return the groups of completions of one prompt: `size` rows after each other, as the trainer writes them."""
    groups: list[list[Regraded]] = []
    for row in rows:
        if groups and groups[-1][0].prompt == row.prompt and len(groups[-1]) < size:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def count_signal(groups: Sequence[Sequence[Regraded]]) -> Signal:
    """Count the groups with different rewards, by both versions."""
    pairs = [has_signal(group) for group in groups]
    return Signal(
        groups=len(pairs),
        stored=sum(stored for stored, _ in pairs),
        regraded=sum(regraded for _, regraded in pairs),
        gained=sum(regraded and not stored for stored, regraded in pairs),
        lost=sum(stored and not regraded for stored, regraded in pairs),
    )


def choose(run: Run, validations: Mapping[int, Means]) -> Choice:
    """Return the step that validation chooses by both versions: the highest mean, and the earliest of equal ones."""
    if run.summary is not None:
        exported: int | None = run.summary.best_step
    else:
        exported = best_step({step: values.stored for step, values in validations.items()})
    return Choice(exported, best_step({step: values.regraded for step, values in validations.items()}))


def has_signal(group: Sequence[Regraded]) -> tuple[bool, bool]:
    """Return whether the rewards of a group are different, by both versions; rewards that failed do not count."""
    stored = [row.stored for row in group if row.stored is not None]
    regraded = [row.regraded for row in group if row.regraded is not None]
    return _are_different(stored), _are_different(regraded)


def differ(row: Regraded) -> bool:
    """Return whether the rewards of a completion differ, or only one of both could be computed."""
    if row.stored is None or row.regraded is None:
        return row.stored is not row.regraded
    return abs(row.stored - row.regraded) > SAME


def best_step(rewards: Mapping[int, float | None]) -> int | None:
    """Return the step with the highest reward, the earliest of equal ones; None without rewards."""
    scored = [(-reward, step) for step, reward in rewards.items() if reward is not None]
    return min(scored)[1] if scored else None


def _are_different(values: Sequence[float]) -> bool:
    return len(values) > 1 and max(values) - min(values) > SAME
