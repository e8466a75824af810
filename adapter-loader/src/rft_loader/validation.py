"""Checks an adapter before the server loads it, because vLLM serves some broken adapters without an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rft_api.foreign.files import read_json
from rft_api.foreign.sizes import format_size
from rft_api.model import Json
from rft_loader.base_model import BaseModel, Shape
from rft_loader.problems import Problem
from rft_loader.source import SourceFile
from rft_loader.tensors import Tensor, read_tensors

CONFIGURATION = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_LARGEST_CONFIGURATION = 1 << 20
"""Largest size of adapter_config.json in bytes; PEFT writes some 1,000 and the names of the modules."""
_LARGEST_WEIGHTS = 32 << 30
"""Largest size of an adapter in bytes, which is copied to a disk that others use, too. One of rank 512 for all modules
of a model with 70 billion weights has 23 GB."""
_LARGEST_ALPHA = 65_504
"""The largest number of float16, in which a server may compute the scale."""
_SWITCHES = ("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode")
"""Fields of which vLLM takes any value but "", 0 and null as true, such as "false"."""
_DTYPES = ("F32", "F16", "BF16", "F64")
"""The dtypes in which adapters are trained. Whole numbers would be taken for weights as well."""
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?(?P<half>[AB])(?:\.weight)?")


def choose_files(uri: str, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files that an adapter consists of.

    Raises:
        Problem: when one of them is missing, or too large.
    """
    by_name = {file.name: file for file in files}
    if CONFIGURATION not in by_name:
        hint = "; it is a whole model: serve it with spec.model" if "config.json" in by_name else ""
        raise Problem(f"{uri}: is no adapter: it holds no {CONFIGURATION}{hint}")
    if WEIGHTS not in by_name:
        pickled = next((name for name in ("adapter_model.bin", "adapter_model.pt") if name in by_name), None)
        hint = f" ({pickled} is not loaded: pickle files can run code)" if pickled else ""
        raise Problem(f"{uri}: holds no {WEIGHTS}{hint}; save the adapter as safetensors")
    for name, largest in ((CONFIGURATION, _LARGEST_CONFIGURATION), (WEIGHTS, _LARGEST_WEIGHTS)):
        if by_name[name].size > largest:
            raise Problem(f"{uri}: {name} is larger than {format_size(largest)}")
    return [by_name[CONFIGURATION], by_name[WEIGHTS]]


def check_adapter(folder: Path, base: BaseModel | None, maximum_rank: int) -> None:
    """Refuse an adapter that the server cannot serve, or would serve differently from how it was trained.

    Args:
        folder: the folder of the adapter.
        base: the base model; None when its modules cannot be compared with the adapter's.
        maximum_rank: the largest rank that the server takes.

    Raises:
        Problem: for the first fault; the message names the file.
    """
    configuration = _read_configuration(folder / CONFIGURATION)
    rank = _check_configuration(configuration, maximum_rank)
    pairs = _pairs(read_tensors(folder / WEIGHTS))
    for module, halves in sorted(pairs.items()):
        _check_halves(module, halves, rank)
        if base is not None:
            _check_attachment(module, halves, base, bool(configuration.get("fan_in_fan_out")))


def _read_configuration(path: Path) -> Json:
    try:
        configuration = read_json(path, _LARGEST_CONFIGURATION)
    except OSError as error:
        raise Problem(f"{path.name}: {error.strerror}", permanent=False) from error
    except ValueError as error:
        raise Problem(f"{path.name}: {error}") from error
    if not isinstance(configuration, dict):
        raise Problem(f"{path.name}: must hold an object")
    return configuration


