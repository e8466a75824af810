"""What the rewards of examples/rewards score, and what stands for the models that they ask."""

from __future__ import annotations

import json
import re

from support.services import Answer, Asked, chat

EXPECTED: dict[str, list[float | None]] = {
    "similarity": [1.0, 0.634335, 0.0, 0.0],
    "math_equivalence": [1.0, 1.0, 0.0, 0.0, None],
    "sql_equality": [1.0, 0.1, 0.0],
    "invoice_json": [1.0, 0.8, 0.0, 0.0],
    "code_tests": [1.0, 0.5, 0.0, 1.0, 0.0],
    "bedrock_judge": [0.9, 0.2, None],
    "bedrock_judge_without_lambda": [1.0, 0.25, 0.0],
    "async_checks": [1.0, 0.5, 0.0],
    "relative_judge": [1.0, 0.5, 0.0],
    "cosine_length": [1.0, 0.75, -0.75, -1.0],
    "top_level_fields": [1.0, 0.5, 0.0, 0.0],
}
"""The score of each line of NAME.jsonl; None for a completion that has none."""


def answer_of_bedrock(asked: Asked) -> Answer:
    """A model on Amazon Bedrock (Converse) that judges the completions of bedrock_judge.jsonl."""
    request = asked.json()
    text = json.dumps(request)
    kind, short = "I am sorry! We send a new one today." in text, "Order again." in text
    if "from 0 to 10" in text:
        reply = 'It is kind: {"grade": 9}' if kind else '{"grade": 2}' if short else "There is no reply."
    else:
        reply = json.dumps({"reason": "because", "score": 5 if kind else 2 if short else 1})
    message = {"role": "assistant", "content": [{"text": reply}]}
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    answer = {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}
    return Answer(answer)


def ranking_of_judge(asked: Asked) -> Answer:
    """A model that ranks the completions of relative_judge.jsonl: what names the bank first, and then the shorter."""
    told = asked.json()["messages"][1]["content"]
    answers = re.findall(r"⟦ANSWER \d+ [0-9a-f]{20}⟧\n(.*?)\n⟦/", told, re.DOTALL)
    numbers = range(1, len(answers) + 1)
    ranked = sorted(numbers, key=lambda n: ("bank" not in answers[n - 1], len(answers[n - 1])))
    return chat(json.dumps({"reason": "because", "ranking": [[number] for number in ranked]}))
