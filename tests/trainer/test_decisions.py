"""The trainer's pure decisions: retention, early stopping, preflight, the bootstrap, exit codes, algorithms."""

import itertools
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOConfig

from rft_api.exit_codes import ExitCode
from rft_api.metrics import ValidationMetrics
from rft_api.quantities import decimal_text
from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_api.training import Algorithm, EarlyStopping
from rft_trainer.algorithms import SETTINGS
from rft_trainer.checkpoints import KEPT, best_first, complete, is_among_best, plan_retention, write_marker
from rft_trainer.data import Prompt
from rft_trainer.ending import ProcessEnd, group_ending
from rft_trainer.preflight import judge
from rft_trainer.rollouts import ScoredCompletion
from rft_trainer.statistics import paired_bootstrap
from rft_trainer.validator import stop_early

REWARDS = st.one_of(st.none(), st.floats(0, 1))


@settings(deadline=None)
@given(st.lists(st.tuples(REWARDS, st.booleans()), min_size=1, max_size=12), st.integers(1, 3))
def test_retention_keeps_the_best_and_the_newest(checkpoints, keep):
    kept: list[CheckpointInfo] = []
    rewards = [reward for reward, _ in checkpoints]
    for step, (reward, resumable) in enumerate(checkpoints, start=1):
        kept.append(CheckpointInfo(step=step, validation_reward=reward, resumable=resumable))
        plan = plan_retention(kept, keep)
        kept = [
            info.model_copy(update={"resumable": info.resumable and info.step not in plan.thin})
            for info in kept
            if info.step not in plan.remove
        ]
    everything = [CheckpointInfo(step=s, validation_reward=r) for s, r in enumerate(rewards, start=1)]
    resumable = [step for step, (_, whole) in enumerate(checkpoints, start=1) if whole][-keep:]
    expected = {*resumable, len(rewards)}
    for last in expected.copy():
        expected |= {info.step for info in best_first(everything[:last])[:KEPT]}
    assert {info.step for info in kept} == expected
    assert [info.step for info in kept if info.resumable] == resumable


@settings(deadline=None)
@given(st.lists(REWARDS, max_size=6), REWARDS)
def test_weights_of_a_validation_are_saved_when_they_would_be_kept(rewards, reward):
    earlier = [CheckpointInfo(step=s, validation_reward=r) for s, r in enumerate(rewards, start=1)]
    new = CheckpointInfo(step=len(rewards) + 1, validation_reward=reward)
    assert is_among_best(earlier, reward) == (new in best_first([*earlier, new])[:KEPT])


def test_files_that_a_kill_left_in_a_reduced_checkpoint_go_with_the_next_one(tmp_path):
    folder = RunFolder(tmp_path)
    old, new = (
        CheckpointInfo(step=2, validation_reward=1.0, resumable=False),
        CheckpointInfo(step=4, validation_reward=0),
    )
    for path in (folder.checkpoint(2), folder.checkpoints / "checkpoint-4"):
        path.mkdir(parents=True)
        (path / "adapter_model.safetensors").touch()
        (path / "rng_state_0.pth").touch()
    write_marker(folder.checkpoint(2), old)
    complete(folder, folder.checkpoints / "checkpoint-4", new, keep=1)
    assert {path.name for path in folder.checkpoint(2).iterdir()} == {"adapter_model.safetensors", "complete.json"}
    assert (folder.checkpoint(4) / "rng_state_0.pth").exists()


def validations(*rewards):
    return [
        ValidationMetrics(
            step=i + 1, reward=r, components={}, sources={}, episode_length=1, rewards_failed=0, seconds=0
        )
        for i, r in enumerate(rewards)
    ]


@pytest.mark.parametrize(
    ("rewards", "patience", "gain", "stops"),
    [
        ([], 1, 0.0, False),
        ([0.5], 1, 0.0, False),
        ([0.5, 0.5], 1, 0.0, True),
        ([0.5, 0.6], 1, 0.0, False),
        ([0.5, 0.6, 0.6, 0.6], 3, 0.0, False),
        ([0.5, 0.6, 0.6, 0.6, 0.6], 3, 0.0, True),
        ([0.5, 0.505, 0.509], 2, 0.01, True),
        ([0.5, 0.505, 0.52], 2, 0.01, False),
        ([0.5, None, None], 2, 0.0, True),
    ],
)
def test_early_stopping(rewards, patience, gain, stops):
    rule = EarlyStopping(patience=patience, minimum_gain=decimal_text(gain))
    assert stop_early(validations(*rewards), rule) is stops
    assert stop_early(validations(*rewards), None) is False


