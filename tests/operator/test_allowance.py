"""What the operator says about one object or namespace has a limit, and what is left out is counted."""

from __future__ import annotations

import logging

from rft_operator.kube.store import Key
from rft_operator.status import allowance
from rft_operator.status.allowance import Allowance, LogLimit


def test_so_many_at_once_and_then_one_in_a_while():
    few = Allowance(3, seconds=10)
    assert [few.take("a", 0) for _ in range(5)] == [0, 0, 0, None, None]
    assert few.take("b", 0) == 0
    assert few.take("a", 9.9) is None
    assert few.take("a", 10) == 3
    assert [few.take("a", 1000) for _ in range(4)] == [0, 0, 0, None]


def test_names_without_end_take_no_memory(monkeypatch):
    monkeypatch.setattr(allowance, "NAMES", 100)
    few = Allowance(1, seconds=10)
    for number in range(1000):
        assert few.take("used", 0) == (0 if number == 0 else None)
        few.take(number, 0)
    assert len(few._spent) == 100


def lines(limit, key, number, text="changed"):
    """The lines that a handler with the limit gets."""
    records = [
        logging.LogRecord("x", logging.INFO, "", 0, "%s/%s: %s", (key.namespace, key.name, text), None)
        for _ in range(number)
    ]
    for record in records:
        record.key = key
    return [record.getMessage() for record in records if limit.filter(record)]


def test_an_object_that_changes_without_end_does_not_fill_the_log():
    now = [0.0]
    limit = LogLimit(lambda: now[0])
    noisy, quiet = Key("RFTJob", "hostile", "noisy"), Key("RFTJob", "good", "quiet")
    said = lines(limit, noisy, 10_000, text="100 %s")
    assert len(said) == 100
    assert said[0] == "hostile/noisy: 100 %s"
    left_out = "(there are too many lines about RFTJob noisy; some of the next are left out)"
    assert said[-1] == f"hostile/noisy: 100 %s {left_out}"
    assert lines(limit, quiet, 1) == ["good/quiet: changed"]
    now[0] = 15.0
    (said,) = lines(limit, noisy, 2)
    assert said.startswith("hostile/noisy: changed (9,900 lines about RFTJob noisy were left out before this one; ")


def test_a_namespace_with_objects_without_end_does_not_fill_the_log():
    limit = LogLimit(lambda: 0.0)
    said = [line for n in range(20_000) for line in lines(limit, Key("RFTJob", "hostile", f"job-{n}"), 1)]
    assert len(said) == 5000
    assert "there are too many lines about namespace hostile" in said[-1]
    assert lines(limit, Key("RFTJob", "good", "job"), 1) == ["good/job: changed"]


def test_lines_that_are_about_no_object_are_not_limited():
    limit = LogLimit(lambda: 0.0)
    record = logging.LogRecord("x", logging.INFO, "", 0, "the Lease", (), None)
    assert all(limit.filter(record) for _ in range(10_000))
