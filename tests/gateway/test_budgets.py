"""The shares of budgets that Prometheus sees: those that the limits count, and of few keys."""

from __future__ import annotations

from datetime import UTC, datetime

from support.gateway import Gateway, route

from rft_gateway.budgets import MOST_KEYS, Budgets
from rft_gateway.keys import Key, KeyRing, Limits
from rft_gateway.limits import Limiter

NOON = datetime(2027, 2, 27, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def make_key(name: str, namespace: str = "team-a", expires: datetime | None = None, **limits: int) -> Key:
    return Key(name, namespace, f"{namespace}-{name}", expires=expires, limits=Limits(**limits))


def shares_of(limiter: Limiter, *keys: Key, now: float = NOON) -> dict[tuple[str, str, str], float]:
    """The metric's values by namespace, key and period."""
    ring = KeyRing()
    ring.replace(keys, [])
    (family,) = Budgets(ring, limiter, clock=lambda: now).collect()
    return {
        (sample.labels["namespace"], sample.labels["key"], sample.labels["period"]): sample.value
        for sample in family.samples
    }


def test_a_share_is_what_the_limit_counts():
    key, limiter = make_key("ci", tokens_per_day=100, tokens_per_month=1000), Limiter(NOON)
    limiter.restore([("team-a", "ci", datetime.fromtimestamp(NOON - DAY, UTC).date(), 300)])
    admission = limiter.admit(key, NOON, 50)
    assert shares_of(limiter, key) == {("team-a", "ci", "day"): 0.5, ("team-a", "ci", "month"): 0.35}
    admission.settle(NOON, 120)
    assert shares_of(limiter, key) == {("team-a", "ci", "day"): 1.2, ("team-a", "ci", "month"): 0.42}


def test_a_new_day_and_month_begin_without_a_request():
    key, limiter = make_key("ci", tokens_per_day=100, tokens_per_month=1000), Limiter(NOON)
    limiter.admit(key, NOON, 50)
    assert shares_of(limiter, key, now=NOON + DAY) == {("team-a", "ci", "day"): 0, ("team-a", "ci", "month"): 0.05}
    assert shares_of(limiter, key, now=NOON + 2 * DAY) == {("team-a", "ci", "day"): 0, ("team-a", "ci", "month"): 0}


def test_keys_without_such_a_limit_or_that_open_nothing_are_left_out():
    keys = [
        make_key("free", tokens_per_minute=10),
        make_key("old", tokens_per_day=10, expires=datetime.fromtimestamp(NOON, UTC)),
        make_key("young", tokens_per_day=10, expires=datetime.fromtimestamp(NOON + 1, UTC)),
    ]
    assert shares_of(Limiter(NOON), *keys) == {("team-a", "young", "day"): 0}


def test_of_many_keys_those_nearest_to_their_limits_are_there():
    """A tenant with many keys neither makes many series nor takes the place of another's."""
    keys = [make_key(f"key-{number:04}", tokens_per_day=1000) for number in range(1000)]
    other, limiter = make_key("ci", "team-b", tokens_per_day=1000), Limiter(NOON)
    for number, key in enumerate(keys):
        limiter.admit(key, NOON, 1 + number)
    expected = {("team-a", f"key-{number:04}", "day"): (1 + number) / 1000 for number in range(1000 - MOST_KEYS, 1000)}
    assert shares_of(limiter, *keys, other) == {**expected, ("team-b", "ci", "day"): 0}


def test_the_gateway_tells_what_the_ledger_has(tmp_path, server):
    with Gateway(tmp_path, [route("m", server.url)]) as gateway:
        token = gateway.add_new_key("budget", limits=Limits(tokens_per_day=10_000))
        for _ in range(3):
            gateway.post("/v1/completions", {"model": "m", "prompt": "one two"}, token).raise_for_status()
        entries = gateway.wait_for_entries(3)
        used = sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in entries)
        series = 'rft_gateway_budget_used_ratio{key="budget",namespace="team",period="day"}'
        assert gateway.metrics()[series] == used / 10_000 > 0
        gateway.stop()
        gateway.start()
        assert gateway.metrics()[series] == used / 10_000
