"""A reward function of TRL with math-verify: whether an answer equals the solution as mathematics."""

from math_verify import parse, verify


def math_reward(completions, solution, **kwargs):
    rewards = []
    for completion, expected in zip(completions, solution, strict=True):
        gold = parse(f"${expected}$")
        if not gold:
            rewards.append(None)  # a solution that cannot be read judges nobody
            continue
        rewards.append(float(verify(gold, parse(completion[0]["content"]))))
    return rewards
