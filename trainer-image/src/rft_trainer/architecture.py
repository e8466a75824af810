"""What a model's architecture means for training: parts for images and sound, experts, and quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, Mxfp4Config, PretrainedConfig, PreTrainedModel

from rft_api.exit_codes import ExitCode, RunError
from rft_api.training import TrainerCompute, Tuning

_ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Names of the linear layers that choose experts."""
_DEQUANTIZED = "mxfp4"
"""The quantization of gpt-oss, which transformers undoes exactly."""


def check_architecture(model: str, config: PretrainedConfig, tuning: Tuning) -> None:
    """Refuses a model that would be trained in another way than its users are told.

    Args:
        model: the model, for messages.
        config: its config.json.
        tuning: which weights are to be trained.

    Raises:
        RunError: MODEL_INVALID with what to use instead.
    """

    def refuse(text: str) -> RunError:
        return RunError(ExitCode.MODEL_INVALID, f"model {model}: {text}")

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refuse(f"models of type {config.model_type} are no language models for text; use a text-only model")
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
    """Refuses rollouts of vLLM for a model whose weights it would not take over from the trainer after each step.

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
    """What loading a model takes besides its dtype: quantized weights that can be trained beside are dequantized."""
    return {} if _quantization(config) is None else {"quantization_config": Mxfp4Config(dequantize=True)}


def language_part(model: PreTrainedModel) -> str:
    """The name of the module that is the language model inside one that also takes images or sound; empty for others.

    Only this part is trained: prompts are texts.
    """
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def adapted_layers(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of the linear layers that an adapter is put on.

    All of the language model, without the output layer, experts, which are no linear layers but stacks of them, and the
    routers that choose among experts.
    """
    part, output = language_part(model), model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module != output and name.startswith(part)
    }
    return sorted(names - _ROUTERS)


def expert_weights(model: torch.nn.Module) -> int:
    """How many weights are those of experts, of which each token uses some."""
    return sum(
        parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name and parameter.ndim == 3
    )


def _quantization(config: PretrainedConfig) -> str | None:
    settings = getattr(config, "quantization_config", None)
    return None if settings is None else str(settings["quant_method"])