def _check_configuration(configuration: Json, maximum_rank: int) -> int:
    """Check the fields from which vLLM computes an adapter's scale, whose types it does not check; return the rank.

    Raises:
        Problem: for the first field that cannot be right.
    """
    rank, alpha = configuration.get("r"), configuration.get("lora_alpha", 0)
    if configuration.get("peft_type") != "LORA":
        raise Problem(f"{CONFIGURATION}: peft_type is {configuration.get('peft_type')}; only LORA is served")
    if type(rank) is not int or rank < 1:
        raise Problem(f"{CONFIGURATION}: r is {rank}; it must be the adapter's rank")
    if rank > maximum_rank:
        raise Problem(
            f"{CONFIGURATION}: rank {rank} is above the {maximum_rank} that the server takes; "
            "raise the base endpoint's serving.maxAdapterRank"
        )
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or not 0 < alpha <= _LARGEST_ALPHA:
        text = f"lora_alpha is {configuration.get('lora_alpha', 'missing')}"
        rule = f"it must be a number above 0 and at most {_LARGEST_ALPHA:,}, with which the adapter was trained"
        raise Problem(f"{CONFIGURATION}: {text}; {rule}")
    for field in _SWITCHES:
        if not isinstance(configuration.get(field) or False, bool):
            raise Problem(f"{CONFIGURATION}: {field} is {configuration[field]!r}; it must be true or false")
    for field in ("rank_pattern", "alpha_pattern"):
        if configuration.get(field):
            raise Problem(f"{CONFIGURATION}: has a {field}, which vLLM ignores; train with the same for all modules")
    return rank


def _pairs(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the matrices A and B of each module's adapter."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.endswith((".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")):
            continue  # a copy of the base model's weight, which vLLM also skips
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise Problem(f"{WEIGHTS}: tensor {name} is not served; train without bias, DoRA and modules_to_save")
        halves = pairs.setdefault(match["module"], {})
        if match["half"] in halves:
            text = f"{match['module']} has lora_{match['half']} twice, once as {name}"
            raise Problem(f"{WEIGHTS}: {text}; save the adapter again")
        halves[match["half"]] = tensor
    if not pairs:
        raise Problem(f"{WEIGHTS}: holds no tensors")
    return pairs


def _check_halves(module: str, halves: dict[str, Tensor], rank: int) -> None:
    for half in "AB":
        if half not in halves:
            raise Problem(f"{WEIGHTS}: {module} has no lora_{half}; save the adapter again")
    for half, tensor in halves.items():
        if tensor.dtype not in _DTYPES:
            text = f"lora_{half} of {module} is stored as {tensor.dtype}, not as one of {', '.join(_DTYPES)}"
            raise Problem(f"{WEIGHTS}: {text}; save the adapter again")
        # The matrices of stacked experts have more dimensions, or rank times experts in place of the rank.
        dimension = tensor.shape[0 if half == "A" else -1] if tensor.shape else 0
        is_flat = len(tensor.shape) < 2
        if is_flat or (".experts" not in module and (len(tensor.shape) != 2 or dimension != rank)):
            raise Problem(
                f"{WEIGHTS}: lora_{half} of {module} has the shape {list(tensor.shape)}, "
                f"which does not fit r: {rank} in {CONFIGURATION}"
            )


def _check_attachment(module: str, halves: dict[str, Tensor], base: BaseModel, transposed: bool) -> None:
    # An adapter on stacked experts is wrapped in another one, and called base_layer there.
    if base.ignores(module):
        raise Problem(
            f"{WEIGHTS}: {module} is a module of a text model, but the base model has its text model inside a model "
            f"for images or sound, where vLLM would not apply the adapter; train the adapter on this base model"
        )
    shapes = base.find(module.removesuffix(".base_layer"))
    if not shapes:
        raise Problem(
            f"{WEIGHTS}: the base model has no module {module}; serve the adapter on the model that it was trained on"
        )
    if None in shapes:
        return
    outputs, inputs = halves["B"].shape[0], halves["A"].shape[1]
    possible: list[Shape] = [shape for shape in shapes if shape is not None]
    # The weights of embeddings and of transposed layers are stored as inputs x outputs.
    swapped = transposed or module.endswith(("embed_tokens", "wte"))
    if (outputs, inputs) not in [shape[::-1] if swapped else shape for shape in possible]:
        expected = possible[0][::-1] if swapped else possible[0]
        raise Problem(
            f"{WEIGHTS}: {module} maps {inputs} inputs to {outputs} outputs, in the base model {expected[1]} to "
            f"{expected[0]}; serve the adapter on the model that it was trained on"
        )