def group(*rewards):
    prompt = Prompt("p", "s", "r", [], None, {})
    return [ScoredCompletion(prompt, "", 1, False, r, None if r is not None else "failed") for r in rewards]


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        ([group(0, 1), group(0, 0)], "Fine"),
        ([group(1, 1), group(1, 1)], "TooEasy"),
        ([group(0, 0), group(0, 0)], "NotLearnable"),
        ([group(0.5, 0.5), group(1, 1)], "NotLearnable"),
        ([group(None, 1), group(None, None)], "TooEasy"),
        ([group(-1, -1)], "NotLearnable"),
    ],
)
def test_preflight_verdicts(groups, verdict):
    assert judge(groups, 2).verdict == verdict


@pytest.mark.parametrize(("reward", "verdict"), [(0.0, "NotLearnable"), (1.0, "TooEasy")])
def test_preflight_says_when_the_reward_is_the_same_for_all_completions(reward, verdict):
    prompt = Prompt("p", "s", "r", [{"role": "user", "content": "?"}], "#### 6", {"level": 1})
    rows = [ScoredCompletion(prompt, text, 1, False, reward, None) for text in ("#### 6", "#### 7", "6", "7")]
    judged = judge([rows[:2], rows[2:]], 2)
    assert judged.verdict == verdict
    assert f"All 4 completions scored {reward:g}, although 4 of them differ" in judged.message
    assert 'the completion "#### 6" with reference_answer "#### 6"' in judged.message
    rows[0].reward = 0.5
    assert "likeliest causes" not in judge([rows[:2], rows[2:]], 2).message


def test_the_bootstrap_agrees_with_normal_theory_on_many_pairs():
    generator = np.random.default_rng(1)
    before = generator.normal(0, 1, 2000)
    after = before + generator.normal(0.1, 0.5, 2000)
    gain = paired_bootstrap(before, after)
    error = np.std(after - before, ddof=1) / np.sqrt(2000)
    assert gain.mean == pytest.approx(np.mean(after - before))
    assert gain.low == pytest.approx(gain.mean - 1.96 * error, abs=0.1 * error)
    assert gain.high == pytest.approx(gain.mean + 1.96 * error, abs=0.1 * error)


def test_the_bootstrap_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        gain = paired_bootstrap(np.zeros(100), generator.binomial(1, 0.3, 100))
        covered += gain.low <= 0.3 <= gain.high
    assert 0.90 <= covered / 200 <= 0.99


def test_unpaired_rewards_are_refused():
    with pytest.raises(ValueError, match=r"pairs|broadcast"):
        paired_bootstrap([], [])
    with pytest.raises(ValueError, match=r"pairs|broadcast"):
        paired_bootstrap([1, 2, 3], [1, 2])


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], ExitCode.SUCCEEDED),
        ([0, 13], ExitCode.NOT_LEARNABLE),
        ([1, 13], ExitCode.NOT_LEARNABLE),
        ([75, 14], ExitCode.REWARD_FAILING),
        ([75, 1], ExitCode.INTERRUPTED),
        ([-9, 1], ExitCode.UNEXPECTED),
        ([-9, -6], ExitCode.UNEXPECTED),
        ([-9, 75], ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_of_a_group_tells_the_cause(codes, expected):
    for order in itertools.permutations(codes):
        ends = [ProcessEnd(rank, status, moment=float(rank)) for rank, status in enumerate(order)]
        assert group_ending(ends).code == expected


def test_every_algorithm_is_one_that_trl_computes():
    assert set(SETTINGS) == set(typing.get_args(Algorithm))
    known = typing.get_args(GRPOConfig.__dataclass_fields__["loss_type"].type) or None
    for arguments in SETTINGS.values():
        GRPOConfig(output_dir="unused", use_cpu=True, bf16=False, **arguments)
        assert known is None or arguments["loss_type"] in known
