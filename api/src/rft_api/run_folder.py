"""The output folder of a run: its paths, the columns of its tables, the marker of a complete checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rft_api.model import Model
from rft_api.reward_protocol import FinishReason

CHECKPOINT_MARKER = "complete.json"


class CheckpointInfo(Model):
    """A checkpoint of a run; also the contents of the marker of a complete checkpoint."""

    step: int
    """Number of optimizer steps after which it was written."""
    validation_reward: float | None
    """Mean validation reward; null when the checkpoint was not validated."""
    resumable: bool = True
    """Whether training can resume from it; false when only its weights were kept."""


Stage = Literal["base", "warmup", "tuned"]

_BEST = "best"
_CHECKPOINTS = "checkpoints"


def best_address(output: str) -> str:
    """Return the address of the exported model or adapter, from the address of the run's output."""
    return f"{output.rstrip('/')}/{_BEST}"


def checkpoints_address(output: str) -> str:
    """Address of all checkpoints, from the address of the run's output."""
    return f"{output.rstrip('/')}/{_CHECKPOINTS}"


def checkpoint_address(output: str, step: int) -> str:
    """Return the address of one checkpoint, from the address of the run's output."""
    return f"{checkpoints_address(output)}/step-{step}"


class RunFolder:
    """Paths in a run's output folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """`job.json`: the run's configuration."""
        return self.path / "job.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: a line per step and per validation."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of the scored completions."""
        return self.path / "rollouts"

    def rollout(self, step: int) -> Path:
        """Return the scored completions of one step, in parquet."""
        return self.rollouts / f"step-{step}.parquet"

    def validation(self, step: int) -> Path:
        """Return the scored validation completions after one step, in parquet."""
        return self.path / "validations" / f"step-{step}.parquet"

    def evaluation(self, stage: Stage) -> Path:
        """Return the scored held-out completions of one model, in parquet."""
        return self.path / "evaluations" / f"{stage}.parquet"

    def losses(self, stage: Stage) -> Path:
        """Loss of one model on each held-out answer of a warm-up alone, in parquet."""
        return self.path / "evaluations" / f"{stage}.losses.parquet"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / _CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.checkpoints / f"step-{step}"

    @property
    def warmup(self) -> Path:
        """Folder of the weights after the warm-up."""
        return self.path / "warmup"

    def after_warmup(self, is_reinforced: bool) -> Path:
        """Folder of the weights after the warm-up, which are those to serve if no reinforcement learning follows."""
        return self.warmup if is_reinforced else self.best

    @property
    def best(self) -> Path:
        """Folder of the exported model or adapter, ready to serve."""
        return self.path / _BEST

    @property
    def preflight(self) -> Path:
        """`preflight.json`: the verdict of the check before training."""
        return self.path / "preflight.json"

    @property
    def summary(self) -> Path:
        """`summary.json`: the result; written last."""
        return self.path / "summary.json"

    @property
    def provenance(self) -> Path:
        """`provenance.json`: digests and versions."""
        return self.path / "provenance.json"

    @property
    def timings(self) -> Path:
        """`timings.json`: seconds of each stage but training, over all starts of the run."""
        return self.path / "timings.json"

    def tracker(self, key: str) -> Path:
        """Return `trackers/KEY.json`: what a tracker has been sent."""
        return self.path / "trackers" / f"{key}.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Folder in which Weights & Biases keeps files of the run."""
        return self.path / "wandb"

    @property
    def curves(self) -> Path:
        """Chart of the curves, without its suffix (.svg, .png)."""
        return self.path / "curves"


COMPONENT_COLUMN_PREFIX = "component/"
"""Prefix of a component's column in rollout and evaluation files; the others are `RolloutRow`'s fields."""


SHADOW_COLUMN_PREFIX = "shadow/"
"""Prefix of a shadow's column in the same files."""


SHADOW_ERROR_COLUMN_PREFIX = "shadowError/"
"""Prefix of the column with the error of a shadow; it exists only in files with such an error."""


class RolloutRow(Model):
    """A row of a rollout or evaluation file, besides its components and shadows."""

    sample_id: str
    """Id of the sample in the reward request."""
    source: str
    """Data source of the prompt."""
    prompt: str
    """The conversation as JSON."""
    completion: str
    """The completion's text."""
    reference_answer: str
    """The reference answer as JSON."""
    metadata: str = "{}"
    """The further fields of the data row as JSON; older files do not have the column."""
    reward: float | None
    """The reward; null when it could not be computed."""
    error: str | None
    """The error that kept the reward from being computed."""
    explanation: str | None = None
    """Explanation of the reward, if it gives one; the column exists only in files with such an explanation."""
    advantage: float | None
    """The advantage; null in evaluations."""
    tokens: Annotated[int, Field(ge=0)]
    """Number of tokens in the completion."""
    finish_reason: FinishReason | None = None
    """Whether the completion ended by itself (stop) or at the token limit (length); older files do not have the
    column."""
