"""Timestamps and durations as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def format_timestamp(time: datetime) -> str:
    """Format a timestamp as `2026-01-31T12:00:00Z`; fractions of a second are dropped."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> datetime | None:
    """Parse a timestamp; None stays None, and so is read what is none, because others may write into a status, too.

    Kubernetes takes times without a time zone for timestamps; they are read as UTC.
    """
    try:
        time = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def format_duration(seconds: float) -> str:
    """Format a duration as manifests write it: `1h30m`, `45s`, `0s`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if number]
    return "".join(parts) or "0s"
