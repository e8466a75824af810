"""The prompts of a run: reads and checks every source, sets validation prompts aside, mixes sources by weight."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rft_api.data_formats import read_conversations, read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLogReport
from rft_api.prompts import Conversation, Message, Prompt, problem_report, split_by_content
from rft_api.sources import Data, DataSource, WarmupSource

__all__ = [
    "Conversation", "Dataset", "Message", "Prompt", "WarmupData", "load_conversations", "load_dataset", "mix",
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
    """Share of each training source in the mixture."""
    too_long: dict[str, int] = field(default_factory=dict)
    """Prompts left out for their length, by split and source."""
    invocation_logs: dict[str, InvocationLogReport] = field(default_factory=dict)
    """What was taken from invocation logs, by split and source."""


@dataclass(frozen=True)
class WarmupData:
    """The conversations of a warm-up."""

    conversations: list[Conversation]
    invocation_logs: dict[str, InvocationLogReport]
    """What was taken from invocation logs, by split and source."""


def load_dataset(data: Data, max_prompt_tokens: int, count_tokens: Callable[[list[Message]], int]) -> Dataset:
    """Reads and checks every file of a run's data.

    Args:
        data: the files.
        max_prompt_tokens: prompts with more tokens are left out and counted.
        count_tokens: tokens of a prompt as the model will see it, the generation prompt included; raises ValueError
            with the reason for messages that the model's chat template refuses.

    Raises:
        RunError: DATA_INVALID, with file, line and reason of what is wrong, in all files at once.
    """
    problems: list[str] = []
    too_long: dict[str, int] = {}
    logs: dict[str, InvocationLogReport] = {}

    def read(split: str, sources: Sequence[DataSource] | None) -> dict[str, list[Prompt]]:
        result = {}
        for source in sources or []:
            tokens: list[int] = []
            # Messages that the template refuses are not among the rows, and raise before they are counted.
            rows, report = read_prompts(source, problems, partial(_count, count_tokens, tokens))
            fitting = [row for row, count in zip(rows, tokens, strict=True) if count <= max_prompt_tokens]
            left_out = len(rows) - len(fitting)
            if report is not None:
                logs[f"{split}/{source.name}"] = report
            if left_out:
                too_long[f"{split}/{source.name}"] = left_out
            if left_out and not fitting:
                problems.append(
                    f"{source.uri}: all {left_out} prompts have more than {max_prompt_tokens} tokens; raise "
                    f"spec.hyperparameters.maxPromptTokens"
                )
            result[source.name] = fitting
        return result

    train = read("train", data.train)
    validation = read("validation", data.validation)
    test = read("test", data.test)
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report(problems))
    held_out = [prompt for rows in validation.values() for prompt in rows]
    fraction = data.effective_validation_fraction
    if fraction:
        parts = {name: split_by_content(name, rows, fraction) for name, rows in train.items()}
        train = {name: kept for name, (kept, _) in parts.items()}
        held_out = [prompt for _, aside in parts.values() for prompt in aside]
    return Dataset(
        train=train,
        validation=held_out,
        test=[prompt for rows in test.values() for prompt in rows],
        weights={source.name: source.weight for source in data.train},
        too_long=too_long,
        invocation_logs=logs,
    )


def load_conversations(sources: Sequence[WarmupSource], count_tokens: Callable[[list[Message]], int]) -> WarmupData:
    """Reads and checks the files of a warm-up; `count_tokens` is as for `load_dataset`.

    Raises:
        RunError: DATA_INVALID, with file, line and reason of what is wrong, in all files at once.
    """
    problems: list[str] = []
    conversations: list[Conversation] = []
    logs: dict[str, InvocationLogReport] = {}
    for source in sources:
        found, report = read_conversations(source, problems, count_tokens)
        conversations += found
        if report is not None:
            logs[f"warmup/{source.name}"] = report
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report(problems))
    return WarmupData(conversations, logs)


def mix(train: dict[str, list[Prompt]], weights: dict[str, float], epochs: int, seed: int) -> list[Prompt]:
    """The order of training prompts for the whole run: every epoch holds each source in its share of the weights.

    An epoch has as many prompts as the sources together. Within a source, every prompt is used once before one is used
    twice, so a source that is larger than its share is gone through over several epochs.
    """
    generator = random.Random(seed)
    size = sum(len(rows) for rows in train.values())
    total = sum(weights[name] for name in train)
    wanted = {name: size * weights[name] / total for name in train}
    remaining: dict[str, list[Prompt]] = {name: [] for name in train}
    owed = dict.fromkeys(train, 0.0)
    order: list[Prompt] = []
    for _ in range(epochs):
        epoch: list[Prompt] = []
        for name, rows in train.items():
            owed[name] += wanted[name]
            count = round(owed[name])
            owed[name] -= count
            for _ in range(count):
                if not remaining[name]:
                    remaining[name] = generator.sample(rows, len(rows))
                epoch.append(remaining[name].pop())
        generator.shuffle(epoch)
        order.extend(epoch)
    return order


def _count(count_tokens: Callable[[list[Message]], int], tokens: list[int], messages: list[Message]) -> None:
    tokens.append(count_tokens(messages))
