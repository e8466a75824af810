"""The settings of the gateway, from its command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

LEDGER_VARIABLE = "RFT_GATEWAY_LEDGER"
"""Environment variable with the address of the ledger, which may contain a password."""
TRACES_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's environment variables with the address that gets traces; the first one counts."""
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class FileSettings:
    """Where files for fine-tuning are kept, and how large they may be."""

    uri: str
    """An absolute path, or s3://BUCKET/PREFIX."""
    credentials: Path | None
    """Folder with the credentials for S3; None for those of the environment."""
    staging: Path | None
    """Folder for files on their way to S3; None for one beside the files of a folder."""
    staging_bytes: int
    """Bytes of all files on their way."""
    namespace_bytes: int
    """Bytes of all files of a namespace."""
    file_bytes: int
    """Largest size of a file."""


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
    fine_tuning: bool
    """Whether the fine-tuning API is answered."""
    traces: bool
    """Whether traces are sent; OpenTelemetry's environment variables say where to."""
    files: FileSettings | None
    """None keeps none."""


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
    parser.add_argument(
        "--fine-tuning",
        action="store_true",
        help="answer OpenAI's fine-tuning API, in namespaces that have a ConfigMap rft-fine-tuning; needs --kubernetes",
    )
    _add_files(parser)
    values = vars(parser.parse_args(arguments))
    files = FileSettings(**{field.name: values.pop(f"files_{field.name}") for field in fields(FileSettings)})
    traces = _first_variable(TRACES_VARIABLES) is not None
    settings = Settings(**values, traces=traces, files=files if files.uri else None)
    problem = _find_problem(settings) or _find_problem_of_files(files)
    if problem is not None:
        parser.error(problem)
    return settings


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--files", dest="files_uri", metavar="URI", help="folder or s3://BUCKET/PREFIX that keeps files for fine-tuning"
    )
    parser.add_argument(
        "--files-credentials",
        type=Path,
        metavar="FOLDER",
        help="folder with a file AWS_ACCESS_KEY_ID and so on for S3 (default: what the environment says)",
    )
    parser.add_argument(
        "--files-staging", type=Path, metavar="FOLDER", help="folder for files on their way to S3, which needs one"
    )
    parser.add_argument(
        "--files-staging-bytes",
        type=int,
        default=4 << 30,
        metavar="BYTES",
        help="how much may be on its way (default: 4 GiB)",
    )
    parser.add_argument(
        "--files-namespace-bytes",
        type=int,
        default=100 << 30,
        metavar="BYTES",
        help="how much a namespace may keep (default: 100 GiB)",
    )
    parser.add_argument(
        "--file-bytes",
        dest="files_file_bytes",
        type=int,
        default=1 << 30,
        metavar="BYTES",
        help="largest file (default: 1 GiB)",
    )


def _find_problem_of_files(files: FileSettings) -> str | None:
    is_s3 = bool(files.uri) and files.uri.startswith("s3://")
    if not is_s3 and (files.credentials or files.staging):
        return "--files-credentials and --files-staging are for --files s3://BUCKET/PREFIX"
    if not files.uri:
        return None
    if is_s3 and not files.uri.removeprefix("s3://").strip("/"):
        return "--files: name a bucket, such as s3://BUCKET/PREFIX"
    if is_s3 and files.staging is None:
        return "--files-staging: name a folder for files on their way to S3"
    if not is_s3 and not Path(files.uri).is_absolute():
        return "--files: must be an absolute path, or s3://BUCKET/PREFIX"
    if files.file_bytes < 1 or files.staging_bytes < 2 * files.file_bytes:
        return "--files-staging-bytes must be twice --file-bytes at least: a namespace may take half of it"
    return None


def _find_problem(settings: Settings) -> str | None:
    files = [settings.routes, settings.keys]
    if settings.kubernetes and any(files):
        return "--kubernetes takes the place of --routes and --keys; leave them out"
    if not settings.kubernetes and not all(files):
        return "either --kubernetes, or both --routes FILE and --keys FOLDER, must be given"
    if settings.namespaces and not settings.kubernetes:
        return "--namespaces needs --kubernetes"
    if settings.fine_tuning and not settings.kubernetes:
        return "--fine-tuning needs --kubernetes"
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        return "--tls-certificate and --tls-key must be given together"
    return _find_problem_of_traces() if settings.traces else None


def _find_problem_of_traces() -> str | None:
    """Return what is wrong with the settings of traces; OpenTelemetry would only log it, once for each request."""
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
