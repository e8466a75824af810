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
                    "description": "Must not be set: the name belongs to the caller of the chat template.",
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
    """Text of a system message that is put before every conversation that has none, in all splits and in the warm-up.
    Rows that have a message with the role system or developer keep theirs, and do not get this one. Rewards and stored
    completions have the message, too, because the model has read it. It counts in maxPromptTokens."""
    chat_template_arguments: ChatTemplateArguments = {}
    """Variables that the model's chat template gets wherever it is applied, such as {enable_thinking: false}: names
    with booleans, numbers or strings. Names that belong to the caller of a template are refused, such as messages,
    tools, tokenize and max_length; a name that the template never reads is refused before training. The served model
    has to be asked with the same ones, as chat_template_kwargs of a request."""
    stop: Annotated[list[StopString], Field(min_length=1, max_length=4)] | None = None
    """Texts that end a completion, in addition to the EOS tokens of the model. The completion ends with the token that
    completes one of them, keeps it, and counts as ended, not as truncated. Texts of special tokens count, too."""

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
    """Temperature at which completions of held-out prompts are sampled. 0 takes the most likely token, so that the same
    model always answers the same."""
    samples_per_prompt: Annotated[Integer, Field(ge=1, le=128)] = 1
    """Number of completions that are sampled for each held-out prompt, whose reward is their mean. More than 1 needs a
    temperature above 0."""
