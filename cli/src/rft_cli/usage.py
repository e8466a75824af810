"""Print what was used through the gateway, with the gateway's own program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from rft_api.exit_codes import ExitCode, RunError

_PACKAGE = "rft_gateway"


def usage(ledger: str | None, options: Mapping[str, str | None], csv: bool) -> int:
    """Run the program with the options that are not None, and return its exit code.

    Raises:
        RunError: CONFIGURATION_INVALID when the gateway is not installed.
    """
    if find_spec(_PACKAGE) is None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "rft usage needs the package rft-gateway; install it, too")
    command = [sys.executable, "-m", f"{_PACKAGE}.usage_report"]
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    command += ["--csv"] if csv else []
    command += ["--", ledger] if ledger else []
    return subprocess.run(command, check=False).returncode
