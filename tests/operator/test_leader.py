"""Who may take the Lease."""

from __future__ import annotations

import pytest

from rft_operator.kube.leader import LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, ObservedLease, may_acquire


def lease(holder: str | None) -> dict:
    return {"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}


@pytest.mark.parametrize(
    ("held", "seen_for", "may"),
    [
        (lease("other"), 14.9, False),
        (lease("other"), 15.0, True),
        (lease("me"), 0.0, True),
        (lease(""), 0.0, True),
        (lease(None), 0.0, True),
        ({}, 0.0, True),
    ],
)
def test_may_acquire(held, seen_for, may):
    assert may_acquire(held, "me", ObservedLease("1", 100.0), 100.0 + seen_for) is may


def test_a_leader_stops_before_another_may_begin():
    assert RENEW_SECONDS + RETRY_SECONDS < LEASE_SECONDS
