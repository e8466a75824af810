"""The modules of the base model that adapters attach to."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_loader.problems import Problem
from rft_loader.tensors import Tensor, read_tensors

log = logging.getLogger(__name__)

Shape = tuple[int, int]
"""Outputs and inputs of a linear module."""


@dataclass(frozen=True)
class BaseModel:
    """What the base model's files say about its modules."""

    modules: Mapping[str, Shape | None]
    """By name; without a shape where the files hold another form of it, such as a quantized one."""
    nested: bool = False
    """Whether it is a text model inside another one (images, sound): programs name its modules differently then."""

    def find(self, module: str) -> list[Shape | None]:
        """The shapes that a module of this name has; empty when there is no such module."""
        if module in self.modules:
            return [self.modules[module]]
        if module == "lm_head" and "model.embed_tokens" in self.modules:
            return [self.modules["model.embed_tokens"]]  # tied
        for end in _endings(module):
            # Files that were saved without the head lack the outer names.
            if end in self.modules:
                return [self.modules[end]]
        before, experts, _ = module.partition(".experts")
        if experts and any(name.startswith(f"{before}.experts") for name in self.modules):
            return [None]  # experts are stored one by one or stacked
        if self.nested:
            tail = _from_layer(module)
            return [shape for name, shape in self.modules.items() if _from_layer(name) == tail]
        return []


def read_base_model(folder: Path) -> BaseModel | None:
    """The modules of the model in a folder; none, with a line in the log, when its files do not tell."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= read_tensors(path)
    except (OSError, ValueError, Problem) as error:
        log.warning("adapters are not compared with the base model: %s: %s", folder, error)
        return None
    if not tensors:
        log.warning("adapters are not compared with the base model: %s holds no *.safetensors", folder)
        return None
    return BaseModel(_modules(tensors, "quantization_config" in config), "text_config" in config)


def _modules(tensors: Mapping[str, Tensor], quantized: bool) -> dict[str, Shape | None]:
    modules: dict[str, Shape | None] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(tensor.shape) == 2 and not quantized:
            modules[module] = (tensor.shape[0], tensor.shape[1])
        elif kind != "weight" or len(tensor.shape) > 1:
            # Not the weights of norms: adapters cannot attach to them.
            modules.setdefault(module, None)
    return modules


def _endings(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[start:]) for start in range(1, len(parts) - 1)]


def _from_layer(module: str) -> str:
    """The name from the list of layers on: `layers.3.mlp.up_proj`; its last part where there is no layer."""
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[max(numbers[0] - 1, 0) :] if numbers else parts[-1:])
