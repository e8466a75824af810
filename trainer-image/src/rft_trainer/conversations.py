"""Checks messages against a model: that it can read them, and that a warm-up imitates answers as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from rft_api.foreign.text import one_line
from rft_trainer.chat_template import NO_ARGUMENTS, Arguments, render, token_ids
from rft_trainer.data import Message
from rft_trainer.model_checks import build_skeleton, check_token_ids, learned_positions, vocabulary_size
from rft_trainer.modeling import prompt_token_ids, read_configuration, stated_end_token_ids

_SHOWN = 60
"""Number of characters of a text that messages show."""


def conversation_check(
    model: str, tokenizer: PreTrainedTokenizerBase, arguments: Arguments = NO_ARGUMENTS
) -> Callable[[list[Message]], None]:
    """Return the check of a conversation of a warm-up: it raises ValueError, with the reason, for one to refuse.

    Args:
        model: the folder of the model.
        tokenizer: its tokenizer.
        arguments: variables of the chat template that the run sets.
    """
    configuration = read_configuration(model)
    vocabulary, positions = vocabulary_size(configuration), learned_positions(build_skeleton(configuration))
    end_tokens = tokenizer.convert_ids_to_tokens(stated_end_token_ids(model, tokenizer))

    def check(messages: list[Message]) -> None:
        ids = token_ids(tokenizer, check_rendering(tokenizer, end_tokens, messages, arguments))
        check_token_ids(tokenizer, ids, vocabulary)
        if positions is not None and len(ids) > positions:
            raise ValueError(f"has {len(ids)} tokens, and the model has a context of {positions}; shorten it")

    return check


def token_counter(
    model: str, tokenizer: PreTrainedTokenizerBase, arguments: Arguments = NO_ARGUMENTS
) -> Callable[[list[Message]], int]:
    """Return what counts the tokens of a prompt; it raises ValueError, with the reason, for a prompt to refuse.

    Args:
        model: the folder of the model.
        tokenizer: its tokenizer.
        arguments: variables of the chat template that the run sets.
    """
    vocabulary = vocabulary_size(read_configuration(model))

    def count(messages: list[Message]) -> int:
        ids = prompt_token_ids(tokenizer, messages, arguments)
        check_token_ids(tokenizer, ids, vocabulary)
        return len(ids)

    return count


def check_rendering(
    tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[str], messages: list[Message], arguments: Arguments
) -> str:
    """Return the text of a conversation; refuse one that is not rendered as prompt, answer as written, and EOS token.

    Only the white space around the answer may differ, because many templates set it. Otherwise the warm-up would teach
    something else than what stands in the data: some templates remove an answer's reasoning, some add an empty one, and
    some do not end the answer, so that the model would learn not to end.

    Args:
        tokenizer: the tokenizer with the chat template.
        end_tokens: the tokens that end a completion.
        messages: the conversation; the last message is the answer.
        arguments: variables of the chat template that the run sets.

    Raises:
        ValueError: with the reason.
    """
    answer = messages[-1]["content"]
    if len(messages) == 1:
        raise ValueError("has no message before the answer")
    try:
        prompt = render(tokenizer, messages[:-1], add_generation_prompt=True, arguments=arguments)
        whole = render(tokenizer, messages, add_generation_prompt=False, arguments=arguments)
    except Exception as error:  # the template is a foreign program
        raise ValueError(f"the model's chat template refuses these messages: {one_line(str(error))}") from error
    advice = "write the answer in the form in which the template keeps it, or use a model with another template"
    if not whole.startswith(prompt):
        equal = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
        start = len(list(equal))
        raise ValueError(
            f"the model's chat template renders {_quote(whole[start:])} where a prompt for the model ends with "
            f"{_quote(prompt[start:])}, so the model would learn an answer to another prompt; {advice}"
        )
    rendered = whole.removeprefix(prompt).rstrip()
    end = next((token for token in end_tokens if rendered.endswith(token)), None)
    text = rendered.removesuffix(end or "").strip()
    if text != answer.strip():
        raise ValueError(
            f"the model's chat template renders the answer as {_quote(text)}, not as it is written, "
            f"{_quote(answer.strip())}; {advice}"
        )
    if end is None:
        raise ValueError(
            f"the model's chat template does not end the answer with an EOS token ({', '.join(end_tokens)}), so the "
            f"model would learn not to end; correct chat_template or eos_token of the model"
        )
    return whole


def _quote(text: str) -> str:
    """Return the parts of a text that show what it is, in quotes."""
    if len(text) > 2 * _SHOWN:
        text = f"{text[:_SHOWN]} … {text[-_SHOWN:]}"
    return repr(text)
