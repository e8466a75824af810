"""The modules of the base model that adapters attach to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_api.exact_json import parse_line
from rft_api.foreign.files import read_json
from rft_api.foreign.text import one_line
from rft_api.model_files import MAXIMUM_CONFIGURATION
from rft_loader.problems import Problem
from rft_loader.tensors import Tensor, read_tensors

log = logging.getLogger(__name__)

TEXT_NAMES_MAPPED = frozenset({"gemma3n", "gemma4", "mistral3", "qwen2_5_vl", "qwen2_vl"})
"""Types of models for images or sound in which vLLM finds the modules of a text model by their names in it, such as
`model.layers.0.mlp.up_proj` (the `hf_to_vllm_mapper` of vLLM's models)."""

Shape = tuple[int, int]
"""Numbers of outputs and inputs of a linear module."""


@dataclass(frozen=True)
class BaseModel:
    """The modules of the base model, as its files describe them."""

    modules: Mapping[str, Shape | None]
    """The shape of each module, by name; None where the files hold its weight in another form, such as quantized."""
    nested: bool = False
    """Whether it is a text model inside a model for images or sound; programs then name its modules differently."""
    maps_text_names: bool = False
    """Whether vLLM finds modules in a nested text model by the names that they have in a text model by itself."""

    def ignores(self, module: str) -> bool:
        """Return whether vLLM would load an adapter for this module, but not apply it, because of the module's name.

        So it does with adapters for a text model by itself, when it serves the text model inside another model.
        """
        is_text_name = module.startswith(("model.layers.", "layers."))
        return self.nested and not self.maps_text_names and is_text_name and module not in self.modules

    def find(self, module: str) -> list[Shape | None]:
        """Return the possible shapes of the module with this name; an empty list when there is no such module."""
        if module in self.modules:
            return [self.modules[module]]
        if module == "lm_head" and "model.embed_tokens" in self.modules:
            return [self.modules["model.embed_tokens"]]  # the output layer shares the weight of the embeddings
        for suffix in _suffixes(module):
            # The names in files that were saved without the output layer lack the outermost parts.
            if suffix in self.modules:
                return [self.modules[suffix]]
        parent, experts, _ = module.partition(".experts")
        if experts and any(name.startswith(f"{parent}.experts") for name in self.modules):
            return [None]  # the shape is unknown: files hold experts one by one or stacked
        if self.nested:
            tail = _from_layer(module)
            return [shape for name, shape in self.modules.items() if _from_layer(name) == tail]
        return []


def read_base_model(folder: Path) -> BaseModel | None:
    """Return the modules of the model in a folder; None, with a warning in the log, when its files cannot be read."""
    try:
        config = read_json(folder / "config.json", MAXIMUM_CONFIGURATION, parse_line)
        if not isinstance(config, dict):
            raise ValueError("config.json holds no object")
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= read_tensors(path)
    except (OSError, ValueError, Problem) as error:
        log.warning("adapters are not compared with the base model: %s: %s", folder, one_line(str(error)))
        return None
    if not tensors:
        log.warning("adapters are not compared with the base model: %s holds no *.safetensors", folder)
        return None
    return BaseModel(
        modules=_modules(tensors, "quantization_config" in config),
        nested="text_config" in config,
        maps_text_names=config.get("model_type") in TEXT_NAMES_MAPPED,
    )


def _modules(tensors: Mapping[str, Tensor], quantized: bool) -> dict[str, Shape | None]:
    modules: dict[str, Shape | None] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(tensor.shape) == 2 and not quantized:
            modules[module] = (tensor.shape[0], tensor.shape[1])
        elif kind != "weight" or len(tensor.shape) > 1:
            # Weights with one dimension belong to norms, to which adapters cannot attach.
            modules.setdefault(module, None)
    return modules


def _suffixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[start:]) for start in range(1, len(parts) - 1)]


def _from_layer(module: str) -> str:
    """Return a module's name from the list of layers on, such as `layers.3.mlp.up_proj`.

    For a module outside of the layers, return the last part of its name.
    """
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[max(numbers[0] - 1, 0) :] if numbers else parts[-1:])
