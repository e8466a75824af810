"""Chooses a replica for a request: the one that has the beginning of its prompt in its cache, unless it is too busy.

Bounded consistent hashing: the beginning of a prompt, with its model and key, orders the replicas of a model
(rendezvous hashing), and the first one whose load is not far above the mean takes the request. When a replica comes or
goes, only its own share of the prompts moves. Without a beginning, the replica with the least requests takes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

LOAD_BOUND = 1.25
"""How many times the mean of all replicas' requests a replica may have and still get more because of its cache."""
AWAY_SECONDS = 1.0
"""Time for which a replica that does not take connections is asked last."""


class Replica:
    """A server, with what this gateway knows of it."""

    def __init__(self, url: str):
        self.url = url
        self.requests = 0
        """Requests that it is answering now, as far as this gateway has sent them."""
        self.away_until = -math.inf

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request for as long as the block lasts."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1


class Replicas:
    """All servers of this gateway.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._replicas: dict[str, Replica] = {}

    def in_order(self, urls: Sequence[str], affinity: str) -> list[Replica]:
        """Return the replicas with these addresses, in the order in which a request should try them.

        Args:
            urls: the addresses.
            affinity: a text that requests with the same beginning share; the empty text if there is none.
        """
        replicas = [self._replicas.setdefault(url, Replica(url)) for url in urls]
        if len(replicas) < 2:
            return replicas
        if affinity:
            key = affinity.encode("utf-8", "surrogatepass")
            replicas.sort(key=lambda replica: blake2b(key + b"\0" + replica.url.encode(), digest_size=8).digest())
            bound = LOAD_BOUND * (sum(replica.requests for replica in replicas) + 1) / len(replicas)
            # Sorting keeps the order among replicas with the same key.
            replicas.sort(key=lambda replica: replica.requests + 1 > math.ceil(bound))
        else:
            replicas.sort(key=lambda replica: replica.requests)
        now = self._clock()
        replicas.sort(key=lambda replica: replica.away_until > now)
        return replicas

    def mark_away(self, replica: Replica) -> None:
        """Note that a replica does not take connections."""
        replica.away_until = self._clock() + AWAY_SECONDS

    def keep_only(self, urls: Iterable[str]) -> None:
        """Forget the servers that no model has any more, once they have answered everything."""
        kept = set(urls)
        self._replicas = {url: replica for url, replica in self._replicas.items() if url in kept or replica.requests}
