"""Lines of metrics.jsonl, as the trainer writes them, for tests of what reads them."""

from __future__ import annotations

from rft_api.metrics import Metrics, TrainMetrics, ValidationMetrics, WarmupMetrics


def step_line(step: int, ended_at: float | None = None, tokens: int | None = None) -> str:
    """The line of a step, with its number in the metrics."""
    return _text(
        TrainMetrics(
            step=step, epoch=step / 10, loss=-step / 100, reward=step / 10, reward_std=0.1, components={}, sources={},
            episode_length=step + 0.5, gradient_norm=0.5, advantage_mean=0, advantage_std=1, advantage_abs_mean=1,
            policy_entropy=0.8, zero_variance_group_ratio=0, clipped_completion_ratio=0, learning_rate=1e-5,
            generate_seconds=4, reward_seconds=0.5, reward_request_seconds=1, update_seconds=3, tokens=9 * step,
            trained_tokens=tokens, rewards_failed=0, ended_at=ended_at,
        )
    )  # fmt: skip


def validation_line(step: int, ended_at: float | None = None) -> str:
    """The line of a validation, with its step in the metrics."""
    return _text(
        ValidationMetrics(
            step=step, reward=step / 20, components={}, sources={}, episode_length=7, rewards_failed=0, seconds=2,
            ended_at=ended_at,
        )
    )  # fmt: skip


def imitation_line(step: int, ended_at: float = 0.0, validation_loss: float | None = None) -> str:
    """The line of a step of a warm-up alone, with its number in the metrics."""
    return _text(
        WarmupMetrics(
            step=step, epoch=step / 10, loss=2 / step, accuracy=1 - 1 / step, validation_loss=validation_loss,
            gradient_norm=0.5, learning_rate=1e-5, tokens=90 * step, trained_tokens=32 * step, seconds=1,
            ended_at=ended_at,
        )
    )  # fmt: skip


def _text(metrics: Metrics) -> str:
    return f"{metrics.model_dump_json(by_alias=True)}\n"
