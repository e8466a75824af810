"""The metric that says which keys have used most of their tokens of a day or month."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rft_gateway.keys import KeyRing
from rft_gateway.limits import Limiter

MOST_KEYS = 10
"""Keys of a namespace that the metric has for a day, and for a month: those nearest to their limits. A tenant can make
as many keys as it likes, and each would be a series of Prometheus."""


class Budgets(Collector):
    """Tells Prometheus the shares of budgets that are used, as the limiter counts them.

    Args:
        keys: the keys.
        limiter: knows what they have used.
        clock: returns the seconds since 1970.
    """

    def __init__(self, keys: KeyRing, limiter: Limiter, clock: Callable[[], float] = time.time):
        self._keys = keys
        self._limiter = limiter
        self._clock = clock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the metric; a key without such a limit, or that has expired, is not in it."""
        family = GaugeMetricFamily(
            "rft_gateway_budget_used_ratio",
            "Share of the tokens of a day or month that a key has used; of each namespace, the keys nearest to the end",
            labels=["namespace", "key", "period"],
        )
        for (namespace, period), shares in self._shares().items():
            for share, key in heapq.nlargest(MOST_KEYS, shares):
                family.add_metric([namespace, key, period], share)
        return [family]

    def _shares(self) -> dict[tuple[str, str], list[tuple[float, str]]]:
        """Return the share and name of each key, by namespace and period."""
        now = self._clock()
        date = datetime.fromtimestamp(now, UTC)
        shares: dict[tuple[str, str], list[tuple[float, str]]] = {}
        for key in self._keys.keys:
            if key.expires is None or date < key.expires:
                for period, share in self._limiter.budget_shares(key, now):
                    shares.setdefault((key.namespace, period), []).append((share, key.name))
        return shares
