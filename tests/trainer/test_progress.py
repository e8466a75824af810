"""What the trainer publishes of steps that go wrong and of checkpoints."""

from __future__ import annotations

import argparse
import threading
import time
from functools import partial

import httpx
import pytest
import torch
import transformers
from support.patience import PATIENCE_SECONDS, wait_until
from support.trainer import job_spec, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.metrics import ShadowScores, TrainMetrics, all_series
from rft_api.ports import free_port
from rft_api.progress import HackingVerdict, Progress
from rft_api.run_folder import CHECKPOINT_MARKER, CheckpointInfo, RunFolder
from rft_trainer import checkpoints, digests, launcher, worker
from rft_trainer.copies import copying
from rft_trainer.modeling import load_model
from rft_trainer.progress import ProgressReporter
from rft_trainer.progress_log import ProgressLog
from rft_trainer.worker import _report_weights

LABELS = {"namespace": "team", "job": "tax"}
STEP = TrainMetrics(
    step=1, epoch=0.1, loss=0.0, reward=0.5, reward_std=0.1, components={}, sources={}, episode_length=3.0,
    gradient_norm=1.0, advantage_mean=0.0, advantage_std=1.0, advantage_abs_mean=0.8, policy_entropy=1.0,
    zero_variance_group_ratio=0.0, clipped_completion_ratio=0.0, learning_rate=1e-5, generate_seconds=1.0,
    reward_seconds=0.1, reward_request_seconds=0.2, update_seconds=1.0, tokens=10, rewards_failed=0,
)  # fmt: skip


NAMES = {
    "rft_train_advantage_abs_mean": set(),
    "rft_train_advantage_mean": set(),
    "rft_train_advantage_std": set(),
    "rft_train_checkpoint_timestamp_seconds": set(),
    "rft_train_clipped_completion_ratio": set(),
    "rft_train_episode_length_tokens_mean": {"split"},
    "rft_train_gradient_norm": set(),
    "rft_train_importance_ratio_clipped": set(),
    "rft_train_importance_ratio_max": set(),
    "rft_train_importance_ratio_mean": set(),
    "rft_train_importance_ratio_min": set(),
    "rft_train_kl_divergence": set(),
    "rft_train_logprob_difference_max": set(),
    "rft_train_logprob_difference_mean": set(),
    "rft_train_nonfinite_steps_total": set(),
    "rft_train_planned_steps": set(),
    "rft_train_policy_entropy": set(),
    "rft_train_reward_component_mean": {"component", "split"},
    "rft_train_reward_hacking_suspected": set(),
    "rft_train_reward_mean": {"split"},
    "rft_train_reward_request_seconds": set(),
    "rft_train_reward_std": set(),
    "rft_train_rewards_failed_total": set(),
    "rft_train_shadow_reward_mean": {"shadow", "split"},
    "rft_train_shadow_rewards_failed_total": {"shadow"},
    "rft_train_step": set(),
    "rft_train_step_seconds": {"phase"},
    "rft_train_tokens_total": set(),
    "rft_train_warmup_loss": set(),
    "rft_train_warmup_validation_loss": set(),
    "rft_train_zero_variance_group_ratio": set(),
}


def test_the_names_are_a_contract():
    """Users' dashboards and alerts are built on the names: a metric may be added here, and none changed."""
    assert {served.series: set(served.label_names) for served in all_series().values()} == NAMES


def test_every_gauge_says_what_it_is():
    assert [served.name for served in all_series().values() if not served.help.endswith(".")] == []


