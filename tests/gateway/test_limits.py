"""The limits of keys: never more than allowed in any window, and headers that tell what is admitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_gateway.errors import ApiError
from rft_gateway.keys import Key, Limits
from rft_gateway.limits import Admission, Limiter, format_duration

NOON = datetime(2027, 2, 28, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2027, 3, 1, tzinfo=UTC).timestamp()
"""The end of a day that is the last of its month."""
DAY = 86_400


def make_key(name: str = "ci", **limits: int) -> Key:
    return Key(name, "team-a", "0" * 64, limits=Limits(**limits))


def refusal(limiter: Limiter, key: Key, now: float, estimate: int) -> ApiError | None:
    """Ask, and go at once without having used anything."""
    try:
        limiter.admit(key, now, estimate).release()
    except ApiError as error:
        return error
    return None


# Times are multiples of 1/8 s, which floating-point numbers hold exactly.
steps = st.integers(0, 8 * 30).map(lambda eighths: eighths / 8)
amounts = st.integers(1, 40)


@given(st.integers(1, 6), st.integers(1, 60), st.lists(st.tuples(steps, amounts), max_size=60))
def test_no_minute_has_more_than_allowed(requests, tokens, arrivals):
    key = make_key(requests_per_minute=requests, tokens_per_minute=tokens)
    limiter, now, admitted = Limiter(NOON), NOON, []
    for step, amount in arrivals:
        now += step
        error = refusal_of_admit(limiter, key, now, amount)
        if error is None:
            admitted.append((now, amount))
        else:
            assert (error.status, error.code) == (429, "rate_limit_exceeded")
    for start, _ in admitted:
        minute = [amount for time, amount in admitted if start <= time < start + 60]
        assert len(minute) <= requests
        assert sum(minute) <= tokens


@given(
    st.lists(st.tuples(steps, amounts, st.integers(0, 80), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(1, 600),
    st.integers(1, 900),
)
def test_headers_tell_what_is_admitted(arrivals, requests, minute, day, month):
    """As many requests and tokens as the last headers say are admitted, and none more; whatever was used before."""
    key = make_key(requests_per_minute=requests, tokens_per_minute=minute, tokens_per_day=day, tokens_per_month=month)
    limiter, now, headers = Limiter(NOON), NOON, {}
    for step, amount, used, settles in arrivals:
        now += step
        try:
            admission = limiter.admit(key, now, amount)
        except ApiError as error:
            headers = error.headers
        else:
            headers = admission.headers
            if settles:
                admission.settle(now, used)
                headers = headers_of(limiter, key, now)
    left = int(headers["x-ratelimit-remaining-tokens"])
    if int(headers["x-ratelimit-remaining-requests"]) == 0:
        assert refusal(limiter, key, now, 1).type == "requests" or left == 0
        return
    assert refusal(limiter, key, now, left + 1).type == "tokens"
    if left:
        limiter.admit(key, now, left)
        assert refusal(limiter, key, now, 1) is not None


def headers_of(limiter: Limiter, key: Key, now: float) -> dict[str, str]:
    """The headers of a request that is refused because it is larger than everything, and so changes nothing."""
    error = refusal(limiter, key, now, sys.maxsize)
    assert error is not None
    return error.headers


@given(st.lists(st.tuples(steps, amounts), min_size=1, max_size=40), st.integers(1, 5), st.integers(40, 100))
def test_after_the_time_of_a_refusal_the_request_is_admitted(arrivals, requests, tokens):
    key = make_key(requests_per_minute=requests, tokens_per_minute=tokens, tokens_per_day=400)
    limiter, now = Limiter(NOON), NOON
    for step, amount in arrivals:
        now += step
        error = refusal_of_admit(limiter, key, now, amount)
        if error is None:
            continue
        wait = int(error.headers["retry-after-ms"]) / 1000
        assert 0 < wait <= int(error.headers["retry-after"]) < wait + 1
        # A millisecond before it is refused still: the time is no longer than it has to be.
        assert refusal_of_admit(limiter, key, now + wait - 0.002, amount) is not None
        now += wait
        limiter.admit(key, now, amount)


def refusal_of_admit(limiter: Limiter, key: Key, now: float, amount: int) -> ApiError | None:
    """Ask, and keep what was reserved."""
    try:
        limiter.admit(key, now, amount)
    except ApiError as error:
        return error
    return None


def test_headers_have_the_form_of_openais():
    limiter = Limiter(NOON)
    key = make_key(requests_per_minute=60, tokens_per_minute=150_000)
    assert limiter.admit(key, NOON, 16).headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-reset-tokens": "1m0s",
    }
    assert limiter.admit(make_key("free"), NOON, 16).headers == {}
    only_tokens = limiter.admit(make_key("batch", tokens_per_day=1000), MIDNIGHT - 90.5, 100).headers
    assert only_tokens == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "1m30.5s",
    }


def test_headers_tell_the_tightest_limit():
    limiter = Limiter(NOON)
    key = make_key(tokens_per_minute=1000, tokens_per_day=1500)
    assert limiter.admit(key, NOON, 800).headers["x-ratelimit-limit-tokens"] == "1000"
    later = limiter.admit(key, NOON + 61, 100).headers
    assert (later["x-ratelimit-limit-tokens"], later["x-ratelimit-remaining-tokens"]) == ("1500", "600")
    assert later["x-ratelimit-reset-tokens"] == "11h58m59s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.006, "6ms"), (0.0001, "1ms"), (0.9999, "1s"), (1, "1s"), (8.64, "8.64s"), (59.9995, "1m0s"),
        (60, "1m0s"), (252.172, "4m12.172s"), (360, "6m0s"), (3600, "1h0m0s"), (83909.144, "23h18m29.144s"),
    ],
)  # fmt: skip
def test_lengths_of_time_are_written_as_by_openai(seconds, text):
    assert format_duration(seconds) == text


def test_messages_are_those_of_openai():
    limiter = Limiter(NOON)
    key = make_key(requests_per_minute=2, tokens_per_minute=100)
    limiter.admit(key, NOON, 60)
    error = refusal(limiter, key, NOON + 58.5, 50)
    assert error.message == (
        "Rate limit reached for key ci in namespace team-a on tokens per min (TPM): Limit 100, Used 60, Requested 50. "
        "Please try again in 1.5s."
    )
    assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("2", "1500")
    too_large = refusal(limiter, key, NOON + 58.5, 101)
    assert "Request too large" in too_large.message
    assert too_large.headers["x-should-retry"] == "false"
    assert "retry-after" not in too_large.headers


def test_a_border_of_the_clock_does_not_double_a_minute():
    limiter = Limiter(NOON)
    key = make_key(requests_per_minute=10)
    times = [NOON + 59.5 + index / 100 for index in range(100)]
    assert sum(refusal_of_admit(limiter, key, time, 1) is None for time in times) == 10


def test_tokens_are_settled():
    limiter = Limiter(NOON)
    key = make_key(tokens_per_minute=100, tokens_per_day=150)
    first = limiter.admit(key, NOON, 90)
    assert refusal(limiter, key, NOON, 20) is not None
    first.settle(NOON + 5, 10)
    first.settle(NOON + 5, 90)
    assert headers_of(limiter, key, NOON + 5)["x-ratelimit-remaining-tokens"] == "90"
    # More than was reserved: it counts from when it is known, and until then nobody else gets in.
    limiter.admit(key, NOON + 5, 1).settle(NOON + 30, 120)
    assert headers_of(limiter, key, NOON + 30)["x-ratelimit-remaining-tokens"] == "0"
    assert refusal(limiter, key, NOON + 80, 1).message.count("tokens per min") == 1
    assert headers_of(limiter, key, NOON + 91)["x-ratelimit-remaining-tokens"] == "20"


def test_a_request_that_is_longer_than_a_minute_is_settled():
    limiter = Limiter(NOON)
    key = make_key(tokens_per_minute=100)
    longer, shorter = limiter.admit(key, NOON, 30), limiter.admit(key, NOON, 30)
    limiter.admit(make_key("other", tokens_per_minute=5), NOON + 100, 1)  # the minute of the first is forgotten
    longer.settle(NOON + 100, 70)
    shorter.settle(NOON + 100, 10)
    assert headers_of(limiter, key, NOON + 100)["x-ratelimit-remaining-tokens"] == "60"


@pytest.mark.parametrize("settles", [True, False])
def test_parallel_requests_are_released_on_every_way_out(settles):
    limiter = Limiter(NOON)
    key = make_key(parallel_requests=2, tokens_per_day=1000)

    def request(fails: bool) -> None:
        with limiter.admit(key, NOON, 100) as admission:
            if settles:
                admission.settle(NOON, 10)
            if fails:
                raise ConnectionResetError
            admission.release()

    running = limiter.admit(key, NOON, 1)
    for _ in range(5):
        request(fails=False)
        with pytest.raises(ConnectionResetError):
            request(fails=True)
    second = limiter.admit(key, NOON, 1)
    error = refusal(limiter, key, NOON, 1)
    assert error.message == (
        "Rate limit reached for key ci in namespace team-a on parallel requests: Limit 2, Used 2, Requested 1. Please "
        "try again when one of them has ended."
    )
    assert (error.type, error.headers["retry-after"]) == ("requests", "1")
    for admission in (running, second, running):
        admission.release()
    left = headers_of(limiter, key, NOON)["x-ratelimit-remaining-tokens"]
    assert left == ("900" if settles else "1000")
    assert all(refusal(limiter, key, NOON, 1) is None for _ in range(3))


def test_a_refused_request_counts_for_nothing():
    limiter = Limiter(NOON)
    key = make_key(requests_per_minute=3, tokens_per_minute=10, tokens_per_day=100, parallel_requests=5)
    before = headers_of(limiter, key, NOON)
    for _ in range(20):
        assert refusal(limiter, key, NOON, 11) is not None
    assert headers_of(limiter, key, NOON) == before


def test_what_uses_no_tokens_is_let_in_when_none_are_left():
    limiter = Limiter(NOON)
    key = make_key(requests_per_minute=9, tokens_per_minute=8, tokens_per_day=9, tokens_per_month=10)
    limiter.admit(key, NOON, 8).settle(NOON, 100)
    before = headers_of(limiter, key, NOON)
    assert before["x-ratelimit-remaining-tokens"] == "0"
    limiter.admit(key, NOON, 0).release()
    after = {"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "1m0s"}
    assert headers_of(limiter, key, NOON) == {**before, **after}
    assert refusal(limiter, key, NOON, 1) is not None


def test_days_and_months_end_at_midnight_of_utc():
    limiter = Limiter(NOON)
    day, month = make_key("day", tokens_per_day=10), make_key("month", tokens_per_month=10)
    for key in (day, month):
        limiter.admit(key, NOON, 10)
        error = refusal(limiter, key, MIDNIGHT - 1, 1)
        assert (error.headers["retry-after"], error.headers["x-ratelimit-reset-tokens"]) == ("1", "1s")
        assert refusal(limiter, key, MIDNIGHT - 0.125, 1) is not None
    assert headers_of(limiter, day, MIDNIGHT)["x-ratelimit-remaining-tokens"] == "10"
    assert headers_of(limiter, month, MIDNIGHT)["x-ratelimit-remaining-tokens"] == "10"


def test_a_month_is_more_than_a_day():
    limiter = Limiter(datetime(2027, 1, 30, tzinfo=UTC).timestamp())
    key = make_key(tokens_per_day=10, tokens_per_month=15)
    limiter.admit(key, datetime(2027, 1, 30, tzinfo=UTC).timestamp(), 10)
    last_day = datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    error = refusal(limiter, key, last_day, 6)
    assert "tokens per month: Limit 15, Used 10, Requested 6" in error.message
    assert error.headers["retry-after"] == str(24 * 3600)
    assert refusal(limiter, key, last_day, 5) is None


def test_a_request_belongs_to_the_day_on_which_it_arrived():
    limiter = Limiter(NOON)
    key = make_key(tokens_per_day=100, tokens_per_month=100)
    admission = limiter.admit(key, MIDNIGHT - 1, 50)
    limiter.admit(key, MIDNIGHT + 1, 10)
    admission.settle(MIDNIGHT + 2, 90)
    assert headers_of(limiter, key, MIDNIGHT + 2)["x-ratelimit-remaining-tokens"] == "90"


def test_what_was_used_before_the_start_counts():
    limiter = Limiter(NOON)
    today, key = date(2027, 2, 28), make_key(tokens_per_day=100, tokens_per_month=1000)
    limiter.restore(
        [
            ("team-a", "ci", today, 60),
            ("team-a", "ci", date(2027, 2, 1), 300),
            ("team-a", "ci", date(2027, 1, 31), 5000),
            ("team-a", "ci", date(2026, 2, 28), 5000),
            ("team-a", "other", today, 5000),
            ("team-b", "ci", today, 5000),
        ]
    )
    assert headers_of(limiter, key, NOON)["x-ratelimit-remaining-tokens"] == "40"
    only_month = replace(key, limits=Limits(tokens_per_month=1000))
    assert headers_of(limiter, only_month, NOON)["x-ratelimit-remaining-tokens"] == "640"


def test_a_limit_that_changes_holds_at_once():
    limiter = Limiter(NOON)
    limiter.admit(make_key(), NOON, 500)
    assert headers_of(limiter, make_key(tokens_per_day=600), NOON)["x-ratelimit-remaining-tokens"] == "100"
    assert headers_of(limiter, make_key(tokens_per_day=400), NOON)["x-ratelimit-remaining-tokens"] == "0"


@given(st.lists(st.tuples(st.integers(-300, 300), amounts), min_size=1, max_size=40))
def test_a_clock_that_is_set_back_locks_nobody_out(arrivals):
    """A request waits for a minute at most, whatever the clock did before; and no day's tokens are given twice."""
    limiter, now = Limiter(NOON), MIDNIGHT
    key = make_key(requests_per_minute=2, tokens_per_minute=50)
    budget = make_key("budget", tokens_per_day=1000)
    limiter.admit(budget, MIDNIGHT - 1, 1000)
    limiter.admit(budget, MIDNIGHT, 1000)
    for step, amount in arrivals:
        now += step
        refusal_of_admit(limiter, key, now, amount)
        assert refusal(limiter, budget, now, 1) is not None
    assert refusal(limiter, key, now + 60, 50) is None


