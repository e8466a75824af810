"""Reads the body of a request: what the gateway has to know of it, and the body that the server gets."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from rft_api.foreign import server_limits
from rft_api.foreign.files import most_values
from rft_gateway.errors import ApiError
from rft_gateway.usage import MOST_TOKENS, Bounds

LARGE_BYTES = 256 << 10
LARGE_VALUES = 10_000
"""Bytes and values of a body above which another process reads it. Below, that takes a millisecond at most."""
BEGINNING = 256
"""Characters of a prompt by which a replica is chosen: those that a system prompt and a first question have."""
_SPACES = b" \t\n\r"
"""What JSON may have around its values."""
_CHARACTERS_OF_A_TOKEN = 4
"""Of English text, about; only estimates use it."""
_OTHER_VALUE = 4
"""Characters for which a number, or another value without a text, counts: a prompt may be a list of tokens."""
_MEDIUM = 4096
"""Characters for which an image or a sound counts: some thousand tokens. Its bytes are no text."""
_MEDIA = frozenset({"image_url", "image_embeds", "input_audio", "audio_url", "audio_embeds", "video_url"})
"""Fields with images and sounds, in parts of messages that have the same type, and in `input_image`."""
_NO_PROMPT = frozenset({"model", "metadata", "logit_bias", "stop", "stream_options", "user"})
"""Fields of a body that servers do not show to the model."""
_CONVERSATION = frozenset({"messages", "input"})


class Api(enum.StrEnum):
    """The operations of OpenAI's API that go to a server, by their paths."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    EMBEDDINGS = "/v1/embeddings"


_COMPLETION_LIMITS: dict[Api, tuple[str, ...]] = {
    Api.CHAT: ("max_completion_tokens", "max_tokens"),
    Api.COMPLETIONS: ("max_tokens",),
    Api.RESPONSES: ("max_output_tokens",),
    Api.EMBEDDINGS: (),
}
"""Fields with the largest number of tokens of a completion. Of two, servers take either."""
_PROMPTS = {Api.COMPLETIONS: "prompt", Api.EMBEDDINGS: "input"}
"""Fields that may have several prompts."""


@dataclass(frozen=True)
class Call:
    """A request that has been read."""

    api: Api
    body: bytes
    added: bytes
    """Fields that the gateway adds to the body: `,"NAME":VALUE`, again and again."""
    model: str
    stream: bool
    wants_usage: bool
    """Whether a stream ends with its usage because the client has asked for it."""
    wants_continuous_usage: bool
    """The same for the usage in each chunk, which is vLLM's own option."""
    completions: int
    """How many completions of each prompt are asked for."""
    prompts: int
    """How many prompts the request has."""
    beginning: str
    """The first characters of the prompt."""
    prompt_estimate: int
    """Number of tokens that the prompt may have."""
    token_estimate: int
    """Number of tokens that the request may use, with those of its completions as far as it limits them."""

    @property
    def bounds(self) -> Bounds:
        """What the request can use at most."""
        return Bounds(self.prompts, self.completions)

    def body_for(self, served_model: str) -> bytes:
        """Return the body for a server. It is the client's own, byte for byte, and may have further fields at its end.

        Of a field that is there twice, the last one counts: for orjson, with which the gateway reads a body, and for
        json and pydantic, with which servers do. So a body is not written anew, which takes long for a large one.
        """
        added = self.added
        if served_model != self.model:
            added += b',"model":' + orjson.dumps(served_model)
        return self.body.rstrip(_SPACES)[:-1] + added + b"}" if added else self.body


def read_call(api: Api, body: bytes) -> Call:
    """Read the body of a request.

    What the gateway reads has the one type that OpenAI's API gives it. vLLM also takes others, and reads the text "no"
    as false and "8" as a number: the gateway would count something else than what the server does.

    Raises:
        ApiError: 400 when it is no request; the server looks at everything that the gateway does not need.
    """
    document = parse_body(body)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model")
    stream = _flag(document, "stream")
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    if api is Api.RESPONSES:
        _refuse_stored_responses(document)
    wants_usage = _flag(options or {}, "include_usage", "stream_options.")
    wants_continuous_usage = _flag(options or {}, "continuous_usage_stats", "stream_options.")
    prompt_estimate = _characters(document) // _CHARACTERS_OF_A_TOKEN + 1
    prompts, completions = _prompts(api, document), max(1, _count(document, "n"))
    wants_continuous_usage = wants_usage and wants_continuous_usage
    adds_usage = stream and api in (Api.CHAT, Api.COMPLETIONS) and not wants_continuous_usage
    return Call(
        api=api,
        body=body,
        added=_usage_field(options or {}) if adds_usage else b"",
        model=model,
        stream=stream,
        wants_usage=wants_usage,
        wants_continuous_usage=wants_continuous_usage,
        completions=completions,
        prompts=prompts,
        beginning=_beginning(_texts(document)),
        prompt_estimate=prompt_estimate,
        token_estimate=min(
            prompt_estimate + _most_completion_tokens(api, document) * completions * prompts, MOST_TOKENS
        ),
    )


