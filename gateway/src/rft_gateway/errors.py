"""Errors as OpenAI's API states them, so that its clients raise the exceptions that their users know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel, ValidationError

from rft_api.foreign.text import one_line
from rft_api.model import Location, format_location
from rft_api.violations import violations

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
OVERLOADED = "overloaded"
"""The code of errors of the gateway itself, which has no memory or time for a request; servers' errors have others."""
INVALID_VALUE: Final = "invalid_value"
MISSING_PARAMETER: Final = "missing_required_parameter"
UNKNOWN_PARAMETER: Final = "unknown_parameter"
"""OpenAI's codes for a field or parameter that is wrong, not there, or none of the operation."""
MOST_FIELDS: Final = 1000
"""Fields of an object in a body that is validated: no kind has as many, and a row of data hardly ever."""
_MOST_SHOWN = 5


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


def require_few_fields(document: Any) -> None:
    """Refuse the body of a request before it is validated if an object in it has more fields than `MOST_FIELDS`.

    Pydantic makes an error for each unknown one, which takes hundreds of bytes.

    Args:
        document: the body, parsed.

    Raises:
        ApiError: 400 with the number of fields.
    """
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if len(value) > MOST_FIELDS:
                message = f"an object in the body has {len(value):,} fields, and may have at most {MOST_FIELDS:,}"
                raise ApiError(400, message, code=INVALID_VALUE)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def invalid_document(invalid: ValidationError, document: Any, model: type[BaseModel]) -> ApiError:
    """Return the error for the body of a request that is none of its kind.

    Its `param` is the first wrong field, and its message has up to five of them.

    Args:
        invalid: what the validation has raised.
        document: the body.
        model: what it has to be.
    """
    problems = list(violations(invalid, document, model, _MOST_SHOWN))
    code = INVALID_VALUE
    if problems[0].message.startswith("unknown field"):
        code = UNKNOWN_PARAMETER
    elif _is_missing(document, problems[0].location):
        code = MISSING_PARAMETER
    message = one_line("; ".join(map(str, problems)), 4000)
    param = one_line(format_location(problems[0].location)) or None
    return ApiError(400, message, param=param, code=code)


def _is_missing(document: Any, location: Location) -> bool:
    for part in location:
        try:
            document = document[part]
        except (LookupError, TypeError):
            return True
    return document is None


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
