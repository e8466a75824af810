"""What `rft serve` serves of a run: the tuned model, and its base where the tuned one is an adapter."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rft_api import vllm_server
from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_json
from rft_api.gateway_routes import Route
from rft_api.hub_address import HubAddress, parse_hub_address
from rft_api.model_files import MAXIMUM_CONFIGURATION
from rft_api.run_folder import RunFolder
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig
from rft_cli.report import read_model

NAMESPACE = "default"
"""Namespace of the models and the key: that of keys which `rft keys create --folder` makes."""
ADAPTER_CONFIGURATION = "adapter_config.json"
_REVISION = "revision"
"""Key of the provenance of a model on the hub."""


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

    def arguments(self) -> list[str]:
        """Return the arguments of vLLM that follow from the adapter, and have no media fetched."""
        arguments = vllm_server.media_arguments(())
        if self.adapter is None:
            return arguments
        module = {"name": self.tuned, "path": str(self.adapter.folder), "base_model_name": self.base}
        rank = str(self.adapter.rank)
        return [
            *arguments,
            "--enable-lora", "--max-loras", "1", "--max-lora-rank", rank, "--lora-modules", json.dumps(module),
        ]  # fmt: skip

    def routes(self, server: str, logs: ConversationLogs | None) -> list[Route]:
        """Return the models for the gateway.

        Args:
            server: address of the server.
            logs: where conversations are kept.
        """
        return [
            Route(namespace=NAMESPACE, model=name, base=self.base, served_model=name, servers=[server], logs=logs)
            for name in self.names
        ]


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
