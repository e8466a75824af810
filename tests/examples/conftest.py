"""The examples' model, prepared as a user prepares it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.cache import Report
from support.smollm2 import prepare_model


@pytest.fixture(scope="session")
def model(report: Report) -> Path:
    """The model folder that every example names."""
    return prepare_model(report)
