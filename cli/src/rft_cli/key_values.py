"""Reads the values of `rft keys create`: amounts such as 1.5M, and end dates such as 30d."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.gateway_key import MAXIMUM_LIMIT, parse_time

_AMOUNT = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([kMG]?)")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_LENGTH = re.compile("([0-9]{1,6})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_amount(option: str, text: str) -> int:
    """Return the number that an option has.

    Raises:
        RunError: CONFIGURATION_INVALID when it is no whole number of at least 1.
    """
    match = _AMOUNT.fullmatch(text)
    value = Decimal(match[1]) * _FACTORS[match[2]] if match else Decimal(0)
    if value != int(value) or not 1 <= value <= MAXIMUM_LIMIT:
        raise _invalid(option, "must be a whole number of at least 1, such as 60, 100k or 1.5M", text)
    return int(value)


def parse_end(option: str, text: str, now: datetime) -> datetime:
    """Return the time that an option has: a length of time from now on, a timestamp, or a date, which begins in UTC.

    Raises:
        RunError: CONFIGURATION_INVALID when it is none, or not in the future.
    """
    try:
        if match := _LENGTH.fullmatch(text):
            end = (now + int(match[1]) * _UNITS[match[2]]).replace(microsecond=0)
        else:
            end = parse_time(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except (ValueError, OverflowError):
        message = "must be a length of time such as 12h, 30d or 8w, or a time such as 2027-01-31T12:00:00Z"
        raise _invalid(option, message, text) from None
    if end <= now:
        raise _invalid(option, "must be in the future", text)
    return end.astimezone(UTC)


def _invalid(option: str, message: str, text: str) -> RunError:
    return RunError(ExitCode.CONFIGURATION_INVALID, f"{option}: {message}, and is {one_line(text, 60)!r}")
