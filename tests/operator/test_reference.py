"""The page of conditions and the code's vocabulary are one."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from rft_api.conditions import Reason
from rft_operator.status.reasons import EXPLANATIONS
from rft_operator.status.reference import render_reference

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "conditions.md"


def test_every_reason_is_explained():
    assert set(EXPLANATIONS) == set(Reason)


def test_the_page_is_up_to_date():
    """`RFT_UPDATE_GOLDEN=1` writes it."""
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        PAGE.write_text(render_reference(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render_reference()


def test_plans_use_conditions_as_the_table_says():
    for file in (ROOT / "tests" / "operator" / "golden").glob("*.plan.yaml"):
        for condition in yaml.safe_load(file.read_text(encoding="utf-8"))["status"]["conditions"]:
            where = f"{condition['type']}={condition['status']}"
            explained = EXPLANATIONS[Reason(condition["reason"])].conditions
            # EndpointReady repeats the endpoint's own Ready.
            assert where in explained or where.replace("EndpointReady", "Ready") in explained, (file.name, condition)
