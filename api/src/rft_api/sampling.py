"""What completions are sampled from, where they end, and how models are evaluated: fields of an RFTJob."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from rft_api.model import Json, Model, Rule
from rft_api.quantities import Between, Decimal, Integer

# Types with which the API server reads a reserved name, so that it can refuse it by the rule.
_SWITCH: Json = {"type": "boolean"}
_TEXT: Json = {"type": "string"}
_LIST: Json = {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
_OBJECT: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

RESERVED_ARGUMENTS: dict[str, Json] = {
    **dict.fromkeys(("messages", "conversation", "conversations", "tools", "documents"), _LIST),
    **dict.fromkeys(("chat_template", "raise_exception", "strftime_now", "return_tensors"), _TEXT),
    **dict.fromkeys(
        (
            "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation", "return_dict",
            "return_assistant_tokens_mask",
        ),
        _SWITCH,
    ),
    "max_length": {"type": "integer"},
    "tokenizer_kwargs": _OBJECT,
}  # fmt: skip
"""Names that the trainer, transformers and jinja give a chat template, or that are no variables of it, and their
schemas."""

Argument = bool | int | float | str


def _reserved(names: Iterable[str]) -> str:
    return (
        "chatTemplateArguments sets variables of the model's own chat template; remove the names that belong to its "
        f"caller: {', '.join(names)}"
    )


def _check_names(arguments: dict[str, Argument]) -> dict[str, Argument]:
    reserved = [name for name in arguments if name in RESERVED_ARGUMENTS]
    if reserved:
        raise PydanticCustomError("reserved", "{message}", {"message": _reserved(reserved)})
    return arguments


def _check_argument(value: Any) -> Argument:
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise PydanticCustomError("argument", "must be true, false, a number or a string")


ChatTemplateArguments = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)],
        Annotated[Argument, PlainValidator(_check_argument)],
    ],
    Field(max_length=32),
    AfterValidator(_check_names),
    # A structural schema has no union of types, so the API server takes values of every type.
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 32,
            "x-kubernetes-preserve-unknown-fields": True,
            # The rule of a name is evaluated only where it is set; one rule of all names would look for each of them.
            "properties": {
                name: {
                    **schema,
                    "description": "This variable must not be set, because the caller of the chat template sets it.",
                    "x-kubernetes-validations": [{"rule": "false", "message": _reserved([name])}],
                }
                for name, schema in RESERVED_ARGUMENTS.items()
            },
        }
    ),
]
"""Variables of a chat template by name."""

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Sampling(Model):
    """What completions are sampled from, and where they end, in training and in every evaluation."""

    system_prompt: Annotated[str, Field(min_length=1, max_length=32768)] | None = None
    """Text of a system message that is added to the beginning of every conversation without one, in all splits and in
    the warm-up. A row that has a message with the role system or developer keeps its own message. Rewards and stored
    completions contain the added message, because the model has read it. Its tokens count towards maxPromptTokens."""
    chat_template_arguments: ChatTemplateArguments = {}
    """Variables of the model's chat template, such as {enable_thinking: false}. The values are booleans, numbers or
    strings, and they are used wherever the template is applied. Names that belong to the caller of a template, such as
    messages, tools, tokenize and max_length, are refused. A name that the template never reads is refused before
    training. Requests to the served model have to state the same variables, as chat_template_kwargs."""
    stop: Annotated[list[StopString], Field(min_length=1, max_length=4)] | None = None
    """Texts that end a completion, in addition to the EOS tokens of the model. A completion ends with the token with
    which one of these texts is complete. The text stays a part of the completion, and the completion does not count as
    truncated. The text of a special token, such as <|eot_id|>, can be one of them."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts that end a completion; none by default."""
        return tuple(self.stop or ())


class EvaluationSettings(Model):
    """How held-out prompts are completed: in the baseline, in validations, and for the table before and after."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.samplesPerPrompt == 1 || double(self.temperature) > 0.0",
            message="samplesPerPrompt above 1 needs a temperature above 0: greedy completions of a prompt are all the "
            "same",
            holds=lambda evaluation: evaluation.samples_per_prompt == 1 or evaluation.temperature > 0,
        ),
    )

    temperature: Annotated[Decimal, Between("0", "10")] = 0.0
    """Temperature at which completions of held-out prompts are sampled. With 0 each token is the most likely one, so
    that the same model always gives the same answer."""
    samples_per_prompt: Annotated[Integer, Field(ge=1, le=128)] = 1
    """Number of completions that are sampled for each held-out prompt. The reward of the prompt is their mean reward.
    More than 1 needs a temperature above 0."""
