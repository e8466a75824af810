"""A reward Lambda with pydantic: whether an answer is a valid invoice as JSON, and how many fields are right."""

from datetime import date
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: str = Field(pattern=r"^INV-\d+$")
    day: date
    total: Decimal = Field(ge=0)
    currency: str = Field(min_length=3, max_length=3)


def lambda_handler(event, context):
    return [grade(sample) for sample in event]


def grade(sample):
    expected = Invoice.model_validate(sample["reference_answer"])
    try:
        invoice = Invoice.model_validate_json(sample["messages"][-1]["content"])
    except ValidationError as error:
        return row(sample, valid=0.0, fields=0.0, problems=error.error_count())
    right = [getattr(invoice, name) == getattr(expected, name) for name in Invoice.model_fields]
    return row(sample, valid=1.0, fields=sum(right) / len(right), problems=0)


def row(sample, valid, fields, problems):
    return {
        "id": sample["id"],
        "aggregate_reward_score": 0.2 * valid + 0.8 * fields,
        "metrics_list": [
            {"name": "valid", "value": valid, "type": "Reward"},
            {"name": "fields", "value": fields, "type": "Reward"},
            {"name": "problems", "value": problems, "type": "Metric"},
        ],
    }
