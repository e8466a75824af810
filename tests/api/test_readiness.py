"""What a reward server says of its start is read as it was written, whatever its words are."""

from __future__ import annotations

import pytest

from rft_api.readiness import NotReady, NotReadyReason, Readiness, find_address, format_address


def test_an_address_is_read_once_its_line_is_whole():
    line = format_address("http://[::1]:8080")
    assert find_address(f"INFO start\n{line}\nmore") == "http://[::1]:8080"
    assert find_address(line[:-1]) is None


@pytest.mark.parametrize("message", ["", "test 1: x", "the workers are starting"])
def test_only_the_reason_says_whether_something_is_wrong(message):
    reasons = {reason: NotReady(reason=reason, message=message) for reason in NotReadyReason}
    starting = Readiness(reasons=[reasons[NotReadyReason.WORKERS_STARTING]])
    assert (starting.ready, starting.failures) == (False, [])
    both = Readiness(reasons=list(reasons.values()))
    assert {failure.reason for failure in both.failures} == {NotReadyReason.WORKERS_FAILING, NotReadyReason.TEST_FAILED}
    assert Readiness.model_validate_json(both.model_dump_json(exclude_none=True)) == both


def test_a_newer_server_may_say_more():
    assert Readiness.model_validate_json('{"reasons": [], "since": "today"}').ready
