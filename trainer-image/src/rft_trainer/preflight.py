"""The check before training: decides whether this model can learn from this reward."""

from __future__ import annotations

from collections.abc import Sequence

from rft_api.constant_reward import constant_reward
from rft_api.model import Json
from rft_api.reward_protocol import build_sample
from rft_api.summary import PreflightVerdict
from rft_trainer.rollouts import ScoredCompletion, mean_reward

# Source: Amazon Bedrock's guidance, "Is RFT right?": above 95 % of the largest reward there is nothing left to learn.
# The largest possible reward is unknown here, so the largest reward of the samples is used.
EASY_SHARE = 0.95
# Rewards that differ by no more than this are equal up to rounding.
SAME_REWARD = 1e-6


def judge(groups: Sequence[Sequence[ScoredCompletion]], samples_per_prompt: int) -> PreflightVerdict:
    """Return the verdict on groups of sampled completions; each group belongs to one prompt.

    GRPO learns from differences of rewards within a group. If no group has any, the model cannot learn, whatever its
    mean reward is.
    """
    rows = [row for group in groups for row in group]
    reward = mean_reward(rows)
    varied = sum(_differs(group) for group in groups)
    share = varied / len(groups) if groups else 0.0
    best = max((row.reward for row in rows if row.reward is not None), default=0.0)
    if varied:
        verdict, message = "Fine", f"{varied} of {len(groups)} prompts got completions with different rewards"
    elif reward is not None and best > 0 and reward >= EASY_SHARE * best:
        verdict, message = (
            "TooEasy",
            f"all completions of {len(groups)} prompts earned about {reward:.3g}: the model already does what the "
            f"reward asks for; use harder prompts or a reward that tells good from better",
        )
    else:
        verdict, message = (
            "NotLearnable",
            f"no prompt of {len(groups)} got completions with different rewards (mean {reward or 0:.3g}): there is "
            f"nothing to reinforce; add a warm-up on good answers, give partial credit in the reward, or use easier "
            f"prompts",
        )
    same = None if varied else constant_reward([_sample(row) for row in rows], [row.reward for row in rows])
    if same is not None:
        message += f". {same[0].upper()}{same[1:]}"
    return PreflightVerdict.model_validate(
        {
            "verdict": verdict,
            "message": message,
            "reward": reward,
            "varied_group_ratio": share,
            "prompts": len(groups),
            "samples_per_prompt": samples_per_prompt,
            "rewards_failed": sum(row.error is not None for row in rows),
        }
    )


def _sample(row: ScoredCompletion) -> Json:
    prompt = row.prompt
    return build_sample(prompt.id, prompt.messages, row.completion, prompt.reference_answer, prompt.metadata)


def _differs(group: Sequence[ScoredCompletion]) -> bool:
    rewards = [row.reward for row in group if row.reward is not None]
    return len(rewards) > 1 and max(rewards) - min(rewards) > SAME_REWARD
