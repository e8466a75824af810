"""The base model: a folder of this machine, or a model on the Hugging Face hub at one commit for the whole run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rft_api.exit_codes import ExitCode, RunError
from rft_api.hub_address import SHAPE, HubAddress, parse_hub_address
from rft_api.progress import Report
from rft_api.run_folder import RunFolder
from rft_api.storage_error import StorageError
from rft_api.summary import Provenance
from rft_api.system_errors import NOT_WRITABLE
from rft_api.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

REPOSITORY, REVISION = "repository", "revision"
"""Keys of a hub model in a run's provenance, where a folder has the digests of its files."""


@dataclass(frozen=True)
class BaseModel:
    """The model that a run begins with."""

    name: str
    """Folder, or OWNER/NAME on the hub."""
    commit: str | None
    """Commit of a model on the hub."""
    folder: str
    """Where its files are on this machine."""


def hub_address(model: str) -> HubAddress | None:
    """Return the model on the hub that a configuration names; None when it names a folder.

    Raises:
        RunError: MODEL_INVALID when it is neither.
    """
    path = Path(model)
    if path.is_absolute() or path.exists() or model.startswith("."):
        return None
    address = parse_hub_address(model)
    if address is None:
        raise RunError(ExitCode.MODEL_INVALID, f"model {model}: no such folder, and not of the form {SHAPE}")
    return address


def pin_base_model(config: TrainerConfig) -> str | None:
    """Return the commit that the run uses, whatever becomes of its branch; None for a folder, which is checked.

    It is that of the run's provenance where there is one: a run that goes on keeps its base model.

    Raises:
        RunError: MODEL_INVALID when there is no such model or it may not be read, STORAGE_UNREACHABLE when the hub
            does not answer and this machine has no copy.
    """
    address = hub_address(config.model)
    if address is None:
        check_model_folder(config.model)
        return None
    provenance = RunFolder(config.output).provenance
    if provenance.exists():
        pinned = Provenance.model_validate_json(provenance.read_text(encoding="utf-8")).model.get(REVISION)
        if pinned is not None:
            return pinned
    # Slow to import, and most runs on one machine have their model in a folder.
    from rft_api.hub import HubModel

    model = HubModel(address)
    try:
        return model.commit()
    except StorageError as error:
        copy = None if error.permanent else model.cached_folder()
        if copy is None:
            raise _run_error(error) from error
        log.warning("%s; commit %s in this machine's cache is taken", error, copy.name)
        return copy.name


def local_base_model(config: TrainerConfig, commit: str | None) -> BaseModel:
    """Return the base model as it is on this machine, after `fetch_base_model` where it is one of the hub.

    Raises:
        RunError: STORAGE_UNREACHABLE when this machine's cache has lost it.
    """
    address = hub_address(config.model)
    if address is None or commit is None:
        return BaseModel(config.model, None, config.model)
    from rft_api.hub import HubModel

    folder = HubModel(HubAddress(address.repository, commit)).cached_folder()
    if folder is None:
        raise RunError(
            ExitCode.STORAGE_UNREACHABLE, f"{address}: is no longer in this machine's cache of the hub; start again"
        )
    return BaseModel(address.repository, commit, str(folder))


def fetch_base_model(config: TrainerConfig, commit: str, report: Report) -> None:
    """Fetch what is missing of a hub model into this machine's cache.

    Args:
        config: the run's configuration.
        commit: the commit that the run uses.
        report: called with the bytes that are there, and all.

    Raises:
        RunError: MODEL_INVALID for what is no model, STORAGE_UNREACHABLE when the hub does not answer, OUTPUT_FAILED
            when there is no room for it.
    """
    from rft_api.hub import HubModel
    from rft_api.model_files import choose_files, indexed_weights

    address = hub_address(config.model)
    assert address is not None
    model = HubModel(HubAddress(address.repository, commit))
    try:
        files = {file.name: file.size for file in model.files() if "/" not in file.name}
    except StorageError as error:
        copy = None if error.permanent else model.cached_folder()
        if copy is None or not _is_whole(str(address), copy):
            raise _run_error(error) from error
        log.warning("%s; the copy in this machine's cache is taken", error)
        return
    try:
        others, weights = choose_files(str(address), files)
        folder = {model.fetch(name).parent for name in others}.pop()
        weights = indexed_weights(str(address), folder, weights)
        total, done = sum(files[name] for name in weights), 0
        log.info("fetching %s at commit %s: %.0f MB", address, commit, total / 1e6)
        for name in weights:
            begun = done

            def count(more: int) -> None:
                nonlocal done
                done += more
                report(done, total)

            model.fetch(name, on_bytes=count)
            # Of a file that was there, in part or whole, fewer bytes come.
            done = begun + files[name]
            report(done, total)
        _remember(address, folder)
    except StorageError as error:
        raise _run_error(error) from error
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        from huggingface_hub import constants

        raise RunError(
            ExitCode.OUTPUT_FAILED,
            f"{address}: cannot be kept in {constants.HF_HUB_CACHE}: {NOT_WRITABLE[error.errno]}, or set HF_HOME to a "
            f"folder of another disk",
        ) from error


def check_model_folder(model: str) -> None:
    """Find what is wrong with a model's folder without reading its weights.

    Raises:
        RunError: MODEL_INVALID unless it is a folder with configuration and safetensors.
    """
    path = Path(model)
    if not path.is_dir():
        raise RunError(
            ExitCode.MODEL_INVALID, f"model {model}: {'not a folder' if path.exists() else 'no such folder'}"
        )
    if not (path / "config.json").is_file():
        raise RunError(ExitCode.MODEL_INVALID, f"model {model}: holds no config.json, so it is not a model")
    if not any(path.glob("*.safetensors")):
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"model {model}: holds no *.safetensors; convert its weights (pickle files are not loaded)",
        )


def _remember(address: HubAddress, folder: Path) -> None:
    """Leave in the cache, as the hub's library does, which commit a branch or tag had, for when the hub is away."""
    reference = folder.parents[1] / "refs" / (address.revision or "main")
    if address.revision != folder.name and not reference.exists():
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(folder.name, encoding="ascii")


def _is_whole(uri: str, folder: Path) -> bool:
    from rft_api.model_files import choose_files, indexed_weights

    try:
        _, weights = choose_files(uri, [path.name for path in folder.iterdir()])
        indexed_weights(uri, folder, weights)
    except StorageError:
        return False
    return True


def _run_error(error: StorageError) -> RunError:
    return RunError(ExitCode.MODEL_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE, str(error))
