"""Compares a base model's tokenizer, embedding and context with each other and with the run, without its weights.

Without these comparisons, the run would fail much later with the error of a library, or train to its end for nothing.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import meta_device_safe_creation_ops, no_init_weights

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.sampling import RESERVED_ARGUMENTS
from rft_api.trainer_config import TrainerConfig
from rft_trainer.chat_template import Arguments, read_names, render

log = logging.getLogger(__name__)


def build_skeleton(configuration: PretrainedConfig) -> PreTrainedModel:
    """Return the model of a configuration without memory for its weights, as if they were not quantized."""
    plain = copy.deepcopy(configuration)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    with torch.device("meta"), no_init_weights(), meta_device_safe_creation_ops():
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(plain, trust_remote_code=False)
    return skeleton


def vocabulary_size(configuration: PretrainedConfig) -> int | None:
    """Return the number of tokens that a model has embeddings of; None when its configuration does not say it."""
    size: int | None = getattr(configuration.get_text_config(), "vocab_size", None)
    return size


def learned_positions(model: PreTrainedModel) -> int | None:
    """Return the number of positions that a model has learned embeddings of; None when it computes its positions."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    is_learned = any(
        isinstance(module, torch.nn.Embedding) and (name.endswith("wpe") or "position" in name.rpartition(".")[2])
        for name, module in model.named_modules()
    )
    return limit if is_learned else None


def check_tokenizer(model: str, tokenizer: PreTrainedTokenizerBase, configuration: PretrainedConfig) -> None:
    """Refuse a tokenizer that cannot end or pad completions, or whose special tokens the model has no embeddings of.

    Args:
        model: the model, for messages.
        tokenizer: its tokenizer.
        configuration: its configuration.

    Raises:
        RunError: MODEL_INVALID.
    """
    if tokenizer.eos_token_id is None:
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"model {model}: its tokenizer has no EOS token, so no completion would ever end; set eos_token in "
            f"tokenizer_config.json to the token that ends an answer in its chat template",
        )
    size = vocabulary_size(configuration)
    for name in ("eos_token", "pad_token", "bos_token"):
        number = getattr(tokenizer, f"{name}_id")
        if size is not None and number is not None and number >= size:
            raise RunError(
                ExitCode.MODEL_INVALID,
                f"model {model}: {name} of its tokenizer is {getattr(tokenizer, name)} with the id {number}, but the "
                f"model has embeddings of {size} tokens only, up to the id {size - 1}; set {name} in "
                f"tokenizer_config.json to a token of the model, or enlarge its embeddings (resize_token_embeddings)",
            )


def check_template(model: str, tokenizer: PreTrainedTokenizerBase, arguments: Arguments) -> None:
    """Refuse a model whose chat template is no template, or fails on the simplest conversation.

    A template may refuse a conversation, such as one without a system message: then it may take those of the data.

    Args:
        model: the model, for messages.
        tokenizer: its tokenizer, with a chat template.
        arguments: variables of the template that the run sets.

    Raises:
        RunError: MODEL_INVALID.
    """
    try:
        render(tokenizer, [{"role": "user", "content": "1 + 1"}], add_generation_prompt=True, arguments=arguments)
    except Exception as error:  # the template is a foreign program
        if isinstance(error, TemplateError) and not isinstance(error, TemplateSyntaxError):
            return
        text = f"{type(error).__name__}: {one_line(str(error))}"
        raise RunError(
            ExitCode.MODEL_INVALID, f"model {model}: its chat template cannot be used ({text}); correct chat_template"
        ) from error


def check_arguments(model: str, tokenizer: PreTrainedTokenizerBase, arguments: Arguments) -> None:
    """Refuse variables that the chat template never reads, such as misspelt ones, which would change nothing.

    Args:
        model: the model, for messages.
        tokenizer: its tokenizer, with a chat template that can be used.
        arguments: variables of the template that the run sets.

    Raises:
        RunError: CONFIGURATION_INVALID.
    """
    names = read_names(tokenizer) if arguments else set()
    unread = sorted(arguments.keys() - names)
    if unread:
        read = ", ".join(sorted(names - RESERVED_ARGUMENTS.keys())) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.sampling.chatTemplateArguments: the chat template of model {model} never reads {', '.join(unread)}; "
            f"names that it reads: {read}",
        )


def check_token_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], vocabulary: int | None) -> None:
    """Refuse a text with a token that the tokenizer has and the model has no embedding of.

    Args:
        tokenizer: the tokenizer.
        ids: the ids of the tokens.
        vocabulary: the number of tokens that the model has embeddings of; None when it is not known.

    Raises:
        ValueError: with the token.
    """
    highest = max(ids, default=0)
    if vocabulary is not None and highest >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ValueError(f"has the token {token}, of which the model has no embedding; remove it from the text")


def check_pad_token(model: str, configuration: PretrainedConfig) -> None:
    """Refuse a model whose configuration names a token for padding that its embedding does not have.

    Args:
        model: the model, for messages.
        configuration: its configuration.

    Raises:
        RunError: MODEL_INVALID.
    """
    size = vocabulary_size(configuration)
    pad = getattr(configuration.get_text_config(), "pad_token_id", None)
    if size is not None and pad is not None and pad >= size:
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"model {model}: pad_token_id in config.json is {pad}, but the model has embeddings of {size} tokens only, "
            f"up to the id {size - 1}; correct it",
        )


def check_context(model: str, skeleton: PreTrainedModel, config: TrainerConfig) -> None:
    """Refuse a run whose longest prompt and completion together exceed the positions that the model has embeddings of.

    A model that computes its positions goes on beyond its context, but answers worse there; then there is a warning in
    the log. vLLM refuses it.

    Args:
        model: the model, for messages.
        skeleton: the model without weights.
        config: the run's configuration.

    Raises:
        RunError: CONFIGURATION_INVALID.
    """
    training = config.hyperparameters
    limit: int | None = getattr(skeleton.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or training.max_tokens <= limit:
        return
    text = (
        f"model {model} has a context of {limit} tokens, and a prompt and its completion may have "
        f"{training.max_tokens}; lower spec.hyperparameters.maxPromptTokens ({training.max_prompt_tokens}) or "
        f"maxCompletionTokens ({training.max_completion_tokens})"
    )
    if learned_positions(skeleton) is not None or config.compute.rollout_engine == "vLLM":
        raise RunError(ExitCode.CONFIGURATION_INVALID, text)
    log.warning("%s", text)
