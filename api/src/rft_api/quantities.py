"""Numbers as Kubernetes manifests write them (decimal strings, durations, quantities) and rules that bound them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from rft_api.model import Json, Rule, camel

DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
SIGNED_DECIMAL_PATTERN = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

_SUFFIXES = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bounded(schema: core_schema.CoreSchema, holds: Callable[[Any], bool], message: str) -> core_schema.CoreSchema:
    """Return a schema whose values must also be within bounds.

    A value that has the wrong form as well, such as a number without quotes, is refused with both in one message, so
    that users do not correct one and are then told the other.
    """

    def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            valid = inner(value)
        except ValidationError as error:
            if _is_number(value) and not holds(value):
                form = error.errors()[0]["msg"]
                raise PydanticCustomError("range", "{form}; it {message}", {"form": form, "message": message}) from None
            raise
        if not holds(valid):
            raise PydanticCustomError("range", "{message}", {"message": message})
        return valid

    return core_schema.no_info_wrap_validator_function(check, schema)


def _string(pattern: str, example: str, numbers: Callable[[int | float], str] | None = None) -> BeforeValidator:
    """Return a check that a value is a string of a form.

    Args:
        pattern: the form, as a regular expression.
        example: strings of the form, for the message.
        numbers: what to say about a number; by default, how to write it as a string, if that would have the form.
    """
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if _is_number(value):
            # Kubernetes' API conventions: floating-point numbers do not survive a round trip, so rates are strings.
            if numbers is not None:
                raise PydanticCustomError("number", "{message}", {"message": numbers(value)})
            if compiled.fullmatch(str(value)):
                raise PydanticCustomError("number", 'must be a string: write "{value}", in quotes', {"value": value})
        if not isinstance(value, str) or not value or not compiled.fullmatch(value):
            raise PydanticCustomError("format", "must look like {example}", {"example": example})
        return value

    return BeforeValidator(check)


_DURATIONS = '"30s", "10m" or "1h30m"'


def _without_unit(number: int | float) -> str:
    if isinstance(number, int) and number > 0:
        return f"needs a unit: write {number}s, {number}m or {number}h"
    return f"must be a length of time with a unit: {_DURATIONS}"


Integer = Annotated[int, Field(strict=True)]
"""An integer. Numbers in quotes and booleans are refused, as by the API server."""

Boolean = Annotated[bool, Field(strict=True)]
"""A boolean. Texts such as "yes" are refused, as by the API server."""

DecimalString = Annotated[
    str,
    Field(max_length=32, json_schema_extra={"pattern": DECIMAL_PATTERN}),
    _string(DECIMAL_PATTERN, '"0.5" or "1e-5"'),
]
"""A non-negative decimal number in quotes, such as "0.7" or "1e-5"."""

SignedDecimalString = Annotated[
    str,
    Field(max_length=32, json_schema_extra={"pattern": SIGNED_DECIMAL_PATTERN}),
    _string(SIGNED_DECIMAL_PATTERN, '"-0.5" or "0.5"'),
]
"""A decimal number in quotes that may be negative, as rewards can be, such as "-0.25"."""


def decimal_text(number: float) -> str:
    """Return a number as manifests write it, in its shortest form; `decimal_text(1e-05) == "1e-5"`."""
    return re.sub(r"\.0$|(?<=e[-+])0+", "", repr(float(number)))


class _ParsedDecimal:
    """Converts a `DecimalString` to a float when it is validated, and back to a text when it is serialized."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            float,
            handler.generate_schema(DecimalString),
            serialization=core_schema.plain_serializer_function_ser_schema(
                decimal_text, return_schema=core_schema.str_schema()
            ),
        )


Decimal = Annotated[float, _ParsedDecimal()]
"""A float, which manifests write like a `DecimalString`: in quotes, such as "0.7" or "1e-5"."""

Duration = Annotated[
    str,
    _string(DURATION_PATTERN, _DURATIONS, _without_unit),
    Field(max_length=32, json_schema_extra={"pattern": DURATION_PATTERN, "minLength": 2}),
]
"""A length of time such as 30s, 10m or 1h30m."""

