"""Decimals, durations and quantities as Kubernetes writes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rft_api.quantities import (
    Between,
    Decimal,
    DecimalString,
    Duration,
    Integer,
    Name,
    Quantity,
    decimal_text,
    duration_seconds,
    quantity_value,
)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("1h30m", 5400), ("2h0m5s", 7205), ("0s", 0)])
def test_durations(text, seconds):
    assert TypeAdapter(Duration).validate_python(text) == text
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "5m3h", "1.5h", "-1s", "10m ", "10m\n", "m", 10, 1.5, None])
def test_not_durations(text):
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)


def test_duration_seconds_refuses_other_texts():
    for text in ("", "abc"):
        with pytest.raises(ValueError, match="is not a duration"):
            duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("512Mi", 512 * 2**20), ("2", 2), ("0.5", 0.5), ("100m", 0.1), ("1k", 1000), ("1.5Gi", 1.5 * 2**30), ("3T", 3e12)],
)
def test_quantities(text, value):
    assert TypeAdapter(Quantity).validate_python(text) == text
    assert quantity_value(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "512MB", "Mi", "-1", "1 Gi", "1Gi\n", 2])
def test_not_quantities(text):
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(text)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_durations_add_up(hours, minutes, seconds):
    assert duration_seconds(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize("text", ["0", "1", "0.5", "1e-5", "2E+3", "10.25e2"])
def test_decimals(text):
    assert TypeAdapter(DecimalString).validate_python(text) == text


@pytest.mark.parametrize(
    "text", ["", ".5", "1.", "-1", "+1", "nan", "inf", "1e", "0x1", "1_000", " 1", "1\n", "٣", True]
)
def test_not_decimals(text):
    with pytest.raises(ValidationError):
        TypeAdapter(DecimalString).validate_python(text)


def test_numbers_without_quotes_are_refused_with_the_remedy():
    with pytest.raises(ValidationError, match=r'must be a string: write "0\.5", in quotes'):
        TypeAdapter(DecimalString).validate_python(0.5)


def test_texts_are_not_longer_than_the_schema_allows():
    with pytest.raises(ValidationError, match="at most 32 characters"):
        TypeAdapter(DecimalString).validate_python("0." + "0" * 40 + "1")


RATE = TypeAdapter(Annotated[Decimal, Between("0", "0.1", low_included=False)])
SHARE = TypeAdapter(Annotated[DecimalString, Between("0", "1")])


@pytest.mark.parametrize("text", ["0.1", "1e-5", "1e-300"])
def test_inside_the_bounds(text):
    assert RATE.validate_python(text) == float(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0.11", "1e99", "1e999999", "1e-999", "1e99999999999999999999"])
def test_outside_the_bounds(text):
    with pytest.raises(ValidationError, match=r"must be above 0 and at most 0\.1"):
        RATE.validate_python(text)


def test_a_bound_may_be_included():
    assert SHARE.validate_python("0") == "0"
    with pytest.raises(ValidationError, match="must be from 0 to 1"):
        SHARE.validate_python("1.5")


@given(st.text(max_size=12))
def test_any_text_is_taken_or_refused(text):
    for adapter in (SHARE, TypeAdapter(DecimalString), TypeAdapter(Duration), TypeAdapter(Quantity), TypeAdapter(Name)):
        with suppress(ValidationError):
            assert adapter.validate_python(text) == text


@pytest.mark.parametrize(
    ("text", "number", "shortest"),
    [("1e-5", 1e-5, "1e-5"), ("2E+3", 2000.0, "2000"), ("0.70", 0.7, "0.7"), ("1", 1.0, "1"), ("1e22", 1e22, "1e+22")],
)
def test_decimals_are_numbers_here_and_texts_in_manifests(text, number, shortest):
    adapter = TypeAdapter(Decimal)
    assert adapter.validate_python(text) == number
    assert adapter.dump_python(number, mode="json") == shortest
    assert adapter.json_schema() == TypeAdapter(DecimalString).json_schema()


@given(st.floats(min_value=0, allow_infinity=False))
def test_decimals_survive_their_text(number):
    assert TypeAdapter(Decimal).validate_python(decimal_text(number)) == number


@pytest.mark.parametrize("value", [0.5, 1, ".5", "-1", "nan", True, None])
def test_decimals_are_written_in_quotes(value):
    with pytest.raises(ValidationError):
        TypeAdapter(Decimal).validate_python(value)


@pytest.mark.parametrize("value", ["1", True, 1.5, None])
def test_not_integers(value):
    with pytest.raises(ValidationError):
        TypeAdapter(Integer).validate_python(value)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "a\n"])
def test_not_names(name):
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)