def test_days_of_a_clock_that_was_40_days_ahead_are_not_those_of_the_right_one():
    wrong = NOON + 40 * DAY
    limiter, key = Limiter(wrong), make_key(tokens_per_day=100, tokens_per_month=250)
    limiter.admit(key, wrong, 60)
    assert headers_of(limiter, key, wrong)["x-ratelimit-remaining-tokens"] == "40"
    for now in (MIDNIGHT, MIDNIGHT + DAY):
        limiter.admit(key, now, 100)
        error = refusal(limiter, key, now + DAY / 2, 1)
        assert (error.headers["retry-after"], error.headers["x-ratelimit-remaining-tokens"]) == (str(DAY // 2), "0")
    limiter.admit(key, MIDNIGHT + 2 * DAY, 50)
    assert "tokens per month: Limit 250, Used 250" in refusal(limiter, key, MIDNIGHT + 2 * DAY, 1).message


@pytest.mark.parametrize("days", [-400, -2, 1, 40])
def test_a_clock_that_was_wrong_for_a_while_gives_no_tokens_twice(days):
    limiter = Limiter(NOON)
    key = make_key(tokens_per_day=100, tokens_per_month=1000)
    limiter.admit(key, NOON, 30).settle(NOON, 100)
    wrong = NOON + days * DAY
    # Prometheus asks on two of the wrong days, a request comes on one.
    assert dict(limiter.budget_shares(key, wrong))["day"] == 0
    assert dict(limiter.budget_shares(key, wrong + DAY / 2))["day"] == 0
    limiter.admit(key, wrong, 40)
    assert dict(limiter.budget_shares(key, wrong))["day"] == 0.4
    right = NOON + 60
    assert dict(limiter.budget_shares(key, right))["day"] == 1
    error = refusal(limiter, key, right, 1)
    assert "tokens per day (TPD): Limit 100, Used 100" in error.message
    assert error.headers["retry-after"] == str(DAY // 2 - 60)


def test_memory_is_bounded_with_many_keys():
    limiter = Limiter(NOON)
    keys = [make_key(f"key-{index}", requests_per_minute=5, tokens_per_month=100) for index in range(2000)]
    running: Sequence[Admission] = [limiter.admit(key, NOON, 1) for key in keys]
    for admission in running:
        admission.settle(NOON + 30, 20)
        admission.release()
    busy = limiter.admit(keys[0], NOON + 45, 1)
    assert not limiter._running.keys() - {("team-a", "key-0")}
    limiter.admit(keys[1], NOON + 100, 1).release()
    assert set(limiter._minutes) == {("team-a", "key-0"), ("team-a", "key-1")}
    busy.release()
    limiter.admit(keys[1], MIDNIGHT, 1).release()
    assert len(limiter._minutes) == len(limiter._month.tokens) == len(limiter._day.tokens) == 1
    for day in range(100):
        limiter.admit(keys[1], MIDNIGHT + day * DAY, 1).release()
    assert [len(limiter._days), len(limiter._months)] == [3, 3]
    # A key that never rests has no more entries than seconds, however many its requests are.
    busy_key = make_key("busy", requests_per_minute=10**9)
    for index in range(20_000):
        limiter.admit(busy_key, MIDNIGHT + index / 100, 1).release()
    assert len(limiter._minutes["team-a", "busy"]._entries) <= 62
