"""A reward Lambda with sqlglot: whether a query is the expected one, whatever its layout, case and comments."""

import re

from sqlglot import parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.simplify import simplify


def lambda_handler(event, context):
    return [{"id": sample["id"], "aggregate_reward_score": grade(sample)} for sample in event]


def grade(sample):
    expected = canonical(sample["reference_answer"]["sql"])
    try:
        query = canonical(statement(sample["messages"][-1]["content"]))
    except SqlglotError:
        return 0.0
    return 1.0 if query == expected else 0.1


def statement(text):
    block = re.search(r"```(?:sql)?\n(.*?)```", text, re.DOTALL)
    return block[1] if block else text


def canonical(text):
    return simplify(normalize_identifiers(parse_one(text))).sql(comments=False)
