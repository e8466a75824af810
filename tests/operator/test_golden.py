"""Observed worlds and the plans that they lead to, in golden files (`RFT_UPDATE_GOLDEN=1` writes them)."""

from __future__ import annotations

import os

import pytest
import yaml
from worlds_from_yaml import CASES, describe_plan, plan_case


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_golden(file):
    described = describe_plan(plan_case(file))
    golden = file.with_suffix(".plan.yaml")
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        golden.write_text(yaml.dump(described, Dumper=Dumper, sort_keys=False, width=120), encoding="utf-8")
    assert described == yaml.safe_load(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_planning_twice_plans_the_same(file):
    assert describe_plan(plan_case(file)) == describe_plan(plan_case(file))
