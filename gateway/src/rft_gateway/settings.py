"""The settings of the gateway, from its command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEDGER_VARIABLE = "RFT_GATEWAY_LEDGER"
"""Environment variable with the address of the ledger, which may contain a password."""
TRACES_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's environment variables with the address that gets traces; the first one counts."""
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Settings:
    """What the gateway is started with."""

    routes: Path | None
    """The file with the models and their servers; None in a cluster."""
    keys: Path | None
    """The folder with the documents of keys; None in a cluster."""
    kubernetes: bool
    """Whether models and keys are those of a cluster."""
    namespaces: tuple[str, ...]
    """The namespaces of the cluster that count; all if there is none."""
    ledger: str
    """URL of the ledger's database."""
    host: str
    port: int
    tls_certificate: Path | None
    """Certificate of the port for clients; None for HTTP without TLS."""
    tls_key: Path | None
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
    traces: bool
    """Whether traces are sent; OpenTelemetry's environment variables say where to."""


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Return the settings of a command line; a wrong one ends the program with a message."""
    parser = argparse.ArgumentParser(
        prog="python -m rft_gateway", description="One OpenAI-compatible address for all models, with keys and usage."
    )
    parser.add_argument("--routes", type=Path, metavar="FILE", help="models and their servers, as JSON")
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="folder with the Secrets of keys")
    parser.add_argument(
        "--kubernetes",
        action="store_true",
        help="in place of --routes and --keys: InferenceEndpoints and Secrets of the cluster that KUBECONFIG or the "
        "service account of this pod leads to",
    )
    parser.add_argument(
        "--namespaces",
        type=_parse_namespaces,
        default=(),
        metavar="A,B",
        help="namespaces of the cluster whose endpoints and keys count (default: all)",
    )
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
        "--tls-certificate",
        type=Path,
        metavar="FILE",
        help="certificate of that port, in PEM; read again when it changes",
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument(
        "--operation-port",
        type=int,
        metavar="PORT",
        help="port for /metrics, /demand, /healthz and /readyz; without it, there are none of them",
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
    settings = Settings(**vars(parser.parse_args(arguments)), traces=_first_variable(TRACES_VARIABLES) is not None)
    problem = _find_problem(settings)
    if problem is not None:
        parser.error(problem)
    return settings


def _find_problem(settings: Settings) -> str | None:
    files = [settings.routes, settings.keys]
    if settings.kubernetes and any(files):
        return "--kubernetes takes the place of --routes and --keys; leave them out"
    if not settings.kubernetes and not all(files):
        return "either --kubernetes, or both --routes FILE and --keys FOLDER, must be given"
    if settings.namespaces and not settings.kubernetes:
        return "--namespaces needs --kubernetes"
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        return "--tls-certificate and --tls-key must be given together"
    return _find_problem_of_traces() if settings.traces else None


def _find_problem_of_traces() -> str | None:
    """OpenTelemetry would only log it, once for each request."""
    endpoint = _first_variable(TRACES_VARIABLES)
    if endpoint is not None and not endpoint[1].startswith(("http://", "https://")):
        return f"{endpoint[0]}: must be a URL such as http://collector:4318"
    protocol = _first_variable(_PROTOCOL_VARIABLES)
    if protocol is not None and protocol[1] != _PROTOCOL:
        return f"{protocol[0]}: must be {_PROTOCOL}; the gateway has no other one"
    return None


def _first_variable(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first of several environment variables that has a value, with it."""
    values = ((name, os.environ.get(name, "").strip()) for name in names)
    return next(((name, value) for name, value in values if value), None)


def _parse_namespaces(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(map(_NAMESPACE.fullmatch, names)):
        raise argparse.ArgumentTypeError("must be names of namespaces with commas between them, such as team-a,team-b")
    return names
