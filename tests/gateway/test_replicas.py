"""The choice of a replica: the same beginning meets the same one, until it is too busy, gone or away."""

from __future__ import annotations

from collections import Counter

from rft_gateway.replicas import AWAY_SECONDS, LOAD_BOUND, Replicas

URLS = [f"http://10.0.0.{number}:8000" for number in range(5)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def first(replicas: Replicas, urls: list[str], affinity: str) -> str:
    return replicas.in_order(urls, affinity)[0].url


def test_the_same_beginning_meets_the_same_replica_and_others_are_spread():
    replicas = Replicas(Clock())
    choices = {prompt: first(replicas, URLS, f"prompt {prompt}") for prompt in range(1000)}
    assert choices == {prompt: first(replicas, URLS[::-1], f"prompt {prompt}") for prompt in range(1000)}
    assert min(Counter(choices.values()).values()) > 1000 / len(URLS) / 2


def test_when_a_replica_goes_only_its_prompts_move():
    replicas = Replicas(Clock())
    for prompt in range(200):
        before = first(replicas, URLS, f"prompt {prompt}")
        after = first(replicas, URLS[1:], f"prompt {prompt}")
        assert before == after or before == URLS[0]


def test_no_replica_gets_much_more_than_the_mean():
    replicas = Replicas(Clock())
    total = 100
    for _ in range(total):
        replica = replicas.in_order(URLS, "the same prompt")[0]
        replica.requests += 1
    loads = [replica.requests for replica in replicas.in_order(URLS, "")]
    assert max(loads) <= LOAD_BOUND * total / len(URLS) + 1


def test_without_a_beginning_the_least_busy_one_is_taken():
    replicas = Replicas(Clock())
    for replica, load in zip(replicas.in_order(URLS, ""), (3, 1, 4, 2, 5), strict=True):
        replica.requests = load
    order = [replica.requests for replica in replicas.in_order(URLS, "")]
    assert order == [1, 2, 3, 4, 5]


def test_a_replica_that_takes_no_connections_is_tried_last_for_a_while():
    clock = Clock()
    replicas = Replicas(clock)
    replica = replicas.in_order(URLS, "prompt")[0]
    replicas.mark_away(replica)
    assert replicas.in_order(URLS, "prompt")[-1] is replica
    clock.now = AWAY_SECONDS
    assert replicas.in_order(URLS, "prompt")[0] is replica


def test_the_load_of_a_server_that_comes_back_is_what_it_still_answers():
    replicas = Replicas(Clock())
    replica = replicas.in_order(URLS[:1], "")[0]
    with replica.in_use():
        replicas.keep_only([])
        assert replicas.in_order(URLS[:1], "")[0].requests == 1
    replicas.keep_only([])
    assert replicas.in_order(URLS[:1], "")[0] is not replica