def test_a_line_is_published_with_its_labels():
    reporter = ProgressReporter(**LABELS)
    shadows = {"length": ShadowScores(reward=0.25, failed=2), "broken": ShadowScores(reward=None, failed=3)}
    step = STEP.model_copy(update={"components": {"unit": 0.75}, "rewards_failed": 1, "shadows": shadows})
    reporter.record_step(step, new_tokens=10)
    reporter.record_step(step, new_tokens=5)

    def published(name: str, **labels: str) -> float | None:
        return reporter.registry.get_sample_value(name, {**LABELS, **labels})

    assert published("rft_train_reward_mean", split="train") == 0.5
    assert published("rft_train_reward_component_mean", split="train", component="unit") == 0.75
    assert published("rft_train_step_seconds", phase="generate") == 1
    assert published("rft_train_step_seconds", phase="reward") == 0.1
    assert published("rft_train_shadow_reward_mean", split="train", shadow="length") == 0.25
    assert published("rft_train_shadow_reward_mean", split="train", shadow="broken") is None
    assert published("rft_train_shadow_rewards_failed_total", shadow="broken") == 6
    assert published("rft_train_rewards_failed_total") == 2
    assert published("rft_train_tokens_total") == 15


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
    reporter.plan(10, completed=4)
    assert value(reporter, "rft_train_step") == 4
    reporter.record_step(STEP, new_tokens=10)
    assert value(reporter, "rft_train_gradient_norm") == 1
    assert reporter.registry.get_sample_value("rft_train_kl_divergence", LABELS) is None
    reporter.record_hacking(HackingVerdict(suspected=None, message="too early"))
    assert reporter.registry.get_sample_value("rft_train_reward_hacking_suspected", LABELS) is None


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_every_stage_with_a_plan_tells_the_time_left(clock):
    reporter = ProgressReporter("team", "tax", clock)
    for phase, unit in (("Fetching", "MB"), ("Data", "rows"), ("Baseline", "samples"), ("WarmUp", "steps")):
        reporter.update(phase=phase, message="begins", done=0, planned=40, unit=unit, eta_seconds=None)
        clock.now += 5
        reporter.update(done=0)
        assert reporter.progress.eta_seconds is None, "nothing is known yet"
        clock.now += 5
        reporter.update(done=10)
        assert reporter.progress.eta_seconds == 30
        clock.now += 30
        reporter.update(done=40)
        assert reporter.progress.eta_seconds is None, "it is over"


def test_a_stage_that_goes_on_counts_from_where_it_began(clock):
    reporter = ProgressReporter("team", "tax", clock)
    reporter.update(phase="WarmUp", done=1, planned=11)
    clock.now += 8
    reporter.update(done=5, planned=11)
    assert reporter.progress.eta_seconds == 12


def test_a_given_time_left_is_kept(clock):
    reporter = ProgressReporter("team", "tax", clock)
    reporter.update(phase="Training", done=1, planned=11, eta_seconds=3.5)
    assert reporter.progress.eta_seconds == 3.5


def test_a_part_of_a_stage_is_told_until_something_else_begins(clock):
    reporter = ProgressReporter("team", "tax", clock)
    reporter.update(phase="Training", message="validating", done=3, planned=9, unit="steps", eta_seconds=60)
    report = reporter.part(64, "samples")
    assert reporter.progress.detail == "0/64 samples"
    clock.now += 10
    report(16)
    assert reporter.progress.detail == "16/64 samples, about 30s left"
    assert reporter.describe() == (
        "training · 3/9 steps · validating · 16/64 samples, about 30s left · about 1m 00s left"
    )
    reporter.update(message="saving a checkpoint")
    assert reporter.progress.detail == ""


def test_bytes_of_a_part_are_told_with_the_time_left(clock):
    reporter = ProgressReporter("team", "tax", clock)
    reporter.update(message="saving")
    report = reporter.report_bytes("copying")
    report(0, 999_999)
    assert (reporter.progress.message, reporter.progress.detail) == ("saving", ""), "it takes no time"
    report(0, 3_000_000_000)
    clock.now += 10
    report(1_000_000_000, 3_000_000_000)
    assert reporter.describe() == "starting · copying · 1000/3000 MB, about 20s left"


@pytest.mark.parametrize("total", [40_000_000, None])
def test_what_is_written_to_a_folder_is_told_while_it_is_written(tmp_path, total):
    reporter = ProgressReporter("team", "tax")
    reporter.update(phase="Exporting", message="step 3")
    with reporter.writing(tmp_path / "new", total):
        (tmp_path / "new/deep").mkdir(parents=True)
        (tmp_path / "new/deep/model.safetensors").write_bytes(bytes(10_000_000))
        expected = "10 MB written" if total is None else "10/40 MB, about "
        wait_until(lambda: reporter.progress.detail.startswith(expected), lambda: reporter.progress.detail)


