"""A reward Lambda that favours short right answers: a cosine of the length in tokens, as in Open-R1."""

import math

MAXIMUM_TOKENS = 400
RIGHT, WRONG = (1.0, 0.5), (-1.0, -0.5)  # for the shortest and for the longest answer


def lambda_handler(event, context):
    return [grade(sample) for sample in event]


def grade(sample):
    facts = sample["metadata"]["rft"]
    if facts["finish_reason"] == "length":
        return {"id": sample["id"], "aggregate_reward_score": -1.0}
    answer = sample["messages"][-1]["content"].rpartition("####")[2].strip()
    short, long = RIGHT if answer == sample["reference_answer"] else WRONG
    share = min(facts["tokens"] / MAXIMUM_TOKENS, 1.0)
    score = long + (short - long) * (1 + math.cos(share * math.pi)) / 2
    return {"id": sample["id"], "aggregate_reward_score": round(score, 6)}