Quantity = Annotated[
    str,
    _string(QUANTITY_PATTERN, '"512Mi" or "2"'),
    Field(json_schema_extra={"pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
"""An amount of a resource as Kubernetes writes it, such as 512Mi or 2."""

Name = Annotated[
    str,
    _string(NAME_PATTERN, "my-name (lower-case letters, digits and hyphens)"),
    Field(max_length=63, json_schema_extra={"pattern": NAME_PATTERN, "minLength": 1}),
]
"""A DNS label: lower-case letters, digits and hyphens, at most 63."""


def duration_seconds(duration: str) -> int:
    """Return the seconds of a `Duration`; `duration_seconds("1h30m") == 5400`."""
    match = re.match(DURATION_PATTERN, duration)
    if not match or not duration:
        raise ValueError(f"{duration!r} is not a duration such as 10m")
    hours, minutes, seconds = (int(part[:-1]) if part else 0 for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def quantity_value(quantity: str) -> float:
    """Return the number that a `Quantity` stands for; `quantity_value("512Mi") == 536870912`."""
    if not re.match(QUANTITY_PATTERN, quantity):
        raise ValueError(f"{quantity!r} is not a quantity such as 512Mi")
    digits = quantity.rstrip("mkMGTPi")
    return float(digits) * _SUFFIXES[quantity[len(digits) :]]


@dataclass(frozen=True)
class Between:
    """Bounds of a decimal number, used as `Annotated[Decimal, Between("0", "1")]`; checked here and by CEL."""

    low: str
    high: str
    low_included: bool = True
    high_included: bool = True

    @property
    def message(self) -> str:
        """Message for values outside the bounds."""
        if self.low_included and self.high_included:
            return f"must be from {self.low} to {self.high}"
        low = "at least" if self.low_included else "above"
        high = "at most" if self.high_included else "below"
        return f"must be {low} {self.low} and {high} {self.high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def holds(value: str | float) -> bool:
            # Exponents beyond those of a double would be 0 or infinity to the trainer: floats say so here, too.
            number = float(value)
            above = number >= float(self.low) if self.low_included else number > float(self.low)
            return above and (number <= float(self.high) if self.high_included else number < float(self.high))

        return _bounded(handler(source), holds, self.message)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        above, below = ">=" if self.low_included else ">", "<=" if self.high_included else "<"
        cel = f"double(self) {above} double('{self.low}') && double(self) {below} double('{self.high}')"
        return {**handler(schema), "x-kubernetes-validations": [{"rule": cel, "message": self.message}]}


@dataclass(frozen=True)
class AtLeast:
    """A minimum, used as `Annotated[Duration, AtLeast("1s")]` or `Annotated[Quantity, AtLeast("16Mi")]`."""

    least: str

    @property
    def message(self) -> str:
        """Message for a smaller value."""
        return f"must be at least {self.least}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        size = duration_seconds if self._is_duration else quantity_value

        def holds(value: str | float) -> bool:
            if isinstance(value, str):
                return size(value) >= size(self.least)
            # What a number without a unit stands for is not known; only that it is too short unless it is positive.
            return value > 0 if self._is_duration else value >= size(self.least)

        return _bounded(handler(source), holds, self.message)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if self._is_duration:
            cel = f"duration(self) >= duration('{self.least}')"
        else:
            cel = f"quantity(self).compareTo(quantity('{self.least}')) >= 0"
        return {**handler(schema), "x-kubernetes-validations": [{"rule": cel, "message": self.message}]}

    @property
    def _is_duration(self) -> bool:
        return re.fullmatch(DURATION_PATTERN, self.least) is not None


def exactly_one_of(*fields: str) -> Rule:
    """Return the rule that exactly one of the optional fields is set."""
    names = [camel(field).rstrip("_") for field in fields]
    return Rule(
        cel=" + ".join(f"(has(self.{cel_name(name)}) ? 1 : 0)" for name in names) + " == 1",
        message=f"set exactly one of {', '.join(names)}",
        holds=lambda model: sum(getattr(model, field) is not None for field in fields) == 1,
    )


def at_most_one_of(first: str, second: str) -> Rule:
    """Return the rule that two optional fields are not set both."""
    names = camel(first), camel(second)
    return Rule(
        cel=" || ".join(f"!has(self.{name})" for name in names),
        message=f"set at most one of {', '.join(names)}",
        holds=lambda model: getattr(model, first) is None or getattr(model, second) is None,
    )


# Identifiers that CEL reserves; Kubernetes escapes them as __name__ in rules (API concepts, "CEL: escaping").
_CEL_RESERVED = {"as", "break", "const", "else", "for", "function", "if", "import", "in", "let", "loop", "var"}


def cel_name(name: str) -> str:
    """Return a property's name inside a CEL rule."""
    return f"__{name}__" if name in _CEL_RESERVED else name
