"""Loads the base model, adds an adapter to it, and exports the trained model or adapter, as safetensors only."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rft_api.exact_json import parse_line
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_folder
from rft_api.foreign.files import MAXIMUM_DOCUMENT, read_json
from rft_api.foreign.text import one_line
from rft_api.system_errors import may_pass
from rft_api.trainer_config import TrainerConfig
from rft_api.training import TrainerCompute
from rft_api.tuning import Tuning
from rft_trainer.architecture import (
    adapted_layers,
    check_architecture,
    check_rollouts,
    describe_adapter,
    language_part,
    loading_arguments,
)
from rft_trainer.base_model import BaseModel, check_model_folder
from rft_trainer.chat_template import NO_ARGUMENTS, Arguments, render, token_ids
from rft_trainer.data import Message
from rft_trainer.failures import first_line, is_out_of_memory, memory_for
from rft_trainer.model_checks import (
    build_skeleton,
    check_arguments,
    check_context,
    check_pad_token,
    check_template,
    check_tokenizer,
)
from rft_trainer.partitions import divided_weights, is_divided
from rft_trainer.precision import choose_dtype
from rft_trainer.progress import ProgressReporter

log = logging.getLogger(__name__)

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
)  # fmt: skip


def load_tokenizer(model: str, arguments: Arguments = NO_ARGUMENTS) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with padding on the left, as generation needs it.

    Args:
        model: the folder of the model.
        arguments: variables of the chat template that the run sets.

    Raises:
        RunError: MODEL_INVALID when it cannot be read, has no chat template, or does not fit the model;
            CONFIGURATION_INVALID when the chat template does not read an argument.
    """
    check_model_folder(model)
    with _reading(f"tokenizer of model {model}"):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"model {model} has no chat template: use an instruction-tuned model, or add chat_template.jinja to it",
        )
    check_template(model, tokenizer, arguments)
    check_arguments(model, tokenizer, arguments)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_tokenizer(model, tokenizer, read_configuration(model))
    return tokenizer


def load_model(model: str, dtype: torch.dtype, compute: TrainerCompute | None = None) -> PreTrainedModel:
    """Load the model with its weights in a torch dtype.

    At ZeRO stage 3 of `compute`, the weights are divided among all ranks, which then load it together; see
    `divided_weights`. Quantized weights are not: every rank loads and dequantizes all of them.

    Only the special tokens of its generation_config.json are kept. All sampling settings come from the run, but
    transformers would take those that a call leaves out from the model.

    Raises:
        RunError: MODEL_INVALID when the weights cannot be read; weights in pickle files are refused.
    """
    check_model_folder(model)
    loaded = _load_weights(model, dtype, compute)
    part = language_part(loaded)
    for name, parameter in loaded.named_parameters():
        if not name.startswith(part) and parameter is not loaded.get_output_embeddings().weight:
            parameter.requires_grad_(False)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    loaded.generation_config = GenerationConfig(**{name: getattr(loaded.generation_config, name) for name in special})
    return loaded


def check_base_model(config: TrainerConfig, base: BaseModel) -> None:
    """Refuse a base model that cannot be trained as the configuration says, before its weights are read.

    Raises:
        RunError: MODEL_INVALID; CONFIGURATION_INVALID when other values in the configuration would suit the model.
    """
    architecture = read_configuration(base.folder)
    check_architecture(base.folder, architecture, config.tuning)
    check_pad_token(base.folder, architecture)
    with _reading(f"model {base.folder}"):
        skeleton = build_skeleton(architecture)
    check_context(base.name, skeleton, config)
    check_rollouts(skeleton, config.compute, config.tuning)
    if config.tuning.type == "LoRA":
        adapted_layers(skeleton, config.tuning)
    if loading_arguments(architecture):
        log.info("the quantized weights of %s are dequantized, and take four times as much memory", base.name)


def read_configuration(model: str) -> PretrainedConfig:
    """Return the configuration of the model in a folder. Code of the model is never executed, nor is asked for it.

    Implementations of attention and experts that config.json names are left out.

    Raises:
        RunError: MODEL_INVALID when it cannot be read, or belongs to a model that needs its own code.
    """
    check_model_folder(model)
    with _reading(f"model {model}"):
        configuration: PretrainedConfig = AutoConfig.from_pretrained(model, trust_remote_code=False)
    # A model's files do not choose how its layers are computed, because results depend on that a little, and updates on
    # it for their speed. Without a choice, transformers takes its default for the model.
    configuration._attn_implementation = configuration._experts_implementation = None
    return configuration


def _load_weights(model: str, dtype: torch.dtype, compute: TrainerCompute | None = None) -> PreTrainedModel:
    with _reading(f"model {model}"):
        configuration = read_configuration(model)
        quantization = loading_arguments(configuration)
    division = nullcontext() if compute is None or quantization else divided_weights(compute, dtype)
    with _reading(f"model {model}"), division:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            model,
            config=configuration,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **quantization,
        )
    # transformers would silently initialize missing weights with random numbers.
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise RunError(ExitCode.MODEL_INVALID, f"model {model}: lacks weights that its config.json asks for: {names}")
    # Weights that were quantized are loaded in bfloat16, whatever the requested dtype.
    # (DeepSpeed decides on the dtype of divided ones.)
    is_whole = not any(map(is_divided, loaded.parameters()))
    return loaded.float() if dtype is torch.float32 and is_whole else loaded


