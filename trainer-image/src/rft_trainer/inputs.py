"""Fetches the inputs of a run from object stores and the hub, once for all processes of a machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rft_api.addresses import is_remote, is_stored
from rft_api.data_formats import FileFilter, file_filter
from rft_api.exit_codes import ExitCode, RunError
from rft_api.hub import fetch_dataset
from rft_api.hub_address import DATASET_SHAPE, parse_dataset_address
from rft_api.progress import Report
from rft_api.sources import Source
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_api.trainer_config import TrainerConfig
from rft_api.training import relocate

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
"""Endings of weights in formats other than safetensors, which are never loaded."""


def fetch_inputs(
    config: TrainerConfig,
    scratch: Path,
    report: Callable[[str, int, int], None] = lambda uri, copied, total: None,
) -> TrainerConfig:
    """Fetch model and data from s3://, and data from the hub; return the configuration with the paths of the copies.

    Args:
        config: the configuration with the addresses.
        scratch: the folder for the copies; copies of objects that have not changed since are not fetched again.
        report: called with an address, the number of its bytes that have been copied, and the number of all its bytes.

    Raises:
        RunError: DATA_INVALID or MODEL_INVALID when there is nothing at an address, or it may not be read;
            STORAGE_UNREACHABLE, which is retried, when the store does not answer.
    """
    # Two sources may read different files below the same address, such as different days of a log.
    copies: dict[tuple[str, FileFilter], str] = {}
    store = ObjectStore()

    def copy(uri: str, folder: str, code: ExitCode, is_read: FileFilter, split: str | None = None) -> str:
        if (uri, is_read) not in copies:
            target = scratch / folder / str(len(copies))
            copies[uri, is_read] = str(_fetch(store, uri, target, code, is_read, split, partial(report, uri)))
        return copies[uri, is_read]

    def local_data(source: Source) -> str:
        if not is_remote(source.uri):
            return source.uri
        return copy(source.uri, "data", ExitCode.DATA_INVALID, file_filter(source), source.split)

    model = config.model
    if is_stored(model):
        model = copy(model, "model", ExitCode.MODEL_INVALID, _not_pickled)
    data, warmup = relocate(config.data, config.warmup, local_data)
    return config.model_copy(update={"model": model, "data": data, "warmup": warmup})


def _not_pickled(name: str) -> bool:
    return not name.endswith(_PICKLED)


def _fetch(
    store: ObjectStore,
    uri: str,
    target: Path,
    code: ExitCode,
    is_read: FileFilter,
    split: str | None,
    report: Report,
) -> Path:
    try:
        if not is_stored(uri):
            dataset = parse_dataset_address(uri)
            if dataset is None:
                raise RunError(code, f"{uri}: must look like {DATASET_SHAPE}")
            return fetch_dataset(dataset, target, split, report)
        if not store.fetch(uri, target, is_read, report):
            raise RunError(code, f"{uri}: nothing is stored there")
    except StorageError as error:
        raise RunError(code if error.permanent else ExitCode.STORAGE_UNREACHABLE, str(error)) from error
    return target
