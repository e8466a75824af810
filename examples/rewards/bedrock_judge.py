"""A reward Lambda that asks a model on Amazon Bedrock for a grade from 0 to 10."""

import json
import os
import re

import boto3

MODEL = os.environ.get("JUDGE_MODEL", "amazon.nova-lite-v1:0")
PROMPT = """Grade how kind and how helpful the reply to the customer is, from 0 to 10.
Customer: {question}
Reply: {reply}
Answer with JSON only: {{"grade": 7}}"""

bedrock = boto3.client("bedrock-runtime")


def lambda_handler(event, context):
    return [grade(sample) for sample in event]


def grade(sample):
    *_, question, reply = (message["content"] for message in sample["messages"])
    response = bedrock.converse(
        modelId=MODEL,
        messages=[{"role": "user", "content": [{"text": PROMPT.format(question=question, reply=reply)}]}],
        inferenceConfig={"maxTokens": 50, "temperature": 0.0},
    )
    text = response["output"]["message"]["content"][0]["text"]
    found = re.search(r"\{[^{}]*\}", text)
    if found is None:
        return {"id": sample["id"], "error": f"the judge answered {text!r}"}
    score = min(max(json.loads(found[0])["grade"], 0), 10) / 10
    return {"id": sample["id"], "aggregate_reward_score": score}
