"""Whether a request whose model has no server may wait for one, and what it is told if not. Pure decisions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rft_api.conditions import LASTING
from rft_api.foreign import server_limits
from rft_gateway import server_errors
from rft_gateway.errors import ApiError, stopping
from rft_gateway.routes import EndpointState

WAITING_BYTES = server_limits.BODIES_BYTES // 2
"""Bytes of the bodies of all requests that wait. The rest is for those of models that answer."""
_RETRY_SECONDS = "5"


class Reason(enum.StrEnum):
    """Why a request does not wait for a server, for metrics."""

    NOT_AVAILABLE = "NotAvailable"
    """No request starts a pod of this endpoint: it has no autoscale."""
    CANNOT_START = "CannotStart"
    """Its condition says what somebody has to correct first."""
    STOPPING = "Stopping"
    """The gateway is about to end."""
    TIMED_OUT = "TimedOut"
    """It has waited for as long as coldStart.timeout allows."""
    NOT_HELD = "NotHeld"
    """coldStart.queue is 0."""
    QUEUE_FULL = "QueueFull"
    """As many wait as coldStart.queue allows, or their bodies take too much memory."""


@dataclass(frozen=True)
class Crowd:
    """Who waits already."""

    requests: int
    """Requests for the same endpoint."""
    has_room: bool = True
    """Whether the bodies of those that wait at this gateway leave room for the one of this request."""
    is_stopping: bool = False
    """Whether the gateway is about to end."""


@dataclass(frozen=True)
class Refusal:
    """A request does not wait any longer, or not at all."""

    reason: Reason
    error: ApiError
    """What its client is told."""
    wakes: bool = False
    """Whether the endpoint is to be woken all the same."""


def refuse(model: str, state: EndpointState, crowd: Crowd, waited: float | None) -> Refusal | None:
    """Return why a request does not wait for a server; None if it does.

    Args:
        model: the model, as the request names it.
        state: what is known of its endpoint.
        crowd: who waits already.
        waited: seconds for which it has waited; None if it has just arrived.
    """
    if not state.can_wake:
        return Refusal(Reason.NOT_AVAILABLE, server_errors.unavailable(model, _describe(state)))
    if state.reason in LASTING:
        message = f"The model `{model}` cannot start{_describe(state)}."
        # OpenAI's clients obey this header: to ask again does not help.
        error = ApiError(503, message, code="model_cannot_start", headers={"x-should-retry": "false"})
        return Refusal(Reason.CANNOT_START, error)
    if crowd.is_stopping:
        return Refusal(Reason.STOPPING, stopping())
    if waited is not None:
        if waited < state.timeout:
            return None
        message = f"The model `{model}` has not started within {state.timeout:.0f} s{_describe(state)}."
        return Refusal(Reason.TIMED_OUT, _error(503, "model_start_timeout", f"{message} Please try again."))
    if not state.queue:
        message = f"The model `{model}` is starting{_describe(state)}. Please try again."
        return Refusal(Reason.NOT_HELD, _error(503, "model_starting", message), wakes=True)
    if crowd.requests >= state.queue or not crowd.has_room:
        message = f"Too many requests wait until the model `{model}` has started. Please try again."
        return Refusal(Reason.QUEUE_FULL, _error(429, "model_queue_full", message))
    return None


def _describe(state: EndpointState) -> str:
    """Return what the condition says, as the end of a sentence."""
    said = ": ".join(part for part in (state.reason, state.message.rstrip(".")) if part)
    return f" ({said})" if said else ""


def _error(status: int, code: str, message: str) -> ApiError:
    return ApiError(status, message, code=code, headers={"retry-after": _RETRY_SECONDS})
