"""Errors as OpenAI's API states them, so that its clients raise the exceptions that their users know."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
OVERLOADED = "overloaded"
"""The code of errors of the gateway itself, which has no memory or time for a request; servers' errors have others."""


class ApiError(Exception):
    """A request is answered with an error.

    Args:
        status: status code of HTTP.
        message: what is wrong and what to do, for a person.
        type: OpenAI's kind of error; by default it follows from the status.
        param: the field of the request that is wrong.
        code: OpenAI's code of the error, for programs.
        headers: further headers of the answer, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or (SERVER_ERROR if status >= 500 else INVALID_REQUEST)
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the answer's body; in a stream it is the data of an event."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


def model_not_found(model: str) -> ApiError:
    """Return the error for a model that does not exist, or that is not this key's: both look the same."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def overloaded(message: str) -> ApiError:
    """Return the error for a request for which the gateway itself has no memory, or has lost what reads it."""
    return ApiError(503, f"{message} Please try again.", code=OVERLOADED, headers={"retry-after": "1"})


def stopping() -> ApiError:
    """Return the error for what the gateway does not go on with, because it is about to end."""
    message = "The gateway is stopping. Please try again."
    return ApiError(503, message, code="stopping", headers={"retry-after": "1"})


def starting() -> ApiError:
    """Return the error while the gateway does not know yet which models and keys there are."""
    message = "The gateway is starting, and has not read its models and keys yet. Please try again."
    return ApiError(503, message, code="starting", headers={"retry-after": "1"})
