"""Reasons of the condition Ready of an InferenceEndpoint that other programs than the operator act upon."""

from __future__ import annotations

from typing import Final

from rft_api.exit_codes import ExitCode

CONFIGURATION_INVALID: Final = ExitCode.CONFIGURATION_INVALID.reason
MODEL_INVALID: Final = ExitCode.MODEL_INVALID.reason
NAME_TAKEN: Final = "NameTaken"
ADAPTER_REJECTED: Final = "AdapterRejected"
LASTING: Final = frozenset({CONFIGURATION_INVALID, MODEL_INVALID, NAME_TAKEN, ADAPTER_REJECTED})
"""Reasons that no time heals: somebody has to correct what the message says."""
