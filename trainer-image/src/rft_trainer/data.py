"""Reads and checks the data of a run, splits off validation prompts, and mixes the sources by weight."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rft_api.data_formats import read_conversations, read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLogReport
from rft_api.prompts import (
    Check,
    Conversation,
    Message,
    Prompt,
    problem_report,
    split_by_prompt,
    split_conversations,
    with_system_prompt,
)
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.training import Split
from rft_api.warmup import Warmup

__all__ = [
    "Conversation", "Dataset", "Message", "Prompt", "WarmupData", "load_conversations", "load_dataset", "load_warmup",
    "mix",
]  # fmt: skip


@dataclass
class Dataset:
    """All prompts of a run."""

    train: dict[str, list[Prompt]]
    """Training prompts by source, in the file's order."""
    validation: list[Prompt]
    test: list[Prompt]
    """Empty when the validation prompts serve as held-out prompts."""
    weights: dict[str, float]
    """Weight of each training source in the mixture."""
    too_long: dict[str, int] = field(default_factory=dict)
    """Number of prompts that were left out because they are too long, by split and source."""
    invocation_logs: dict[str, InvocationLogReport] = field(default_factory=dict)
    """The report of each source that is an invocation log, by split and source."""


@dataclass(frozen=True)
class WarmupData:
    """The conversations of a warm-up."""

    conversations: list[Conversation]
    """Those that are imitated."""
    validation: list[Conversation]
    """Those on which the loss is measured; empty before reinforcement learning."""
    invocation_logs: dict[str, InvocationLogReport]
    """The report of each source that is an invocation log, by split and source."""


def load_dataset(
    data: Data,
    max_prompt_tokens: int,
    count_tokens: Callable[[list[Message]], int],
    system_prompt: str | None = None,
) -> Dataset:
    """Read and check every file of a run's data.

    Args:
        data: the files.
        max_prompt_tokens: prompts with more tokens are left out, and their number is reported.
        count_tokens: returns the tokens of a prompt as the model gets it, with the generation prompt; raises
            ValueError, with the reason, for messages that the model's chat template refuses.
        system_prompt: text of a system message that prompts without one begin with; None for none.

    Raises:
        RunError: DATA_INVALID; the message lists all problems of all files, with file, line and reason.
    """
    problems: list[str] = []
    too_long: dict[str, int] = {}
    logs: dict[str, InvocationLogReport] = {}

    def read(split: str, sources: Sequence[DataSource] | None) -> dict[str, list[Prompt]]:
        result = {}
        for source in sources or []:
            tokens: list[int] = []
            # `tokens` has one number for each row: messages that the template refuses are in neither of them.
            rows, report = read_prompts(source, problems, partial(_count, count_tokens, tokens, system_prompt))
            rows = [replace(row, messages=with_system_prompt(row.messages, system_prompt)) for row in rows]
            short_rows = [row for row, count in zip(rows, tokens, strict=True) if count <= max_prompt_tokens]
            left_out = len(rows) - len(short_rows)
            if report is not None:
                logs[f"{split}/{source.name}"] = report
            if left_out:
                too_long[f"{split}/{source.name}"] = left_out
            if left_out and not short_rows:
                problems.append(
                    f"{source.uri}: all {left_out} prompts have more than {max_prompt_tokens} tokens; raise "
                    f"spec.hyperparameters.maxPromptTokens"
                )
            result[source.name] = short_rows
        return result

    train = read("train", data.train)
    validation = read("validation", data.validation)
    test = read("test", data.test)
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report(problems))
    held_out = [prompt for rows in validation.values() for prompt in rows]
    fraction = data.effective_validation_fraction
    if fraction:
        train, aside = split_by_prompt(train, fraction)
        held_out = [prompt for rows in aside.values() for prompt in rows]
    return Dataset(
        train=train,
        validation=held_out,
        test=[prompt for rows in test.values() for prompt in rows],
        weights={source.name: source.weight for source in data.train or []},
        too_long=too_long,
        invocation_logs=logs,
    )


def load_warmup(warmup: Warmup, check: Check, system_prompt: str | None, is_alone: bool) -> WarmupData:
    """Read and check the files of a warm-up; arguments and errors are those of `load_conversations`.

    If it is alone, without reinforcement learning, some conversations are for validation.
    """
    read = load_conversations(warmup.data, check, system_prompt)
    if not is_alone:
        return read
    if warmup.validation:
        other = load_conversations(warmup.validation, check, system_prompt, "warmupValidation")
        return WarmupData(read.conversations, other.conversations, {**read.invocation_logs, **other.invocation_logs})
    stay, aside = split_conversations(read.conversations, warmup.effective_validation_fraction)
    return WarmupData(stay, aside, read.invocation_logs)


def load_conversations(
    sources: Sequence[WarmupSource], check: Check, system_prompt: str | None = None, split: Split = "warmup"
) -> WarmupData:
    """Read and check files of conversations.

    Args:
        sources: the files.
        check: raises ValueError, with the reason, for a conversation to refuse.
        system_prompt: text of a system message that conversations without one begin with; None for none.
        split: what they are read for.

    Raises:
        RunError: DATA_INVALID; the message lists all problems of all files, with file, line and reason.
    """
    problems: list[str] = []
    conversations: list[Conversation] = []
    logs: dict[str, InvocationLogReport] = {}
    for source in sources:
        rows, report = read_conversations(
            source, problems, lambda messages: check(with_system_prompt(messages, system_prompt))
        )
        conversations += [replace(row, messages=with_system_prompt(row.messages, system_prompt)) for row in rows]
        if report is not None:
            logs[f"{split}/{source.name}"] = report
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report(problems))
    return WarmupData(conversations, [], logs)


def mix(train: dict[str, list[Prompt]], weights: dict[str, float], epochs: int, seed: int) -> list[Prompt]:
    """Return the training prompts of the whole run in their order; in every epoch, sources have shares by weight.

    An epoch has as many prompts as all sources together. Within a source, every prompt is used once before any is used
    twice, so a source that is larger than its share needs several epochs until all its prompts are used.
    """
    generator = random.Random(seed)
    size = sum(len(rows) for rows in train.values())
    total = sum(weights[name] for name in train)
    prompts_per_epoch = {name: size * weights[name] / total for name in train}
    remaining: dict[str, list[Prompt]] = {name: [] for name in train}
    owed = dict.fromkeys(train, 0.0)
    order: list[Prompt] = []
    for _ in range(epochs):
        epoch: list[Prompt] = []
        for name, rows in train.items():
            owed[name] += prompts_per_epoch[name]
            count = round(owed[name])
            owed[name] -= count
            for _ in range(count):
                if not remaining[name]:
                    remaining[name] = generator.sample(rows, len(rows))
                epoch.append(remaining[name].pop())
        generator.shuffle(epoch)
        order.extend(epoch)
    return order


def _count(
    count_tokens: Callable[[list[Message]], int], tokens: list[int], system_prompt: str | None, messages: list[Message]
) -> None:
    tokens.append(count_tokens(with_system_prompt(messages, system_prompt)))
