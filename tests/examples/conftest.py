"""The examples' model, prepared as a user prepares it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.smollm2 import prepare_model


@pytest.fixture(scope="session")
def model() -> Path:
    """The model folder that every example names."""
    return prepare_model()
