"""Fetches what a configuration names in an object store, once for all processes of a machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rft_api.addresses import is_stored
from rft_api.run import ExitCode, RunError, SourceConfig, TrainerConfig
from rft_api.storage import ObjectStore, StorageError

log = logging.getLogger(__name__)

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
"""Other forms of the weights that model folders carry beside safetensors; never loaded."""


def fetch_inputs(config: TrainerConfig, scratch: Path) -> TrainerConfig:
    """The configuration with a local copy's path in place of every s3:// address of model and data.

    Files that are already there with the right size are not fetched again.

    Raises:
        RunError: DATA_INVALID or MODEL_INVALID when there is nothing at an address, or it may not be read;
            UNEXPECTED, which is retried, when the store cannot be reached.
    """
    fetched: dict[str, str] = {}
    store = ObjectStore()

    def local(uri: str, folder: str, code: ExitCode) -> str:
        if not is_stored(uri):
            return uri
        if uri not in fetched:
            fetched[uri] = str(_fetch(store, uri, scratch / folder / str(len(fetched)), code))
        return fetched[uri]

    def sources(given: Sequence[SourceConfig]) -> list[SourceConfig]:
        return [s.model_copy(update={"path": local(s.path, "data", ExitCode.DATA_INVALID)}) for s in given]

    data = config.data
    warmup = config.warmup
    return config.model_copy(
        update={
            "model": local(config.model, "model", ExitCode.MODEL_INVALID),
            "data": data.model_copy(
                update={
                    "train": sources(data.train),
                    "validation": sources(data.validation),
                    "test": sources(data.test),
                }
            ),
            "warmup": warmup and warmup.model_copy(update={"data": sources(warmup.data)}),
        }
    )


def _fetch(store: ObjectStore, uri: str, target: Path, code: ExitCode) -> Path:
    try:
        objects = [item for item in store.objects(uri) if not item.name.endswith(_PICKLED)]
        if not objects:
            raise RunError(code, f"{uri}: nothing is stored there")
        missing = []
        for item in objects:
            path = target / item.name if item.name else target
            if not path.is_file() or path.stat().st_size != item.size:
                missing.append(item)
        log.info("fetching %s: %d files, %.0f MB", uri, len(missing), sum(item.size for item in missing) / 1e6)
        store.download(uri, target, [item.name for item in missing])
    except StorageError as error:
        raise RunError(code if error.permanent else ExitCode.UNEXPECTED, str(error)) from error
    return target
