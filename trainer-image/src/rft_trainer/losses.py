"""Measures the loss of a model on held-out conversations: how well it predicts the answers that it is to imitate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_file
from rft_api.summary import LossComparison
from rft_api.tables import read_table
from rft_trainer.chat_template import Arguments, render, token_ids
from rft_trainer.data import Conversation, Message
from rft_trainer.distributed import gather, rank, world_size
from rft_trainer.inference import evaluating
from rft_trainer.logprobs import completion_logprobs
from rft_trainer.modeling import prompt_token_ids
from rft_trainer.partitions import gathered
from rft_trainer.statistics import paired_bootstrap


@dataclass(frozen=True)
class AnswerLoss:
    """The loss of a model on one answer."""

    source: str
    """Source of its conversation."""
    line: int
    """Line of its conversation, which may have several answers."""
    nats: float
    """Sum of the negative log-probabilities of its tokens, in nats."""
    tokens: int
    """Number of its tokens, with the EOS token."""


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], arguments: Arguments
) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation before its answer, and those of the answer, as the training has them."""
    prompt = prompt_token_ids(tokenizer, messages[:-1], arguments)
    whole = token_ids(tokenizer, render(tokenizer, messages, add_generation_prompt=False, arguments=arguments))
    return whole[: len(prompt)], whole[len(prompt) :]


def measure_losses(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    arguments: Arguments,
    report: Callable[[int], None],
) -> list[AnswerLoss]:
    """Return the loss on each conversation, in their order, on every rank; all ranks call it.

    Args:
        model: the model, which no trainer has wrapped.
        tokenizer: its tokenizer.
        conversations: conversations that end with the answer.
        arguments: variables of the chat template that the run sets.
        report: called with the number of conversations that all ranks together have completed, estimated.
    """
    losses = []
    device = next(model.parameters()).device
    # Every rank makes as many passes, because those of weights that are divided among the ranks are collective.
    passes = math.ceil(len(conversations) / world_size())
    with torch.no_grad(), evaluating(model), gathered(model.parameters()):
        for number in range(passes):
            index = number * world_size() + rank()
            conversation = conversations[min(index, len(conversations) - 1)]
            prompt, answer = (
                torch.tensor([ids], device=device) for ids in encode_answer(tokenizer, conversation.messages, arguments)
            )
            logps, _ = completion_logprobs(
                model, prompt, torch.ones_like(prompt), answer, torch.ones_like(answer), 1.0, False
            )
            if index < len(conversations):
                nats = -float(logps.double().sum())
                losses.append((index, AnswerLoss(conversation.source, conversation.line, nats, answer.numel())))
            report(min(len(conversations), (number + 1) * world_size()))
    return [loss for _, loss in sorted((pair for part in gather(losses) for pair in part), key=lambda pair: pair[0])]


def mean_loss(losses: Sequence[AnswerLoss]) -> float:
    """Return the mean over all tokens of all answers, in nats."""
    return math.fsum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def compare_losses(base: Sequence[AnswerLoss], tuned: Sequence[AnswerLoss]) -> LossComparison:
    """Return the comparison of two models on the same answers.

    Answers of one conversation depend on each other, so the interval resamples conversations.

    Raises:
        RunError: DIVERGED when the loss of the tuned model is not finite, MODEL_INVALID when that of the base is not.
    """
    before, after = mean_loss(base), mean_loss(tuned)
    if not math.isfinite(before):
        raise RunError(
            ExitCode.MODEL_INVALID,
            "the loss of the base model on the validation conversations is not finite: its weights are broken, or "
            "overflow in this precision (spec.compute.precision)",
        )
    if not math.isfinite(after):
        raise RunError(
            ExitCode.DIVERGED,
            "the loss of the tuned model on the validation conversations is not finite; lower spec.warmup.learningRate",
        )
    rows: dict[tuple[str, int], list[float]] = {}
    for one, other in zip(base, tuned, strict=True):
        row = rows.setdefault((one.source, one.line), [0.0, 0.0, 0.0])
        for place, value in enumerate((one.nats, other.nats, float(one.tokens))):
            row[place] += value
    columns = list(zip(*rows.values(), strict=True))
    return LossComparison(
        conversations=len(rows),
        tokens=sum(loss.tokens for loss in base),
        base=before,
        tuned=after,
        change=paired_bootstrap(columns[0], columns[1], weights=columns[2]),
    )


def write_losses(path: Path, losses: Sequence[AnswerLoss]) -> None:
    """Write the losses to a Parquet file; replace an existing one."""
    columns = {
        "source": pa.array([loss.source for loss in losses], pa.string()),
        "line": pa.array([loss.line for loss in losses], pa.int64()),
        "nats": pa.array([loss.nats for loss in losses], pa.float64()),
        "tokens": pa.array([loss.tokens for loss in losses], pa.int64()),
    }
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns), file)


def read_losses(path: Path) -> list[AnswerLoss]:
    """Return the losses in a file that `write_losses` has written."""
    return [AnswerLoss(**row) for row in read_table(path)]
