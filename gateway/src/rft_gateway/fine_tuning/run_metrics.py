"""The metrics of a run's steps, from the lines of `metrics.jsonl` in its output, under OpenAI's names.

Whoever may write to the output may have written anything there: what is no line of metrics counts as none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from rft_api.model import Json, Model

MOST_BYTES: Final = 64 << 20
"""Largest size in bytes of the file: a step has 1 to 6 KiB."""
COLUMNS: Final = {
    "step": "step",
    "train_loss": "loss",
    "train_mean_reward": "reward",
    "full_valid_mean_reward": "validation_reward",
    "completion_tokens_mean": "completion_tokens",
    "trained_tokens": "trained_tokens",
}
"""Columns of the result file of a job by reinforcement, with the fields of `StepMetrics` that they have."""
SUPERVISED_COLUMNS: Final = {
    "step": "step",
    "train_loss": "loss",
    "train_accuracy": "accuracy",
    "full_valid_loss": "validation_loss",
    "trained_tokens": "trained_tokens",
}
"""Those of a supervised job."""
_LARGEST_LINE = 1 << 20
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]


class _Line(Model):
    """A part of a line, of any version."""

    model_config = {"extra": "ignore"}

    split: Literal["train", "validation", "warmup"]
    step: _Count
    loss: _Number | None = None
    accuracy: _Number | None = None
    validation_loss: _Number | None = None
    reward: _Number | None = None
    episode_length: _Number | None = None
    trained_tokens: _Count | None = None
    generate_seconds: _Seconds = 0.0
    reward_seconds: _Seconds = 0.0
    update_seconds: _Seconds = 0.0
    seconds: _Seconds = 0.0
    ended_at: _Seconds | None = None


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of a step, with those of the validation after it. Step 0 is a validation before training."""

    step: int
    is_supervised: bool = False
    loss: float | None = None
    accuracy: float | None = None
    """Share of the imitated tokens to which the model gives the highest probability; of supervised jobs only."""
    validation_loss: float | None = None
    """Of supervised jobs only."""
    reward: float | None = None
    validation_reward: float | None = None
    completion_tokens: float | None = None
    """Mean number of tokens in the completions."""
    trained_tokens: int | None = None
    """Number of tokens so far that counted in the loss."""
    sampling_seconds: float = 0.0
    training_seconds: float = 0.0
    reward_seconds: float = 0.0
    """Seconds of waiting for rewards."""
    validation_seconds: float = 0.0
    ended_at: float | None = None
    """Unix time; None in lines of older versions."""

    def event_data(self, total_steps: int | None) -> Json:
        """Return the data of the step's event, as OpenAI's events have it; what is not known is not there.

        Args:
            total_steps: number of steps that the run makes.
        """
        data: Json = {"step": self.step, "total_steps": total_steps, "train_loss": self.loss}
        data |= self._supervised_data() if self.is_supervised else self._reinforcement_data()
        data["trained_tokens"] = self.trained_tokens
        return {name: value for name, value in data.items() if value is not None}

    def _supervised_data(self) -> Json:
        return {"train_mean_token_accuracy": self.accuracy, "full_valid_loss": self.validation_loss}

    def _reinforcement_data(self) -> Json:
        scores = {"train_reward_mean": self.reward, "valid_reward_mean": self.validation_reward}
        seconds = {
            "sampling": self.sampling_seconds,
            "training": self.training_seconds,
            "eval": self.validation_seconds,
            "full_iteration": sum(
                (self.sampling_seconds, self.training_seconds, self.reward_seconds, self.validation_seconds)
            ),
        }
        return {
            "train_mean_reward": self.reward,
            "full_valid_mean_reward": self.validation_reward,
            "completion_tokens_mean": self.completion_tokens,
            "scores": {name: value for name, value in scores.items() if value is not None},
            "timing": {"step": seconds},
        }


class MetricsReader:
    """Reads the lines of a file that comes in pieces, of which only the numbers are held."""

    def __init__(self) -> None:
        self._steps: dict[int, StepMetrics] = {}
        self._rest = b""

    def take(self, piece: bytes) -> None:
        """Read the lines that are complete with the next piece of the file."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take_line(line)
        if len(self._rest) > _LARGEST_LINE:
            self._rest = b"-"  # what comes until the end of the line makes it no better

    def steps(self) -> list[StepMetrics]:
        """Return the steps so far, in their order. A last line without an end is being written."""
        return [self._steps[step] for step in sorted(self._steps)]

    def _take_line(self, text: bytes) -> None:
        try:
            line = _Line.model_validate_json(text, by_alias=True, by_name=False)
        except ValidationError:
            return
        before = self._steps.get(line.step, StepMetrics(line.step))
        if line.split == "warmup":
            self._steps[line.step] = StepMetrics(
                line.step,
                is_supervised=True,
                loss=line.loss,
                accuracy=line.accuracy,
                validation_loss=line.validation_loss,
                trained_tokens=line.trained_tokens,
                ended_at=line.ended_at,
            )
        elif line.split == "train":
            self._steps[line.step] = replace(
                before,
                loss=line.loss,
                reward=line.reward,
                completion_tokens=line.episode_length,
                trained_tokens=line.trained_tokens,
                sampling_seconds=line.generate_seconds,
                training_seconds=line.update_seconds,
                reward_seconds=line.reward_seconds,
                ended_at=line.ended_at,
            )
        else:
            self._steps[line.step] = replace(
                before,
                validation_reward=line.reward,
                validation_seconds=line.seconds,
                ended_at=before.ended_at if before.ended_at is not None else line.ended_at,
            )


def step_table(steps: Sequence[StepMetrics]) -> bytes:
    """Return the content of a result file: a line for each step, with the columns of the job's method; what is not
    known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = SUPERVISED_COLUMNS if any(each.is_supervised for each in steps) else COLUMNS
    writer.writerow(columns)
    writer.writerows([getattr(each, field) for field in columns.values()] for each in steps)
    return text.getvalue().encode()