def test_the_log_has_a_line_every_ten_seconds_while_something_lasts(clock, caplog):
    reporter = ProgressReporter("team", "tax", clock)
    progress_log = ProgressLog(reporter, clock)
    begin = clock.now
    times = []
    with caplog.at_level("INFO"):
        reporter.update(message="loading libraries")
        while clock.now - begin < 95:
            pause = progress_log.write_if_due()
            times += [clock.now] * (len(caplog.messages) - len(times))
            clock.now += min(pause, 0.5) or 0.5
        reporter.update(phase="Done", message="")
        clock.now += 60
        progress_log.write_if_due()
    assert [time - begin for time in times] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert caplog.messages[1] == "starting · loading libraries · for 20s"


def test_weights_that_are_loaded_are_counted(model, clock):
    reporter = ProgressReporter("team", "tax", clock)
    details = []
    reporter.update = lambda **fields: details.append(fields["detail"])
    previous = transformers.utils.logging.set_tqdm_hook(partial(_report_weights, reporter))
    try:
        load_model(str(model), torch.float32)
    finally:
        transformers.utils.logging.set_tqdm_hook(previous)
    total = int(details[-1].split("/")[1].split()[0])
    assert [int(detail.split("/")[0]) for detail in details] == list(range(total + 1))
    assert total > 10


def test_what_the_launcher_copies_is_served_and_the_port_is_free_again(tmp_path, model, data):
    config = render(job_spec(model, data, tmp_path / "out"), tmp_path, "http://127.0.0.1:1", None)
    port = free_port()
    for phase in ("Fetching", "Exporting"):
        with copying(config, phase, port) as report:
            report("s3://bucket/model", 250_000_000, 1_000_000_000)
            answer = httpx.get(f"http://127.0.0.1:{port}/progress", trust_env=False, timeout=PATIENCE_SECONDS)
            progress = Progress.model_validate_json(answer.content)
        assert (progress.phase, progress.message) == (phase, "s3://bucket/model")
        assert (progress.done, progress.planned, progress.unit) == (250, 1000, "MB")
        assert progress.eta_seconds is not None


def served(port: int) -> Progress:
    answer = httpx.get(f"http://127.0.0.1:{port}/progress", trust_env=False, timeout=PATIENCE_SECONDS)
    return Progress.model_validate_json(answer.content)


def test_how_far_inputs_of_a_finished_run_are_compared_is_served(tmp_path, model, data, monkeypatch, capsys):
    config = render(job_spec(model, data, tmp_path / "out"), tmp_path, "http://127.0.0.1:1", None)
    port, progress = free_port(), []

    def compare(config, commit, report):
        report(250_000_000, 1_000_000_000)
        progress.append(served(port))
        return []

    monkeypatch.setattr(digests, "changed_inputs", compare)
    options = argparse.Namespace(port=port, scratch=tmp_path / "scratch")
    assert launcher._compare_inputs(options, config).code == ExitCode.SUCCEEDED
    assert capsys.readouterr().out == "[]\n"
    (compared,) = progress
    assert compared.message.startswith("comparing model and data")
    assert (compared.done, compared.planned, compared.unit) == (250, 1000, "MB")


def test_a_resumed_run_says_how_far_it_has_compared_its_inputs(tmp_path, model, data, monkeypatch):
    config = render(job_spec(model, data, tmp_path / "out"), tmp_path, "http://127.0.0.1:1", None)
    reporter = ProgressReporter("team", "tax")

    def compare(config, commit, report):
        report(250_000_000, 1_000_000_000)
        raise RunError(ExitCode.DATA_INVALID, "stop here")

    monkeypatch.setattr(worker, "check_inputs", compare)
    with pytest.raises(RunError, match="stop here"):
        worker._run_stage(config, "train", 0, reporter, threading.Event())
    assert reporter.progress.detail.startswith("250/1000 MB, about ")


def test_a_checkpoint_is_expected_to_be_as_large_as_the_newest_one(tmp_path):
    folder = RunFolder(str(tmp_path))
    assert checkpoints.expected_bytes(folder) is None
    for step, resumable in ((2, True), (4, False)):
        checkpoint = folder.checkpoint(step)
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(bytes(1000 * step))
        checkpoints.write_marker(checkpoint, CheckpointInfo(step=step, validation_reward=None, resumable=resumable))
    marker = (folder.checkpoint(2) / CHECKPOINT_MARKER).stat().st_size
    assert checkpoints.expected_bytes(folder) == 2000 + marker
