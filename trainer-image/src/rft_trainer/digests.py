"""Computes digests of what a run is made from, and refuses to resume a run whose inputs are others now.

This module does not import torch, because inputs are compared before anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_api.data_formats import file_filter
from rft_api.exit_codes import ExitCode, RunError
from rft_api.file_digests import file_digests, files_at, listed_digest
from rft_api.foreign.files import read_document
from rft_api.model_files import choose_files
from rft_api.progress import Report, ignore_report
from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import REPOSITORY, REVISION, BaseModel, local_base_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputDigests:
    """Digests of the inputs of a run, as its provenance states them."""

    model: dict[str, str]
    """SHA-256 of each file of the base model; for one on the hub, its repository and its commit."""
    data: dict[str, str]
    """SHA-256 of each source of data, by split and name."""
    rewards: dict[str, str]
    """Digest of each reward."""


def input_digests(config: TrainerConfig, base: BaseModel, report: Report = ignore_report) -> InputDigests:
    """Read the model and the data of a run; return their digests, with those of the rewards.

    Args:
        config: the run's configuration.
        base: its base model.
        report: called with the number of bytes that have been read, and the number of all bytes.
    """
    files = {item.label: files_at(Path(item.source.uri), file_filter(item.source)) for item in config.sources()}
    model = [] if base.commit is not None else _model_files(Path(base.folder))
    digests = file_digests({*model, *(file for paths in files.values() for file in paths)}, report)
    return InputDigests(
        model={path.name: digests[path] for path in model} or {REPOSITORY: base.name, REVISION: base.commit or ""},
        data={item.label: _data_digest(Path(item.source.uri), files[item.label], digests) for item in config.sources()},
        rewards={name: target.digest for name, target in config.rewards.items()},
    )


def check_inputs(config: TrainerConfig, commit: str | None, report: Report = ignore_report) -> list[str]:
    """Refuse to resume a run if what is at the addresses of its inputs is no longer what it started with.

    Otherwise the base model and the tuned model would be compared on different prompts, or training would go on with
    another model. A finished run computes nothing more. So its result stays, and what has changed since is reported.

    Args:
        config: the run's configuration.
        commit: the commit of a base model on the hub; None for a folder.
        report: as for `input_digests`.

    Returns:
        The names of the inputs of a finished run that have changed.

    Raises:
        RunError: DATA_INVALID for changed data, MODEL_INVALID for a changed model, CONFIGURATION_INVALID for changed
            rewards; the message names every input that has changed.
    """
    changes = changed_inputs(config, commit, report)
    names = [name for _, name in changes]
    if not changes:
        return names
    listing = "\n".join(f"  {name}" for name in names)
    folder = RunFolder(config.output)
    if folder.summary.exists():
        log.warning(
            "this run is finished, and its result is of what was measured, not of what is there now. Its inputs have "
            "changed since:\n%s\nTo measure what is there now, start another run with another output.", listing
        )  # fmt: skip
        return names
    output = read_document(folder.config, TrainerConfig).output  # that of `config` may be a copy of it
    raise RunError(
        changes[0][0],
        f"the inputs of this run have changed since it started, so its results would compare different things:\n"
        f"{listing}\n"
        f"Restore what was there (provenance.json of {output} has the digests), or start another run with "
        f"another output.",
    )


def changed_inputs(
    config: TrainerConfig, commit: str | None, report: Report = ignore_report
) -> list[tuple[ExitCode, str]]:
    """Return the inputs that are no longer what the run started with: their kind as an exit code, and their name.

    Args:
        config: the run's configuration.
        commit: the commit of a base model on the hub; None for a folder.
        report: as for `input_digests`.
    """
    folder = RunFolder(config.output)
    if not folder.provenance.exists():
        return []
    recorded = read_document(folder.provenance, Provenance)
    # job.json has the addresses that the user knows, where `config` has the paths of copies.
    stated = read_document(folder.config, TrainerConfig)
    # The commit of a model on the hub is that of the provenance. Its files need not be on this machine yet.
    if commit is None:
        base = local_base_model(config, None)
    else:
        base = BaseModel(recorded.model.get(REPOSITORY, ""), commit, "")
    current = input_digests(config, base, report)
    addresses = {item.label: item.source.uri for item in stated.sources()}
    return [
        *(
            (ExitCode.DATA_INVALID, f"{addresses.get(label, label)} ({label})")
            for label in _changed(recorded.data, current.data)
        ),
        *((ExitCode.MODEL_INVALID, f"{stated.model}: {name}") for name in _changed(recorded.model, current.model)),
        *((ExitCode.CONFIGURATION_INVALID, f"reward {name}") for name in _changed(recorded.rewards, current.rewards)),
    ]


def _changed(recorded: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Return the names whose digests differ, or that only one of both has."""
    return sorted(name for name in {*recorded, *current} if recorded.get(name) != current.get(name))


def _data_digest(path: Path, files: Iterable[Path], digests: Mapping[Path, str]) -> str:
    """Return the digest of a file; for a folder, return the digest of the names and digests of its files."""
    if path.is_file():
        return digests[path]
    return listed_digest({file.relative_to(path).as_posix(): digests[file] for file in files})


def _model_files(folder: Path) -> list[Path]:
    """Return the configuration, the tokenizer and the weights of a model; other files have no effect on a run."""
    others, weights = choose_files(str(folder), [path.name for path in folder.iterdir() if path.is_file()])
    return [folder / name for name in (*others, *weights)]
