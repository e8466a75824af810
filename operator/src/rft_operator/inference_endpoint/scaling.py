"""Decide how many server pods an endpoint with autoscale has, and why.

| server pods | demand at the gateways | decision |
|---|---|---|
| fewer than the requests need | | as many as they need, at once |
| none | a request has woken the endpoint | one |
| more than the requests need | a gateway cannot be asked | no pod ends |
| more than the requests need | has been so for idleAfter | as many as were needed at most meanwhile, at least one |
| any, and minimum is 0 | no request for idleAfter | none |

All numbers are within minimum and maximum. The decision depends on what gateways say and on what the status keeps, so
it is the same after a restart of the operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rft_api.inference_endpoint import Autoscale, AutoscaleStatus
from rft_api.quantities import duration_seconds
from rft_operator.kube.timestamps import format_timestamp, parse_timestamp
from rft_operator.pods.demand import Demand

CLOCK_DIFFERENCE: Final = timedelta(minutes=1)
"""How far in the future the time of a wake may be, by the clock of the gateway; a later one is nobody's request."""
PRECISION_SHARE: Final = 10
SHORTEST_PRECISION: Final = timedelta(seconds=5)
SHORTEST_WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Situation:
    """Everything on which the number of server pods depends."""

    autoscale: Autoscale
    """The settings."""
    cold_start: timedelta
    """Longest time that a request waits for a server pod."""
    demand: Demand | None
    """What gateways are asked for; None when the operator was told of no gateway."""
    pods: int
    """Number of server pods that the Deployment asks for."""
    is_ready: bool
    """Whether one of the pods is ready."""
    wake: str | None
    """Value of the annotation that a request sets which finds no server pod. Anybody may write anything into it."""
    before: AutoscaleStatus | None
    """What the status keeps; None for an endpoint that had no autoscale before."""
    now: datetime
    """The current time."""

    @property
    def idle_after(self) -> timedelta:
        """Time after which pods that are not needed end."""
        return timedelta(seconds=duration_seconds(self.autoscale.idle_after))

    @property
    def precision(self) -> timedelta:
        """Age at which a time in the status is written again: a constant load writes seldom."""
        return max(self.idle_after / PRECISION_SHARE, SHORTEST_PRECISION)

    @property
    def waking_request(self) -> datetime | None:
        """Time of the request that has woken the endpoint; None when the annotation tells of none."""
        try:
            time = datetime.fromisoformat(self.wake or "")
        except ValueError:
            return None
        if time.tzinfo is None or time - self.now > CLOCK_DIFFERENCE:
            return None
        # A pod that is not ready yet is kept for as long as the request may wait for it. Without a pod, the request may
        # have been answered by one that has ended since.
        is_starting = self.pods > 0 and not self.is_ready
        kept = max(self.idle_after, self.cold_start) if is_starting else self.idle_after
        return min(time, self.now) if self.now - time < kept else None


@dataclass(frozen=True)
class _Times:
    """Times on which the decision depends."""

    last_request: datetime | None
    """When the last request was that anybody knows of."""
    idle_at: datetime
    """When there will have been no request for idleAfter, if none comes."""
    surplus_at: datetime
    """When fewer pods will have been enough for idleAfter, if they remain so."""


@dataclass(frozen=True)
class Scaling:
    """The number of server pods, and why it is this one."""

    replicas: int
    """Number of server pods."""
    why: str
    """Why, as what follows the number and a colon."""
    status: AutoscaleStatus
    """What the status is to keep."""
    seconds: float | None
    """Seconds until time alone may change the decision, or what the status keeps; None when it cannot."""


def scale(situation: Situation) -> Scaling:
    """Decide how many server pods an endpoint has."""
    demand = situation.demand
    if demand is None:
        replicas = max(situation.autoscale.minimum, 1)
        return Scaling(replicas, "no gateway says how many are needed", AutoscaleStatus(replicas=replicas), None)
    before = situation.before or AutoscaleStatus(
        replicas=situation.pods,
        # What pods that exist were asked for until now is not known.
        last_request_time=format_timestamp(situation.now) if situation.pods else None,
    )
    times = _times(situation, demand, before)
    required, why = _required(situation, demand)
    pods = min(situation.pods, situation.autoscale.maximum)  # a smaller maximum counts at once
    is_idle = not required and demand.problem is None and times.idle_at <= situation.now
    # The last pod serves until nobody has asked for idleAfter.
    sufficient = required if required or is_idle else min(pods, 1)
    replicas = pods
    if sufficient >= pods:
        replicas = sufficient
        if sufficient > required:
            why = f"its models were asked for less than {situation.autoscale.idle_after} ago"
    elif demand.problem is not None:
        why = f"none ends while not all gateways can be asked: {demand.problem}"
    elif is_idle:
        replicas, why = 0, f"nobody has asked for its models for {situation.autoscale.idle_after}"
    elif times.surplus_at <= situation.now:
        replicas = min(pods, max(sufficient, before.sufficient_replicas or 0))
        why = f"as many have been enough for {situation.autoscale.idle_after}"
    else:
        why = f"{sufficient} would be enough, but not for {situation.autoscale.idle_after} yet"
    surplus = sufficient if sufficient < replicas and demand.problem is None else None
    status = _status(situation, before, times.last_request, replicas, surplus)
    return Scaling(replicas, why, status, _seconds(situation, times, status, surplus))


