"""What the trainer publishes of steps that go wrong and of checkpoints."""

from __future__ import annotations

import time

from rft_api.metrics import TrainMetrics
from rft_api.progress import HackingVerdict
from rft_trainer.progress import ProgressReporter

LABELS = {"namespace": "team", "job": "tax"}
STEP = TrainMetrics(
    step=1, epoch=0.1, loss=0.0, reward=0.5, reward_std=0.1, components={}, sources={}, episode_length=3.0,
    gradient_norm=1.0, advantage_mean=0.0, advantage_std=1.0, advantage_abs_mean=0.8, policy_entropy=1.0,
    zero_variance_group_ratio=0.0, clipped_completion_ratio=0.0, learning_rate=1e-5, generate_seconds=1.0,
    reward_seconds=0.1, reward_request_seconds=0.2, update_seconds=1.0, tokens=10, rewards_failed=0,
)  # fmt: skip


def value(reporter: ProgressReporter, name: str) -> float:
    found = reporter.registry.get_sample_value(name, LABELS)
    assert found is not None
    return found


def test_steps_that_are_not_finite_are_counted():
    reporter = ProgressReporter(**LABELS)
    for change in ({}, {"loss": None}, {"gradient_norm": None}, {"loss": None, "gradient_norm": None}):
        reporter.record_step(STEP.model_copy(update=change), new_tokens=10)
    assert value(reporter, "rft_train_nonfinite_steps_total") == 3


def test_the_time_of_the_newest_checkpoint_begins_with_training():
    name = "rft_train_checkpoint_timestamp_seconds"
    reporter = ProgressReporter(**LABELS)
    assert reporter.registry.get_sample_value(name, LABELS) is None, "what has not begun has nothing to lose"
    before = time.time()
    reporter.plan(10)
    planned = value(reporter, name)
    reporter.record_checkpoint()
    assert before <= planned <= value(reporter, name) <= time.time()


def test_what_has_not_been_measured_is_absent():
    reporter = ProgressReporter(**LABELS)
    counters = {"rft_train_tokens", "rft_train_nonfinite_steps", "rft_train_rewards_failed"}
    assert {family.name for family in reporter.registry.collect() if family.samples} == counters
    reporter.plan(10, done=4)
    assert value(reporter, "rft_train_step") == 4
    reporter.record_step(STEP, new_tokens=10)
    assert value(reporter, "rft_train_gradient_norm") == 1
    assert reporter.registry.get_sample_value("rft_train_kl_divergence", LABELS) is None
    reporter.record_hacking(HackingVerdict(suspected=None, message="too early"))
    assert reporter.registry.get_sample_value("rft_train_reward_hacking_suspected", LABELS) is None
