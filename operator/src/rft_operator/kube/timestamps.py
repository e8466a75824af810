"""Moments and lengths of time as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def format_moment(moment: datetime) -> str:
    """`2026-01-31T12:00:00Z`; fractions of a second are dropped."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str | None) -> datetime | None:
    """The moment that Kubernetes wrote; none for none."""
    return None if text is None else datetime.fromisoformat(text)


def format_duration(seconds: float) -> str:
    """A length of time as manifests write it: `1h30m`, `45s`, `0s`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if number]
    return "".join(parts) or "0s"