def _required(situation: Situation, demand: Demand) -> tuple[int, str]:
    """Return the number of pods that what is asked for needs now, within minimum and maximum; and why."""
    autoscale = situation.autoscale
    number = -(-demand.requests // autoscale.target_concurrency)
    why = f"{demand.requests} requests at the same time, and a pod is enough for {autoscale.target_concurrency}"
    if not number and situation.waking_request is not None:
        number, why = 1, "a request has woken it"
    if number < autoscale.minimum:
        return autoscale.minimum, "spec.autoscale.minimum"
    if number > autoscale.maximum:
        return autoscale.maximum, f"spec.autoscale.maximum, for {why}"
    return number, why if number else "nobody asks for its models"


def _times(situation: Situation, demand: Demand, before: AutoscaleStatus) -> _Times:
    now = situation.now

    def past(time: datetime | None) -> list[datetime]:
        return [] if time is None else [min(time, now)]

    kept = past(parse_timestamp(before.last_request_time))
    requests = [*kept, *past(demand.last_request), *past(situation.waking_request), *([now] if demand.requests else [])]
    # A gateway that has started lately does not know of earlier requests, and one that has ended may have known of some
    # that came too soon after the one in the status to be kept there.
    quiet = [*requests, *past(demand.gateways_started), *(time + situation.precision for time in kept)]
    needed = max(past(parse_timestamp(before.last_needed_time)), default=now)
    return _Times(
        last_request=max(requests, default=None),
        idle_at=max(quiet, default=now) + situation.idle_after,
        surplus_at=needed + situation.precision + situation.idle_after,
    )


def _status(
    situation: Situation, before: AutoscaleStatus, last_request: datetime | None, replicas: int, surplus: int | None
) -> AutoscaleStatus:
    """Return what the status is to keep.

    Args:
        situation: the situation.
        before: what it has kept until now.
        last_request: when the last request was.
        replicas: the number of pods from now on.
        surplus: the smaller number of pods that is enough; None when all are needed.
    """
    is_fixed = replicas <= max(situation.autoscale.minimum, 1)
    needed, sufficient = before.last_needed_time, before.sufficient_replicas
    if is_fixed or replicas != before.replicas:
        needed, sufficient = (None, None) if is_fixed else (format_timestamp(situation.now), surplus)
    elif surplus is not None:
        needed, sufficient = needed or format_timestamp(situation.now), max(surplus, sufficient or 0)
    else:
        renewed = _renew(situation, needed, situation.now)
        needed, sufficient = renewed, sufficient if renewed == needed else None
    return AutoscaleStatus(
        replicas=replicas,
        last_request_time=_renew(situation, before.last_request_time, last_request),
        last_needed_time=needed,
        sufficient_replicas=sufficient,
    )


def _renew(situation: Situation, kept: str | None, time: datetime | None) -> str | None:
    """Return a time as the status is to keep it: as before, unless that is too old, or not in the past."""
    before = parse_timestamp(kept)
    if time is None or (before is not None and before <= situation.now and time - before < situation.precision):
        return kept
    return format_timestamp(time)


def _seconds(situation: Situation, times: _Times, status: AutoscaleStatus, surplus: int | None) -> float | None:
    """Return the seconds until time alone may change something."""
    demand, now = situation.demand, situation.now
    moments = []
    if status.replicas > situation.autoscale.minimum == 0:
        moments.append(times.idle_at)
    if surplus is not None:
        moments.append(times.surplus_at)
    if status.last_needed_time or situation.waking_request or (demand is not None and demand.requests):
        moments.append(now + situation.precision)
    waits = [(moment - now).total_seconds() for moment in moments if moment > now]
    return max(min(waits), SHORTEST_WAIT_SECONDS) if waits else None
