"""Renders conversations by a chat template: a foreign program, whose time and memory jinja's sandbox does not limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType

from jinja2 import meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from rft_api.foreign.memory import bounded_growth
from rft_api.foreign.sizes import format_size
from rft_api.sampling import Argument
from rft_trainer.data import Message

TEMPLATE_SECONDS = 30.0
"""Processor time for rendering one conversation. Usual ones take milliseconds."""
TEMPLATE_BYTES = 1 << 30
"""Memory for rendering one conversation, in bytes of address space: other threads of the process, which have a share in
it, reserve up to 128 MiB at a time."""
LONGEST_RENDERING = 8 << 20
"""Largest number of characters of a conversation: some two million tokens. To turn one into tokens takes a hundred
times as much memory, and cannot be interrupted."""

Arguments = Mapping[str, Argument]
"""Variables of the template that the run sets (`sampling.chatTemplateArguments`)."""
NO_ARGUMENTS: Arguments = MappingProxyType({})


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    add_generation_prompt: bool,
    arguments: Arguments = NO_ARGUMENTS,
) -> str:
    """Return the text of a conversation.

    Args:
        tokenizer: the tokenizer with the chat template.
        messages: the conversation.
        add_generation_prompt: whether the text ends with what comes before an answer.
        arguments: variables that the run sets.

    Raises:
        TimeoutError, MemoryError, ValueError: when the template exceeds a limit; the message says which.
        Exception: of any other kind, by the template.
    """
    with _limited():
        text: str = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **arguments
        )
    if len(text) > LONGEST_RENDERING:
        raise ValueError(f"it makes {len(text):,} characters of them, more than {LONGEST_RENDERING:,}")
    return text


def read_names(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the names of the variables that the chat template reads from outside, in any of its branches."""
    template: str = tokenizer.get_chat_template()
    return meta.find_undeclared_variables(_compile_jinja_template(template).environment.parse(template))


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a conversation's text, which has its special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@contextmanager
def _limited() -> Iterator[None]:
    """Limit the processor time and the memory of what is inside, in the main thread; others cannot be interrupted.

    The limit of memory is one of the whole process, which the kernel applies to what it takes from here on, so a single
    operation on a text cannot exceed it either. It is lifted at the end: training takes as much as it likes.

    Raises:
        TimeoutError: when it takes longer than `TEMPLATE_SECONDS`. A single operation on a text is not interrupted.
        MemoryError: when it takes more than `TEMPLATE_BYTES`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    timeout = TimeoutError(f"it takes more than {TEMPLATE_SECONDS:g} s")
    is_late = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_late
        is_late = True
        raise timeout

    previous = signal.signal(signal.SIGVTALRM, stop)
    try:
        with bounded_growth(TEMPLATE_BYTES):
            signal.setitimer(signal.ITIMER_VIRTUAL, TEMPLATE_SECONDS)
            yield
    except MemoryError:
        raise MemoryError(f"it takes more than {format_size(TEMPLATE_BYTES)} of memory") from None
    except Exception:
        if not is_late:
            raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    if is_late:
        # The interruption may reach us as another exception, or not at all: what it meets handles exceptions itself,
        # and jinja fails with one of its own where it looks up the line of an instruction that has none.
        raise timeout
