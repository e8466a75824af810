"""The command line of the reward server: reads the arguments and the manifest, binds the address, and serves."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import sys
from pathlib import Path

from rft_api.exit_codes import ExitCode
from rft_api.foreign.logs import LineFormatter
from rft_api.ports import ListenError, listen, listener_url
from rft_api.readiness import format_address
from rft_reward.code_files import write_code
from rft_reward.configuration import ConfigurationError, load_function, scoring_settings
from rft_reward.packages import package_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the server, and return its exit code: CONFIGURATION_INVALID if the user has to correct something."""
    parser = argparse.ArgumentParser(prog="python -m rft_reward", description="Scores completions over HTTP.")
    parser.add_argument("--function", type=Path, required=True, help="RewardFunction manifest, as YAML or JSON")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 is a free one (default: 8080)")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that requests must have")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="FOLDER",
        help="folder below which `rft_reward.packages` has installed packages",
    )
    options = parser.parse_args(arguments)
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    try:
        function = load_function(options.function)
        token = _read_token(options.token_file)
        if token is None and not _is_loopback(options.host):
            raise ConfigurationError(
                f"--host {options.host}: without --token-file the server listens on loopback addresses only"
            )
        packages = package_folder(function.spec.requirements(), options.packages)
        listener = listen(options.host, options.port)
    except (ConfigurationError, ListenError) as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIGURATION_INVALID
    # These imports take time, so they come after the checks.
    import uvloop

    from rft_reward import sandbox
    from rft_reward.server import RewardServer, serve
    from rft_reward.server_folder import server_folder

    sandbox.set_dumpable(False)  # in a pod, the workers run as the same user
    sandbox.adopt_orphans()
    print(format_address(listener_url(listener)), flush=True)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with server_folder() as folder:
        code = write_code(function, folder / "code")
        settings = scoring_settings(function, folder, options.token_file, code, packages)
        serve(RewardServer(function, settings, token), listener)
    return ExitCode.SUCCEEDED


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--token-file {file}: {error}") from None
    if not token:
        raise ConfigurationError(f"--token-file {file}: is empty")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
