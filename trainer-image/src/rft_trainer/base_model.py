"""Finds and fetches the base model: a local folder, or a model on the Hugging Face hub at a fixed commit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_document
from rft_api.hub_address import SHAPE, HubAddress, parse_hub_address
from rft_api.progress import Report
from rft_api.run_folder import RunFolder
from rft_api.storage_error import StorageError
from rft_api.summary import Provenance
from rft_api.system_errors import NOT_WRITABLE
from rft_api.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

REPOSITORY, REVISION = "repository", "revision"
"""Keys of the provenance for a model on the hub; for a folder, the keys are its files and the values their digests."""


@dataclass(frozen=True)
class BaseModel:
    """The model that a run begins with."""

    name: str
    """The folder, or OWNER/NAME of a model on the hub."""
    commit: str | None
    """The commit of a model on the hub; None for a folder."""
    folder: str
    """The folder with its files on this machine."""


def hub_address(model: str) -> HubAddress | None:
    """Return the address of a model on the hub; None when `model` names a folder.

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
    """Return the commit of a hub model for the whole run, also if its branch moves; check a folder and return None.

    A resumed run uses the commit in its provenance, and so keeps its base model.

    Raises:
        RunError: MODEL_INVALID when the model does not exist or must not be read, STORAGE_UNREACHABLE when the hub
            does not answer and this machine has no copy.
    """
    address = hub_address(config.model)
    if address is None:
        check_model_folder(config.model)
        return None
    provenance = RunFolder(config.output).provenance
    if provenance.exists():
        pinned = read_document(provenance, Provenance).model.get(REVISION)
        if pinned is not None:
            return pinned
    # The import is slow, and most runs on one machine have their model in a folder.
    from rft_api.hub import HubModel

    model = HubModel(address)
    try:
        return model.commit()
    except StorageError as error:
        copy = None if error.permanent else model.cached_folder()
        if copy is None:
            raise _run_error(error) from error
        log.warning("%s; using commit %s from this machine's cache", error, copy.name)
        return copy.name


def local_base_model(config: TrainerConfig, commit: str | None) -> BaseModel:
    """Return the base model on this machine; call it after `fetch_base_model` for a model on the hub.

    Raises:
        RunError: STORAGE_UNREACHABLE when the model is no longer in this machine's cache.
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
    """Fetch the missing files of a hub model into this machine's cache.

    Args:
        config: the run's configuration.
        commit: the commit that the run uses.
        report: called with the number of bytes in the cache, and the number of all bytes.

    Raises:
        RunError: MODEL_INVALID when the address holds no usable model, STORAGE_UNREACHABLE when the hub does not
            answer, OUTPUT_FAILED when the disk is full or not writable.
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
        if copy is None or not _is_complete(str(address), copy):
            raise _run_error(error) from error
        log.warning("%s; using the copy in this machine's cache", error)
        return
    try:
        others, weights = choose_files(str(address), files)
        folder = {model.fetch(name).parent for name in others}.pop()
        weights = indexed_weights(str(address), folder, weights)
        total, fetched = sum(files[name] for name in weights), 0
        log.info("fetching %s at commit %s: %.0f MB", address, commit, total / 1e6)
        for name in weights:
            start = fetched

            def count(size: int) -> None:
                nonlocal fetched
                fetched += size
                report(fetched, total)

            model.fetch(name, on_bytes=count)
            # Bytes of the file that were in the cache before have not been counted.
            fetched = start + files[name]
            report(fetched, total)
        _record_commit(address, folder)
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
    """Refuse a model's folder that lacks its configuration or safetensors, without reading its weights.

    Raises:
        RunError: MODEL_INVALID.
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


def _record_commit(address: HubAddress, folder: Path) -> None:
    """Record the commit of a branch or tag in the cache, as the hub's library does, for times without the hub."""
    reference = folder.parents[1] / "refs" / (address.revision or "main")
    if address.revision != folder.name and not reference.exists():
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(folder.name, encoding="ascii")


def _is_complete(uri: str, folder: Path) -> bool:
    from rft_api.model_files import choose_files, indexed_weights

    try:
        _, weights = choose_files(uri, [path.name for path in folder.iterdir()])
        indexed_weights(uri, folder, weights)
    except StorageError:
        return False
    return True


def _run_error(error: StorageError) -> RunError:
    return RunError(ExitCode.MODEL_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE, str(error))
