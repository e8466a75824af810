"""Decides which models can be trained and which of their layers: images and sound, experts, quantized weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, Mxfp4Config, PretrainedConfig, PreTrainedModel

from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import format_location
from rft_api.training import TrainerCompute
from rft_api.tuning import Tuning
from rft_api.vllm_models import ENGINE, NO_EXPERTS, vllm_problem
from rft_trainer.partitions import full_shape

_ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Names of the linear layers that choose experts (routers)."""
_DEQUANTIZED = "mxfp4"
"""The quantization of gpt-oss, which transformers can reverse exactly."""


def check_architecture(model: str, config: PretrainedConfig, tuning: Tuning) -> None:
    """Refuse a model that cannot be trained correctly.

    Args:
        model: the model, for messages.
        config: its config.json.
        tuning: which weights are trained.

    Raises:
        RunError: MODEL_INVALID; the message says which model to use instead.
    """

    def refuse(text: str) -> RunError:
        return RunError(ExitCode.MODEL_INVALID, f"model {model}: {text}")

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refuse(f"models of type {config.model_type} are not language models for text; use a text-only model")
    if config.get_text_config() is config and {"vision_config", "audio_config"} & set(config.sub_configs):
        raise refuse(f"models of type {config.model_type} mix parts for text and for images; use a text-only model")
    if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].config_class is not type(config):
        raise refuse(
            f"it is a model of type {config.model_type} for more than text. Only its text part would be loaded, whose "
            f"layers have other names than those of the model that is served; use a text-only model"
        )
    method = _quantization(config)
    if method is not None and method != _DEQUANTIZED:
        raise refuse(f"its weights are quantized ({method}), and cannot be trained; use the unquantized model")
    if method is not None and tuning.type == "Full":
        raise refuse(f"its weights are quantized ({method}), and cannot be saved after training; set tuning.type: LoRA")


def check_rollouts(model: PreTrainedModel, compute: TrainerCompute, tuning: Tuning) -> None:
    """Refuse rollouts with vLLM for a model whose weights vLLM cannot take over from the trainer after each step.

    Raises:
        RunError: CONFIGURATION_INVALID.
    """
    problem = vllm_problem(model.config.to_dict(), compute.rollout_engine, tuning)
    if compute.rollout_engine == "vLLM" and expert_weights(model):
        problem = NO_EXPERTS
    if problem is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{format_location(ENGINE)}: {problem}")


def loading_arguments(config: PretrainedConfig) -> dict[str, Any]:
    """Return the arguments for loading a model besides its dtype; quantized weights are dequantized."""
    return {} if _quantization(config) is None else {"quantization_config": Mxfp4Config(dequantize=True)}


def language_part(model: PreTrainedModel) -> str:
    """Return the name of the language model's module in a model for images or sound; empty for a text model.

    Only this part is trained, because prompts are texts.
    """
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def adapted_layers(model: PreTrainedModel, tuning: Tuning) -> list[str]:
    """Return the full names of the linear layers that get an adapter.

    These are all linear layers of the language model, or of its last layers, or those of the names in `targetModules`,
    except for the output layer and the routers. Experts are not among them, because they are stacks of linear layers;
    neither are layers for which peft would adapt the experts instead. Names are full because parts of them are
    ambiguous: a linear layer in a list is called `0`, as is the first of all layers.

    Raises:
        RunError: MODEL_INVALID when there is no such layer; CONFIGURATION_INVALID when there is none of a stated name.
    """
    part, output = language_part(model), model.get_output_embeddings()
    layers = model.config.get_text_config().num_hidden_layers
    first = 0 if tuning.last_layers is None else max(0, layers - tuning.last_layers)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not output
        and name.startswith(f"{part}." if part else "")
        and _last_part(name) not in _ROUTERS
        and (first == 0 or _layer_number(name) >= first)
    ]
    moved = layers_moved_to_experts(model, {_last_part(name) for name in names})
    adapted = [name for name in names if _last_part(name) not in moved]
    if not adapted:
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"a model of type {model.config.model_type} has no linear layers that an adapter can train; set "
            f"spec.tuning.type: Full, or use another model",
        )
    if tuning.target_modules is None:
        return adapted
    present = {_last_part(name) for name in adapted}
    missing = [name for name in tuning.target_modules if name not in present]
    if missing:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.tuning.targetModules: the model has no linear layers called {', '.join(missing)} that an adapter "
            f"can train; those that it has are {', '.join(sorted(present))}",
        )
    return [name for name in adapted if _last_part(name) in tuning.target_modules]


def layers_moved_to_experts(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Return those last parts of names for which peft adapts stacked experts instead of the layers with the name.

    For models whose experts were single layers in older versions of transformers, peft takes `down_proj` for the
    experts, even if shared experts and other layers have the name, too. It gives them another rank than the other
    layers, which vLLM does not support, and does not adapt the layers that were meant.
    """

    def is_moved(name: str) -> bool:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # peft says that other names would have to be adapted with it
            return True
        return name not in (config.target_modules or ())

    return {name for name in names if is_moved(name)}


def describe_adapter(model: PreTrainedModel, adapted: Sequence[str]) -> str:
    """Return a sentence about which layers an adapter trains, and which linear layers and experts it does not."""
    names = ", ".join(sorted({_last_part(name) for name in adapted}))
    text = f"the adapter trains {len(adapted)} linear layers: {names}"
    experts = expert_weights(model)
    if experts:
        share = experts / sum(full_shape(parameter).numel() for parameter in model.parameters())
        text += f"; the adapter does not train the experts, which are {100 * share:.0f} % of the weights"
    linear = {_last_part(name) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    moved = layers_moved_to_experts(model, linear - _ROUTERS)
    if moved:
        text += f", nor the linear layers {', '.join(sorted(moved))}, for which peft would adapt the experts"
    return text


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _layer_number(name: str) -> int:
    """Return the number of the layer that a module is in; -1 for a module outside of the layers."""
    match = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    return int(match[1]) if match else -1


def expert_weights(model: torch.nn.Module) -> int:
    """Return the number of weights of experts; each token uses only some of the experts."""
    shapes = [full_shape(parameter) for name, parameter in model.named_parameters() if ".experts." in name]
    return sum(shape.numel() for shape in shapes if len(shape) == 3)


def _quantization(config: PretrainedConfig) -> str | None:
    settings = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    return None if not settings else str(settings.get("quant_method", "in an unknown way"))
