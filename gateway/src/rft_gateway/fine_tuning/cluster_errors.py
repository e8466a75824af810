"""Errors of the API server as those of OpenAI's API."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rft_api.foreign.text import one_line
from rft_gateway.cluster.api_server import Expired, Refused, Unavailable
from rft_gateway.errors import ApiError

CONFLICT: Final = 409
_FORBIDDEN = 403
_INVALID = (400, 422)
_logger = logging.getLogger(__name__)


@contextmanager
def explained() -> Iterator[None]:
    """Raise errors of the API server as those of OpenAI's API."""
    try:
        yield
    except Refused as refused:
        message = one_line(refused.message, 4000)
        if refused.status in _INVALID:
            raise ApiError(400, message, code="invalid_job") from None
        if refused.status == CONFLICT:  # it was there a moment ago, or somebody else has changed a quota meanwhile
            raise ApiError(409, message, code="conflict", headers={"retry-after": "1"}) from None
        if refused.status == _FORBIDDEN:  # by its role, a quota or a policy
            raise ApiError(403, message, type="permission_error", code="not_allowed") from None
        raise _unavailable(str(refused)) from None
    except (Unavailable, Expired) as error:
        raise _unavailable(str(error)) from None


def _unavailable(problem: str) -> ApiError:
    _logger.warning("fine-tuning: the API server: %s", problem)
    message = "The cluster does not answer at the moment. Please try again."
    return ApiError(503, message, code="cluster_unavailable", headers={"retry-after": "2"})
