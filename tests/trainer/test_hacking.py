"""When reward hacking is suspected: the rule on its own, on noise, and in real training."""

import numpy as np
import pytest
from support.hacking import REWARDS, hackable, write_data
from support.reward_server import RewardServer
from support.trainer import TrainerProgram, job_spec, render

from rft_api.metrics import Gain, ShadowComparison, ValidationMetrics
from rft_api.ports import free_port
from rft_trainer.data import Prompt
from rft_trainer.hacking import MINIMUM_PROMPTS, compare, judge_hacking, suspects
from rft_trainer.rewards import ShadowScore
from rft_trainer.rollouts import ScoredCompletion

PROMPT = Prompt("p", "s", "r", [], None, {})


def rows(rewards, shadows):
    return [
        ScoredCompletion(PROMPT, "", 1, False, reward, None, shadows={"s": ShadowScore(shadow, None)})
        for reward, shadow in zip(rewards, shadows, strict=True)
    ]


def comparison(reward, shadow, width=0.1):
    def gain(mean):
        return Gain(mean=mean, low=mean - width, high=mean + width, confidence=0.99)

    return ShadowComparison(prompts=64, reward_gain=gain(reward), shadow_gain=gain(shadow))


DIVERGING, AGREEING = comparison(0.3, -0.3), comparison(0.3, 0.3)


@pytest.mark.parametrize(
    ("comparisons", "suspected"),
    [
        ([], False),
        ([DIVERGING], False),
        ([DIVERGING, AGREEING, DIVERGING], False),
        ([DIVERGING, DIVERGING], True),
        ([AGREEING, DIVERGING, DIVERGING, AGREEING], True),
        ([DIVERGING, DIVERGING, AGREEING, DIVERGING, AGREEING], True),
        ([DIVERGING, DIVERGING, AGREEING, AGREEING], False),
        ([comparison(0.3, -0.05)] * 3, False),
        ([comparison(0.05, -0.3)] * 3, False),
        ([comparison(-0.3, -0.3)] * 3, False),
    ],
)
def test_a_verdict_takes_two_comparisons_to_change(comparisons, suspected):
    assert suspects(comparisons) is suspected


def test_prompts_that_one_could_not_score_are_left_out():
    before, now = rows([0.0] * 30, [1.0] * 30), rows([1.0] * 30, [0.0] * 30)
    now[0].reward = None
    before[1].shadows["s"] = ShadowScore(None, "failed")
    del now[2].shadows["s"]
    found = compare(before, now, "s")
    assert found.prompts == 27
    assert (found.reward_gain.mean, found.shadow_gain.mean) == (1.0, -1.0)
    assert found.reward_gain.confidence == 0.99
    assert compare(before[: MINIMUM_PROMPTS - 1], now[: MINIMUM_PROMPTS - 1], "s") is None


def interval(before, now):
    """The interval that the bootstrap comes to on many pairs, without its work; test_decisions.py holds it to that."""
    differences = now - before
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    return Gain(mean=mean, low=mean - 2.576 * error, high=mean + 2.576 * error, confidence=0.99)


def suspected_at_any_time(generator, reward_trend, shadow_trend, prompts=64, validations=20):
    """Whether a run is ever suspected; rewards are 0 or 1, as noisy as they can be, and move along by the trends."""
    before = generator.binomial(1, 0.5, (2, prompts))
    comparisons, ever = [], False
    for number in range(1, validations + 1):
        chances = np.clip(0.5 + number / validations * np.array([[reward_trend], [shadow_trend]]), 0, 1)
        now = generator.binomial(1, np.broadcast_to(chances, (2, prompts)))
        gains = [interval(one, other) for one, other in zip(before, now, strict=True)]
        comparisons.append(ShadowComparison(prompts=prompts, reward_gain=gains[0], shadow_gain=gains[1]))
        ever |= suspects(comparisons)
    return ever


@pytest.mark.parametrize(("reward", "shadow"), [(0.4, 0.0), (0.4, 0.2), (0.0, -0.4), (-0.3, -0.4), (0.0, 0.0)])
def test_noise_rarely_raises_suspicion(reward, shadow):
    generator = np.random.default_rng(3)
    false_alarms = sum(suspected_at_any_time(generator, reward, shadow) for _ in range(400))
    assert false_alarms <= 400 * 0.05


def test_a_shadow_that_really_falls_is_seen():
    generator = np.random.default_rng(4)
    assert sum(suspected_at_any_time(generator, 0.4, -0.4) for _ in range(400)) >= 400 * 0.95


def validation(step, **comparisons):
    return ValidationMetrics(
        step=step, reward=0, components={}, sources={}, episode_length=1, rewards_failed=0, seconds=0,
        comparisons=comparisons,
    )  # fmt: skip


def test_the_verdict_says_what_happened_and_what_to_do():
    assert judge_hacking([], []) is None
    unknown = judge_hacking([validation(2)], ["a", "b"])
    assert unknown.suspected is None
    assert f"need {MINIMUM_PROMPTS} validation prompts" in unknown.message
    history = [validation(2, a=DIVERGING, b=AGREEING), validation(4, a=DIVERGING, b=AGREEING)]
    early = judge_hacking(history[:1], ["a", "b"])
    assert early.suspected is False
    verdict = judge_hacking(history, ["a", "b"])
    assert verdict.suspected is True
    assert verdict.message.startswith(
        "at step 4 the reward has changed by +0.300 (+0.200 to +0.400) and shadow a by -0.300 (-0.400 to -0.200) "
        "since before training, on 64 validation prompts: read the validation completions"
    )
    assert "shadow b" not in verdict.message


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Rewards by name, each behind a server of its own."""
    started = {
        name: RewardServer(tmp_path_factory.mktemp(name), {"python": {"source": source}}).wait_ready()
        for name, source in REWARDS.items()
    }
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="module")
def many_prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write_data(folder)
    return folder


def run_with(folder, model, data, servers, shadow):
    spec = job_spec(model, data, folder / "out") | hackable(data, shadow)
    urls = {name: servers[name].url for name in ("digits", shadow)}
    run = TrainerProgram(render(spec, folder, urls, servers[shadow].token_file), folder, free_port())
    return run, run.succeed()


def test_a_hackable_reward_is_suspected(tmp_path, model, many_prompts, servers):
    """The reward pays for each digit, so the answers grow."""
    run, summary = run_with(tmp_path, model, many_prompts, servers, "brevity")
    assert summary.gain.low > 0
    verdict = summary.reward_hacking
    assert verdict.suspected is True
    assert "shadow brevity by -" in verdict.message
    assert "reward hacking suspected: at step" in run.log
    assert summary.tuned.shadows["brevity"] < summary.warmup.shadows["brevity"]


def test_a_shadow_that_rises_with_the_reward_is_not_suspected(tmp_path, model, many_prompts, servers):
    run, summary = run_with(tmp_path, model, many_prompts, servers, "characters")
    assert summary.gain.low > 0
    assert summary.reward_hacking.suspected is False
    assert "shadow characters by +" in summary.reward_hacking.message
    assert "suspected" not in run.log
