"""Dashboards."""


def build_dashboards() -> dict[str, str]:
    """None yet."""
    return {}
