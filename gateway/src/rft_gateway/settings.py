"""The settings of the gateway, from its command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEDGER_VARIABLE = "RFT_GATEWAY_LEDGER"
"""Environment variable with the address of the ledger, which may contain a password."""


@dataclass(frozen=True)
class Settings:
    """What the gateway is started with."""

    routes: Path
    """The file with the models and their servers."""
    keys: Path
    """The folder with the documents of keys."""
    ledger: str
    """URL of the ledger's database."""
    host: str
    port: int
    operation_host: str
    operation_port: int | None
    """Port for metrics; None serves none."""
    answer_seconds: float
    """The longest time in which a server may send nothing."""
    drain_seconds: float
    """Time that requests have to end after SIGTERM."""
    spool: Path | None
    """The folder in which conversations for logs wait; None keeps none."""
    spool_bytes: int
    """How many bytes may wait there."""
    log_seconds: float
    """Time for which conversations are collected for one object of a log."""


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Return the settings of a command line; a wrong one ends the program with a message."""
    parser = argparse.ArgumentParser(
        prog="python -m rft_gateway", description="One OpenAI-compatible address for all models, with keys and usage."
    )
    parser.add_argument("--routes", type=Path, required=True, metavar="FILE", help="models and their servers, as JSON")
    parser.add_argument("--keys", type=Path, required=True, metavar="FOLDER", help="folder with the Secrets of keys")
    parser.add_argument(
        "--ledger",
        default=os.environ.get(LEDGER_VARIABLE),
        required=not os.environ.get(LEDGER_VARIABLE),
        metavar="URL",
        help=f"file of SQLite, or postgresql://USER@HOST/DATABASE (default: what {LEDGER_VARIABLE} says)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 is a free one (default: 8080)")
    parser.add_argument(
        "--operation-port",
        type=int,
        metavar="PORT",
        help="port for /metrics, /healthz and /readyz; without it, there are no metrics",
    )
    parser.add_argument(
        "--operation-host", default="127.0.0.1", metavar="HOST", help="address for that port (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--answer-seconds",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="longest time in which a server may send nothing (default: 600)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time that requests have to end after SIGTERM (default: 30)",
    )
    parser.add_argument(
        "--spool",
        type=Path,
        metavar="FOLDER",
        help="folder in which conversations wait until the logs of models have them",
    )
    parser.add_argument(
        "--spool-bytes",
        type=int,
        default=4 << 30,
        metavar="BYTES",
        help="how much may wait there; what does not fit is not kept (default: 4 GiB)",
    )
    parser.add_argument(
        "--log-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time for which conversations are collected for one object of a log (default: 60)",
    )
    return Settings(**vars(parser.parse_args(arguments)))
