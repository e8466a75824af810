"""The log of conversations that `rft serve` keeps, from the options of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.redaction import pattern_problem
from rft_api.violations import violations

_SCHEME = "s3://"
_OPTIONS = {"uri": "--logs", "fraction": "--logs-fraction", "redact": "--logs-redact"}
"""The options that become the fields of a log."""


def log_of(address: str | None, fraction: str | None, redact: Sequence[str] | None) -> ConversationLogs | None:
    """Return the log that models have; None without an address. Only the fields that were given are set in it.

    Args:
        address: an address in S3, or a folder.
        fraction: share of the conversations, such as 0.1; all by default.
        redact: regular expressions whose matches are replaced.

    Raises:
        RunError: CONFIGURATION_INVALID when one of them is wrong.
    """
    if address is None:
        for option, value in (("--logs-fraction", fraction), ("--logs-redact", redact)):
            if value:
                raise RunError(ExitCode.CONFIGURATION_INVALID, f"{option} has no meaning without --logs")
        return None
    if "://" in address and not re.match(rf"{_SCHEME}[^/\s]", address):
        # As a folder, it would be one of this name, and the conversations would not be where they are looked for.
        text = f"--logs {address}: must be a folder, or s3://BUCKET/PREFIX"
        raise RunError(ExitCode.CONFIGURATION_INVALID, text)
    uri = address if address.startswith(_SCHEME) else str(Path(address).expanduser().resolve())
    fields: dict[str, object] = {"uri": uri}
    if fraction:
        fields["fraction"] = fraction
    if redact:
        fields["redact"] = {"patterns": [{"pattern": pattern} for pattern in redact]}
    try:
        logs = ConversationLogs.model_validate(fields)
    except ValidationError as error:
        first = next(violations(error, fields, ConversationLogs))
        text = f"{_OPTIONS[str(first.location[0])]}: {first.message}"
        raise RunError(ExitCode.CONFIGURATION_INVALID, text) from None
    for rule in logs.redact.patterns if logs.redact else []:
        problem = pattern_problem(rule)
        if problem:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"--logs-redact {rule.pattern}: {problem}")
    return logs