def model_dtype(config: TrainerConfig, base: BaseModel) -> torch.dtype:
    """Return the dtype in which a run computes its model.

    Raises:
        RunError: MODEL_INVALID when the base model's config.json cannot be read.
    """
    return choose_dtype(config, read_configuration(base.folder).dtype)


def add_adapter(model: PreTrainedModel, tuning: Tuning, seed: int) -> PeftModel:
    """Return the model with a new adapter on the layers of `adapted_layers`; it does not change the outputs yet."""
    layers = adapted_layers(model, tuning)
    log.info("%s", describe_adapter(model, layers))
    torch.manual_seed(seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=tuning.effective_rank,
            lora_alpha=tuning.effective_alpha,
            lora_dropout=tuning.effective_dropout,
            use_rslora=bool(tuning.rank_stabilized),
            target_modules=layers,
            task_type="CAUSAL_LM",
        ),
    )


def load_adapter(model: PreTrainedModel, adapter: Path, trainable: bool) -> PeftModel:
    """Return the model with an adapter read from a folder.

    Raises:
        RunError: MODEL_INVALID when the adapter cannot be read.
    """
    with _reading(f"adapter {adapter}"):
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the EOS tokens: those of the generation configuration, and the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    return _distinct_ids(configured, tokenizer)


def _distinct_ids(configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


def stated_end_token_ids(model: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the EOS tokens of the model in a folder, as `end_token_ids` does for a model that has been loaded."""
    try:
        configured = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # the file is optional
        configured = read_configuration(model).get_text_config().eos_token_id
    return _distinct_ids(configured, tokenizer)


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], arguments: Arguments = NO_ARGUMENTS
) -> list[int]:
    """Return the token ids of a prompt, from the model's chat template, with the generation prompt.

    Raises:
        ValueError: when the chat template refuses the messages.
    """
    try:
        return token_ids(tokenizer, render(tokenizer, messages, add_generation_prompt=True, arguments=arguments))
    except Exception as error:  # the template is a foreign program
        raise ValueError(f"the model's chat template refuses these messages: {one_line(str(error))}") from error


def forget_zero_3() -> None:
    """Make transformers load complete models again; after training with ZeRO-3 it would load partitioned ones."""
    unset_hf_deepspeed_config()


def export_adapter(checkpoint: Path, base: BaseModel, target: Path, reporter: ProgressReporter) -> None:
    """Copy a checkpoint's adapter to `target`, ready to be served with its base model.

    Args:
        checkpoint: the checkpoint.
        base: the base model of the run.
        target: the new folder.
        reporter: where it is published how much has been written.
    """
    size = sum((checkpoint / name).stat().st_size for name in _ADAPTER_FILES)
    with memory_for("export"), atomic_folder(target) as folder, reporter.writing(folder, size):
        for name in _ADAPTER_FILES:
            shutil.copyfile(checkpoint / name, folder / name)
        config = read_json(folder / _ADAPTER_FILES[0], MAXIMUM_DOCUMENT, parse_line)
        config["base_model_name_or_path"], config["revision"] = base.name, base.commit
        config["inference_mode"] = True
        (folder / _ADAPTER_FILES[0]).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def export_model(checkpoint: Path, base: BaseModel, target: Path, reporter: ProgressReporter) -> None:
    """Write a checkpoint's model to `target`, in the dtype of its base model, with the tokenizer's files.

    Args:
        checkpoint: the checkpoint.
        base: the base model of the run.
        target: the new folder.
        reporter: where it is published how much has been written.
    """
    dtype: Any = read_configuration(base.folder).dtype or torch.float32
    # Users of the tuned model expect the base model's sampling defaults, which `load_model` has removed.
    defaults = None
    with suppress(OSError):
        defaults = GenerationConfig.from_pretrained(base.folder)
    with memory_for("export"), atomic_folder(target) as folder:
        # The weights are loaded and saved again, because checkpoints of DeepSpeed may hold tied weights twice.
        model = _load_weights(str(checkpoint), dtype)
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        with reporter.writing(folder, size):
            model.save_pretrained(folder)
        for pattern in _TOKENIZER_FILES:
            for path in checkpoint.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        if defaults is not None:
            defaults.save_pretrained(folder)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn errors inside the context into MODEL_INVALID, unless memory, a disk or another process is their cause.

    Raises:
        RunError: MODEL_INVALID for files that are broken or of another kind.
    """
    with memory_for("loading"):
        try:
            yield
        except (torch.AcceleratorError, torch.distributed.DistError):
            raise
        except RunError:
            raise
        except Exception as error:  # of any type: the files are foreign, and tokenizers raises Exception itself
            if is_out_of_memory(error) or (isinstance(error, OSError) and may_pass(error)):
                raise
            if "trust_remote_code" in str(error):
                raise RunError(
                    ExitCode.MODEL_INVALID,
                    f"{what}: needs Python code of its own, which is never executed; use a model that transformers "
                    f"supports by itself",
                ) from error
            text = f"{what}: {type(error).__name__}: {first_line(error)}"
            raise RunError(ExitCode.MODEL_INVALID, text) from error
