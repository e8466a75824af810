"""Decides which models can be trained and which of their layers: images and sound, experts, quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, Mxfp4Config, PretrainedConfig, PreTrainedModel

from rft_api.exit_codes import ExitCode, RunError
from rft_api.training import TrainerCompute, Tuning

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


def check_rollouts(model: PreTrainedModel, compute: TrainerCompute) -> None:
    """Refuse rollouts with vLLM for a model whose weights vLLM cannot take over from the trainer after each step.

    Raises:
        RunError: CONFIGURATION_INVALID.
    """
    if compute.rollouts.engine == "vLLM" and expert_weights(model):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            "spec.compute.rollouts.engine: vLLM does not take over the weights of a model with experts from the "
            "trainer; set Transformers",
        )


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


def adapted_layers(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of the linear layers that get an adapter.

    These are all linear layers of the language model except for the output layer and the routers. Experts are not among
    them, because they are stacks of linear layers.
    """
    part, output = language_part(model), model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module != output and name.startswith(part)
    }
    return sorted(names - _ROUTERS)


def expert_weights(model: torch.nn.Module) -> int:
    """Return the number of weights of experts; each token uses only some of the experts."""
    return sum(
        parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name and parameter.ndim == 3
    )


def _quantization(config: PretrainedConfig) -> str | None:
    settings = getattr(config, "quantization_config", None)
    return None if settings is None else str(settings["quant_method"])
