"""Keys of the gateway: what a token opens and how much of it, and the Secret that holds the token's digest."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import string
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from rft_api.foreign.sizes import format_size
from rft_api.foreign.text import one_line
from rft_api.model import Json, Location, Model, Violation, camel, format_location
from rft_api.resource import Metadata
from rft_api.violations import violations

KEY_LABEL: Final = "rft.dev/gateway-key"
"""Label of Secrets that hold a key; its value is "true"."""
MAXIMUM_LIMIT: Final = 10**15
"""Largest value of a limit."""

MOST_MODELS: Final = 1000
"""Names of models that a key opens, at most; without names it opens all models of its namespace."""
LONGEST_VALUE: Final = 64 << 10
"""Bytes of a value of a key's Secret: 1,000 names of the length that Kubernetes gives most objects."""

_PREFIX = "rft-"
_ALPHABET = string.digits + string.ascii_letters
_LENGTH = 43
"""Characters of a token behind its prefix: 62**43 is above 2**256."""
_TOKEN = re.compile(f"{_PREFIX}[0-9A-Za-z]{{{_LENGTH}}}")
_DIGEST = re.compile("[0-9a-f]{64}")
_SECRET_FIELDS = ("apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData")
"""Fields of a Secret. An end date or limit beside them would be ignored, so that the key would open too much."""
_MOST_FIELDS = 64
"""Fields of a mapping of a key's Secret: a key has ten. A Secret may have 100,000, whose faults are not named one by
one."""
_LONGEST_BASE64 = LONGEST_VALUE * 3 // 2
"""Characters of a value in base64, with line ends."""
_COUNT = re.compile("[1-9][0-9]{0,15}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
_MODEL = re.compile(r"[!-+\--~]{1,256}")
"""The name of a model: visible characters of ASCII, without the comma that separates names."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key may use; None is without a limit."""

    requests_per_minute: int | None = None
    """Requests in any 60 seconds."""
    tokens_per_minute: int | None = None
    """Tokens in any 60 seconds, of prompts and completions together."""
    tokens_per_day: int | None = None
    """Tokens from midnight to midnight (UTC)."""
    tokens_per_month: int | None = None
    """Tokens of a calendar month (UTC)."""
    parallel_requests: int | None = None
    """Requests at the same time."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key: what its token opens, until when, and how much of it."""

    name: str
    """Name, under which usage is recorded; unique in its namespace."""
    namespace: str
    """Namespace whose models it opens."""
    digest: str
    """SHA-256 of the token, in hexadecimal digits."""
    models: tuple[str, ...] = ()
    """Names of the models that it opens; empty for all models of the namespace."""
    expires: datetime | None = None
    """Time from which on it opens nothing, with its time zone."""
    limits: Limits = Limits()
    """How much it may use."""


class InvalidKey(ValueError):
    """A document is not the Secret of a key; the message names the field of each problem."""


def make_token() -> str:
    """Return a new token: 256 bits of the system's randomness."""
    return _PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def token_digest(token: str) -> str:
    """Return the digest of a token. A token has 256 random bits, so that a fast hash cannot be reversed."""
    return hashlib.sha256(token.encode()).hexdigest()


def parse_time(text: str) -> datetime:
    """Parse a timestamp with its time zone, such as 2027-01-31T12:00:00Z.

    Raises:
        ValueError: when it is none; the message follows the name of the field.
    """
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # such as the 31st of February
    raise ValueError("must be a timestamp such as 2027-01-31T12:00:00Z")


def parse_models(text: str) -> tuple[str, ...]:
    """Parse names of models, which commas separate.

    Raises:
        ValueError: when it has no name, too many, or something that is none; the message follows the name of the field.
    """
    if text.count(",") >= MOST_MODELS:
        raise ValueError(
            f"names more than {MOST_MODELS:,} models: share them among several keys, or leave the field out to open "
            "all models of the namespace"
        )
    names = [name.strip() for name in text.split(",")]
    if not any(names):
        raise ValueError("names no model; leave the field out to open all models of the namespace")
    if not all(map(_MODEL.fullmatch, names)):
        raise ValueError("must be names of models with commas between them, such as tax,tax-v2")
    return tuple(dict.fromkeys(names))


def _checked(error: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(error, "{message}", {"message": message})


def _count(text: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) > MAXIMUM_LIMIT:
        raise _checked("count", 'must be a whole number of at least 1 in digits, such as "1000000"')
    return int(text)


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise _checked(
            "digest", "must be the SHA-256 of a token in 64 hexadecimal digits, as rft keys create writes it"
        )
    return text


def _expires(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise _checked("time", str(error)) from None


def _models(text: str) -> tuple[str, ...]:
    try:
        return parse_models(text)
    except ValueError as error:
        raise _checked("models", str(error)) from None


_Count = Annotated[int, BeforeValidator(_count)]


class KeyData(Model):
    """The data of a key's Secret. All values of a Secret are texts. No message shows them: one may be a token."""

    digest: Annotated[str, AfterValidator(_digest)]
    """SHA-256 of the token, in 64 hexadecimal digits. The token itself is stored nowhere."""
    models: Annotated[tuple[str, ...] | None, BeforeValidator(_models)] = None
    """Names of the models that the key opens, at most 1,000, with commas between them. Without this field, it opens all
    models of its namespace."""
    expires: Annotated[datetime | None, BeforeValidator(_expires)] = None
    """Timestamp from which on the key opens nothing."""
    requests_per_minute: _Count | None = None
    """Requests in any 60 seconds."""
    tokens_per_minute: _Count | None = None
    """Tokens in any 60 seconds, of prompts and completions together."""
    tokens_per_day: _Count | None = None
    """Tokens from midnight to midnight (UTC)."""
    tokens_per_month: _Count | None = None
    """Tokens of a calendar month (UTC)."""
    parallel_requests: _Count | None = None
    """Requests at the same time."""


LIMIT_FIELDS: Final = tuple(Limits.__dataclass_fields__)
"""Names of the limits in Python, which `camel` turns into those of the Secret."""


def parse_secret(document: Any) -> Key:
    """Return the key that a Secret holds.

    Raises:
        InvalidKey: when the document is no Secret of a key; nobody may be let in with it.
    """
    if not isinstance(document, dict):
        raise InvalidKey("a key is a Secret: a mapping of fields")
    # Whoever wrote it may not have wanted a key. Nothing is looked at whose size is not that of a key.
    for field, part in (("", document), *((field, document.get(field)) for field in ("data", "stringData"))):
        if isinstance(part, dict) and len(part) > _MOST_FIELDS:
            place = f"{field}: " if field else ""
            raise InvalidKey(f"{place}has {len(part):,} fields, and a key has at most {_MOST_FIELDS}")
    problems: list[Violation] = []
    if document.get("kind") != "Secret" or document.get("apiVersion") != "v1":
        problems.append(Violation("must be Secret, with apiVersion v1", ("kind",)))
    problems += [Violation("unknown field", (str(name),)) for name in document if name not in _SECRET_FIELDS]
    metadata = _metadata(document.get("metadata"), problems)
    values, origins = _values(document, problems)
    try:
        data = None if problems else KeyData.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as invalid:
        data = None
        problems += _at_origins(invalid, values, origins)
    if data is None or metadata is None:
        raise InvalidKey("; ".join(map(str, problems)))
    limits = Limits(**{field: getattr(data, field) for field in LIMIT_FIELDS})
    return Key(metadata.name, metadata.namespace, data.digest, data.models or (), data.expires, limits)


def merge_keys(keys: Iterable[tuple[str, Key]]) -> tuple[list[Key], list[str]]:
    """Return the keys that open something, and a sentence for each other one.

    The first one of a name or digest counts. A second one cannot close it.

    Args:
        keys: keys with the places that they come from, those that count first at the beginning.
    """
    merged: list[Key] = []
    errors: list[str] = []
    names: dict[tuple[str, str], str] = {}
    digests: dict[str, str] = {}
    for place, key in keys:
        name, title = (key.namespace, key.name), f"key {key.name} of namespace {key.namespace}"
        if name in names:
            errors.append(one_line(f"{place}: metadata.name: {title} is already defined in {names[name]}"))
        elif key.digest in digests:
            errors.append(one_line(f"{place}: digest: {title} has the digest of a key in {digests[key.digest]}"))
        else:
            names[name] = digests[key.digest] = place
            merged.append(key)
    return merged, errors


def secret_document(key: Key) -> Json:
    """Return the Secret of a key, for `kubectl apply` or for the folder of keys of `rft serve`."""
    limits = {camel(name): str(value) for name, value in asdict(key.limits).items() if value is not None}
    data = {"digest": key.digest}
    if key.models:
        data["models"] = ",".join(key.models)
    if key.expires is not None:
        data["expires"] = key.expires.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {KEY_LABEL: "true"}},
        "stringData": {**data, **limits},
    }


def _metadata(value: Any, problems: list[Violation]) -> Metadata | None:
    """Return the metadata of a key's Secret; else None, with the problems."""
    try:
        metadata = Metadata.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as invalid:
        for violation in violations(invalid, value, Metadata):
            problems.append(Violation(violation.message, ("metadata", *violation.location)))
        return None
    if metadata.labels.get(KEY_LABEL) != "true":
        problems.append(Violation(f'must have {KEY_LABEL}: "true"', ("metadata", "labels")))
    return metadata


def _values(document: Json, problems: list[Violation]) -> tuple[dict[str, str], dict[str, Location]]:
    """Return the values of a Secret, and where each of them stands; stringData comes before data, as in Kubernetes.

    Line ends, which shells put behind values, are no part of them.
    """
    values: dict[str, str] = {}
    origins: dict[str, Location] = {}
    for field, read in (("data", _decode), ("stringData", _check_text)):
        part = document.get(field)
        if part is None:
            continue
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            problems.append(Violation("must be a mapping of names to texts", (field,)))
            continue
        for name, value in part.items():
            origins[name] = place = (field, name)
            try:
                text = read(value)
                if len(text) > LONGEST_VALUE:
                    raise ValueError(f"is longer than {format_size(LONGEST_VALUE)}, and no value of a key is")
                values[name] = text.strip()
            except ValueError as error:
                problems.append(Violation(str(error), place))
    return values, origins


def _check_text(value: Any) -> str:
    """Return a text.

    Raises:
        ValueError: for any other value.
    """
    if not isinstance(value, str):
        raise ValueError("must be a string, as all values of a Secret: write it in quotes")
    return value


def _decode(value: Any) -> str:
    """Return the text of a value in base64; one that is too long in any case is not decoded.

    Raises:
        ValueError: when it is none.
    """
    try:
        content = _check_text(value)
        if len(content) > _LONGEST_BASE64:
            return content  # which is too long as it is
        return base64.b64decode("".join(content.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("is not text in base64; write texts into stringData") from None


def _at_origins(invalid: ValidationError, values: dict[str, str], origins: dict[str, Location]) -> Iterator[Violation]:
    for violation in violations(invalid, values, KeyData):
        name = format_location(violation.location)
        yield Violation(violation.message, origins.get(name, ("stringData", *violation.location)))
