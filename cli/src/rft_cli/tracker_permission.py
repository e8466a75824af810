"""What `rft track` may send, and where: the user's word on the trackers that a run's folder names.

Whoever wrote the folder has chosen the addresses in it, and the names of the variables whose values go there. So they
are the user's own only if a manifest of the user's says them, or the user agrees to them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.manifests import load_manifests
from rft_api.trackers import Tracker, distinct_trackers
from rft_api.trainer_config import TrainerConfig
from rft_cli.check import manifest_files

_PREFIXES = {"mlflow": "MLFLOW_", "wandb": "WANDB_"}
"""How the names of a tracker's variables begin."""
_CREDENTIALS = {
    "mlflow": ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    "wandb": ("WANDB_API_KEY",),
}
"""Variables that are sent when no tokenKey names another one."""
_GENERAL = (
    "ALL_PROXY", "CURL_CA_BUNDLE", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE",
    "LD_LIBRARY_PATH", "LOGNAME", "NO_PROXY", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_DATA_HOME",
)  # fmt: skip
"""Variables that a program needs to run and to reach the network, which hold no credentials of trackers or stores."""


@dataclass(frozen=True)
class PermittedTracker:
    """A tracker that the user has agreed to."""

    tracker: Tracker
    """The tracker."""
    environment: Mapping[str, str]
    """The variables of the process that sends."""


def permitted_trackers(
    config: TrainerConfig, address: str, manifests: Sequence[Path], is_agreed: bool, console: Console
) -> list[PermittedTracker]:
    """Return the trackers that a run is sent to, each of another place.

    Args:
        config: the run's `job.json`, which somebody else may have written.
        address: what the user calls the run.
        manifests: the user's own manifests, whose RFTJob of the run's name has the trackers in place of `config`.
        is_agreed: whether the user has agreed to what `config` says without being asked.
        console: where the user is asked.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: CONFIGURATION_INVALID when the user does not agree, when `config` names a variable that is no
            tracker's, or when a variable is not there; OUTPUT_INVALID when there are no trackers.
    """
    trackers = distinct_trackers(_own_trackers(config.name, manifests) if manifests else config.trackers)
    if not trackers:
        place = f"RFTJob {config.name}" if manifests else address
        raise RunError(ExitCode.OUTPUT_INVALID, f"{place}: this run has no trackers (spec.trackers)")
    if manifests:
        permitted = [PermittedTracker(tracker, os.environ) for tracker in trackers]
    else:
        permitted = [PermittedTracker(tracker, _environment(tracker, address)) for tracker in trackers]
    for each in permitted:
        key = _token_key(each.tracker)
        if key is not None and not each.environment.get(key):
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.trackers: {_shown(each.tracker)} needs the variable {key} (tokenKey), which is not there",
            )
    if not manifests and not is_agreed:
        _ask([each for each in permitted if _is_remote(each.tracker)], address, console)
    return permitted


def _own_trackers(name: str, manifests: Sequence[Path]) -> Sequence[Tracker]:
    jobs = {job.metadata.name: job for job in load_manifests(manifest_files(manifests), ("RFTJob",)).jobs}
    if name not in jobs:
        defined = ", ".join(jobs) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"there is no RFTJob {name}, which is the run's name, in the given files (defined: {defined})",
        )
    return jobs[name].spec.trackers


def _environment(tracker: Tracker, address: str) -> dict[str, str]:
    """Return the variables for the process of a tracker that the run's folder names: those of its kind, and no others.

    Raises:
        RunError: CONFIGURATION_INVALID when the tracker names another variable.
    """
    prefix, key = _PREFIXES.get(tracker.kind), _token_key(tracker)
    if key is not None and prefix is not None and not key.startswith(prefix):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{address}: job.json has {_shown(tracker)} be sent the value of the variable {key}, and a run's folder "
            f"may only name variables that begin with {prefix}; nothing was sent. If that is what you want, your own "
            "manifest has to name it: --manifest JOB.yaml",
        )
    general = {*_GENERAL, *(name.lower() for name in _GENERAL)}
    return {
        name: value
        for name, value in os.environ.items()
        if name in general or (prefix is not None and name.startswith(prefix))
    }


def _ask(permitted: Sequence[PermittedTracker], address: str, console: Console) -> None:
    """Ask the user whether a run may be sent where its folder says.

    Raises:
        RunError: CONFIGURATION_INVALID when it may not, or there is nobody to ask.
    """
    if not permitted:
        return
    lines = []
    for each in permitted:
        names = [key] if (key := _token_key(each.tracker)) else _CREDENTIALS[each.tracker.kind]
        sent = " and ".join(name for name in names if name in each.environment)
        lines.append(f"  {_shown(each.tracker)}, with {f'the value of {sent}' if sent else 'no credentials'}")
    places = "\n".join(lines)
    if not (sys.stdin.isatty() and console.is_terminal):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{address}: job.json says where this run is sent:\n{places}\nNothing was sent, because whoever wrote this "
            "folder has chosen these places, and without a terminal nobody can agree: give --yes to agree, or your own "
            "manifest, whose trackers count then (--manifest JOB.yaml)",
        )
    console.print(Text(f"job.json of {address} says where this run is sent:\n{places}"), soft_wrap=True)
    if not typer.confirm("Send it there?"):
        raise RunError(ExitCode.CONFIGURATION_INVALID, "nothing was sent")


def _is_remote(tracker: Tracker) -> bool:
    """Return whether something leaves this machine."""
    return tracker.mlflow is not None or (tracker.wandb is not None and tracker.wandb.mode == "Online")


def _token_key(tracker: Tracker) -> str | None:
    product = tracker.mlflow or tracker.wandb
    return None if product is None else product.token_key


def _shown(tracker: Tracker) -> str:
    return one_line(tracker.description)
