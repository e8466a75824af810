"""Pods that do not answer, and when they are asked again: the longer one has been silent, the less often."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rft_operator.pods.pod_view import PodView

SHARE = 0.25
"""Pause until a pod is asked again, as a share of the time for which it has been silent. So what a pod says after an
outage is known at most a quarter of the outage later."""
LONGEST_PAUSE_SECONDS = 240.0
"""Longest pause, reached after 16 minutes. Then a thousand silent pods cost four connections a second."""
KEPT_SECONDS = 3600.0
"""Time after which a pod that is no longer asked is forgotten."""


class Question(NamedTuple):
    """What a pod is asked."""

    port: int
    path: str
    body: bytes | None


@dataclass(frozen=True)
class _Silence:
    since: float
    asked_at: float
    problem: str

    @property
    def end(self) -> float:
        return self.asked_at + min(SHARE * (self.asked_at - self.since), LONGEST_PAUSE_SECONDS)


@dataclass
class _SilentPod:
    state: tuple[object, ...]
    """The state of the pod; a pod that has changed is asked at once."""
    silences: dict[Question, _Silence] = field(default_factory=dict)
    asked_at: float = 0.0


class Silences:
    """The questions that pods have not answered. When the operator is restarted, all pods are asked at once.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._pods: OrderedDict[str, _SilentPod] = OrderedDict()
        """The pods by uid, in the order in which they were last asked."""

    def problem(self, pod: PodView, question: Question) -> str | None:
        """Return what came of a question to a pod that is not asked again yet; None when it is to be asked."""
        silence = self._silences(pod).get(question)
        return None if silence is None or self._clock() >= silence.end else silence.problem

    def begin(self, pod: PodView, question: Question, problem: str) -> None:
        """Keep that a pod has not answered a question, now or since it was asked first."""
        now, silent = self._clock(), self._pods.pop(pod.uid, None)
        if silent is None or silent.state != _state(pod):
            silent = _SilentPod(_state(pod))
        before = silent.silences.get(question)
        silent.silences[question] = _Silence(now if before is None else before.since, now, problem)
        silent.asked_at = now
        self._pods[pod.uid] = silent
        while next(iter(self._pods.values())).asked_at < now - KEPT_SECONDS:
            self._pods.popitem(last=False)

    def end(self, pod: PodView, question: Question) -> None:
        """Forget the silence of a pod that has answered a question."""
        silences = self._silences(pod)
        if silences.pop(question, None) is not None and not silences:
            del self._pods[pod.uid]

    def seconds_left(self, pods: Sequence[PodView]) -> float:
        """Return the seconds until one of these pods is asked again; 0 when one of them has answered all questions."""
        ends = [max((silence.end for silence in self._silences(pod).values()), default=0.0) for pod in pods]
        return max(0.0, min(ends, default=0.0) - self._clock())

    def _silences(self, pod: PodView) -> dict[Question, _Silence]:
        silent = self._pods.get(pod.uid)
        return silent.silences if silent is not None and silent.state == _state(pod) else {}


def _state(pod: PodView) -> tuple[object, ...]:
    return pod.ip, pod.ready, pod.running_since, pod.terminated
