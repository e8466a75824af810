"""Turns the errors of servers into errors of OpenAI's API."""

from __future__ import annotations

from typing import Any

import orjson

from rft_api.foreign.text import one_line
from rft_gateway.errors import ApiError
from rft_gateway.requests import Api

RETRY_SECONDS = "1"
_MISSING = (404, 405, 501)
"""What a server answers for an operation that it does not have, or that its model cannot do."""
_TOO_LONG = ("maximum context length", "max_model_len")
"""What vLLM's messages have when prompt and completion are longer than its model takes."""
_NAMES = {
    Api.CHAT: "chat completions",
    Api.COMPLETIONS: "completions",
    Api.RESPONSES: "the Responses API",
    Api.EMBEDDINGS: "embeddings",
}


def unavailable(model: str, cause: str = "") -> ApiError:
    """Return the error for a model none of whose servers takes requests; the cause follows "at the moment"."""
    message = f"The model `{model}` is not available at the moment{cause}. Please try again."
    return ApiError(503, message, code="model_unavailable", headers={"retry-after": RETRY_SECONDS})


def broken_off(status: int = 502) -> ApiError:
    """Return the error for a server that ends the connection before it has answered."""
    message = "The server ended the connection before its answer was complete. Please try again."
    return ApiError(status, message, code="server_disconnected")


def answer_too_large() -> ApiError:
    """Return the error for an answer that is no stream, and has more bytes or values than the gateway takes."""
    return ApiError(502, "The server's answer is too large.", code="answer_too_large")


def too_late() -> ApiError:
    """Return the error for a server that has sent nothing for too long."""
    return ApiError(504, "The server has sent nothing for too long. Please try again.", code="server_timeout")


def from_answer(api: Api, model: str, status: int, body: bytes, retry_after: str | None) -> ApiError:
    """Return the error that an answer of a server states.

    Args:
        api: the operation.
        model: the model, as the request has named it.
        status: the status code of HTTP of the answer.
        body: its body.
        retry_after: its header of this name.
    """
    if status < 400:
        return broken_off()  # a redirection is followed by nobody
    error = _stated_error(body)
    message = str(error.get("message") or "")
    if status in _MISSING:
        text = f"The model `{model}` does not support {_NAMES[api]}."
        return ApiError(400, text, param="model", code="unsupported_model")
    if status in (401, 403):
        return ApiError(502, "The server has refused the gateway.", code="server_refused")
    headers = {"retry-after": retry_after} if retry_after else None
    return _error(status, message, error.get("param"), headers)


def lacks_model(status: int, body: bytes) -> bool:
    """Return whether a server says that it does not have the model: it has not loaded the adapter yet."""
    message = str(_stated_error(body).get("message") or "")
    return status == 404 and "does not exist" in message and "model" in message.lower()


def from_event(error: Any) -> ApiError:
    """Return the error that a server states in the middle of a stream."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    code = fields.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return _error(status, str(fields.get("message") or ""), fields.get("param"), None)


def _error(status: int, message: str, param: Any, headers: dict[str, str] | None) -> ApiError:
    code = None
    if any(words in message for words in _TOO_LONG):
        code = "context_length_exceeded"
    elif status >= 500:
        code = "server_error"
    return ApiError(
        status,
        one_line(message) or "The server had an error while processing your request.",
        param=param if isinstance(param, str) else None,
        code=code,
        headers=headers,
    )


def _stated_error(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}
