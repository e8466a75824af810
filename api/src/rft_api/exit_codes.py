"""Exit codes of the programs, and the error that ends a run with one."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of the trainer and of the reward server; part of the contract with the operator.

    10 to 19 are permanent: starting again with the same input ends the same way. All others may pass.
    """

    SUCCEEDED = 0
    UNEXPECTED = 1
    CONFIGURATION_INVALID = 10
    DATA_INVALID = 11
    MODEL_INVALID = 12
    NOT_LEARNABLE = 13
    REWARD_FAILING = 14
    OUTPUT_INVALID = 15
    DIVERGED = 16
    OUT_OF_MEMORY = 17
    DOES_NOT_FIT = 18
    OUTPUT_FAILED = 74
    INTERRUPTED = 75
    REWARD_UNREACHABLE = 76
    STORAGE_UNREACHABLE = 77

    @property
    def reason(self) -> str:
        """The code as the reason of a condition: `ConfigurationInvalid` for `CONFIGURATION_INVALID`."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def permanent(self) -> bool:
        """Whether a restart with the same input is bound to fail again."""
        return 10 <= self.value <= 19


class RunError(Exception):
    """An error that a user can understand and correct. It ends the run with its exit code, without a traceback."""

    def __init__(self, code: ExitCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message