def _usage_field(options: dict[str, Any]) -> bytes:
    """Return the field with which a stream states its usage, chunk by chunk.

    Otherwise nobody would know the tokens of a stream that its client leaves. What the client has not asked for is
    taken out again on the way back.
    """
    try:
        return b',"stream_options":' + orjson.dumps({**options, "include_usage": True, "continuous_usage_stats": True})
    except TypeError:
        raise ApiError(400, "stream_options is nested too deeply", param="stream_options") from None


def parse_body(body: bytes) -> dict[str, Any]:
    """Parse the body of a request.

    Raises:
        ApiError: 400 when it is no JSON object, or has too many values.
    """
    if most_values(body) > server_limits.BODY_VALUES:
        raise ApiError(400, f"the body has more than {server_limits.BODY_VALUES:,} values")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(400, "We could not parse the JSON body of your request: it is no object")
    return document


def _refuse_stored_responses(document: dict[str, Any]) -> None:
    """Refuse what needs a store of responses: servers do not have one, and it would know no tenants."""
    for field in ("background", "previous_response_id"):
        if document.get(field):
            message = f"{field} is not supported: responses are not stored. Send the whole conversation as input"
            raise ApiError(400, message, param=field, code="unsupported_parameter")


def _most_completion_tokens(api: Api, document: dict[str, Any]) -> int:
    """Return how many tokens a completion may have; 0 if the request does not say so."""
    return max((_count(document, field) for field in _COMPLETION_LIMITS[api]), default=0)


def _prompts(api: Api, document: dict[str, Any]) -> int:
    """Return how many prompts a request has. Several are a list of texts, or of lists of tokens."""
    prompts = document.get(_PROMPTS[api]) if api in _PROMPTS else None
    return len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1


def _flag(fields: dict[str, Any], name: str, place: str = "") -> bool:
    """Return a field that says yes or no; without it, it is no.

    Raises:
        ApiError: 400 when it is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{place}{name} must be true or false", param=f"{place}{name}")
    return bool(value)


def _count(document: dict[str, Any], name: str) -> int:
    """Return a field with a number of tokens or completions, at most MOST_TOKENS, which no model reaches.

    It is 0 without the field, and for a negative number, which the server refuses.

    Raises:
        ApiError: 400 when it is no whole number, or one above 64 bits.
    """
    value = document.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ApiError(400, f"{name} must be a whole number, written without quotes and decimals", param=name)
    return min(max(0, value or 0), MOST_TOKENS)


def _texts(document: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of the prompt in their order, whatever the operation calls them."""
    for field in ("instructions", "messages", "prompt", "input"):
        yield from _texts_of(document.get(field))


def _texts_of(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            if item and isinstance(item[0], int):  # tokens
                yield "".join(f"{token:4}" for token in item[:BEGINNING] if isinstance(token, int))
            else:
                stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(part for part in (item.get("text"), item.get("content")) if part is not None)


def _characters(document: dict[str, Any]) -> int:
    """Return the number of characters of everything that a server may show to the model, whatever its field is called.

    Messages are shown with their roles and calls, tools with their schemas, and what a template is told. Whatever did
    not count here could be used without being counted by those who leave before the usage is stated.
    """
    total = 0
    for field, value in document.items():
        if field in _NO_PROMPT:
            continue
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, dict | list):
            total += _characters_of(value, has_media=field in _CONVERSATION)
    return total


def _characters_of(value: dict[str, Any] | list[Any], has_media: bool) -> int:
    total = 0
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            medium = _medium(item) if has_media else None
            for name, part in item.items():
                total += len(name)
                if name == medium:
                    total += _MEDIUM
                else:
                    stack.append(part)
        else:
            total += _OTHER_VALUE
    return total


def _medium(part: dict[str, Any]) -> str | None:
    """Return the field with the image or the sound of a part of a message; None if it is another part."""
    kind = part.get("type")
    if kind == "input_image":
        return "image_url"
    return kind if isinstance(kind, str) and kind in _MEDIA else None


def _beginning(texts: Iterator[str]) -> str:
    beginning = ""
    for text in texts:
        beginning += text[: BEGINNING - len(beginning)]
        if len(beginning) == BEGINNING:
            break
    return beginning
