"""How programs say why they end: in a pod's termination message, and in the last lines on standard error.

Both are written and read here only, so that their wording is nobody else's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from rft_api.exit_codes import ExitCode
from rft_api.foreign.text import one_line
from rft_api.metrics import Gain
from rft_api.model import Model
from rft_api.progress import HackingVerdict, MemoryVerdict
from rft_api.run_folder import CheckpointInfo
from rft_api.summary import LossComparison, Summary

TERMINATION_FILE: Final = "RFT_TERMINATION_LOG"
"""Environment variable with the file in which a program leaves its termination message."""
MAXIMUM_BYTES = 4096
"""Number of bytes that Kubernetes keeps of a termination message."""
KEPT_CHECKPOINTS = 3
_LARGEST_COUNT = 2**53
"""Larger whole numbers are no exact numbers in many programs."""
KEPT_INPUTS = 5
LONGEST_INPUT = 200
"""Characters of the name of an input in a termination message."""

KEPT_TRACKERS = 4
LONGEST_SENTENCE = 900
"""Characters of a sentence about a tracker in a termination message."""

_REVISION = re.compile(r"[0-9A-Za-z._-]{1,64}")
_ERROR, _STOPPED = "error", "stopped"
_END = re.compile(rf"^(?:{_ERROR}|{_STOPPED}): ", re.MULTILINE)
_END_OF_RANK = re.compile(r"rank \d+: ")


class RunResult(Model):
    """The part of a run's summary that fits into a termination message."""

    steps: int
    """Number of optimizer steps of the run."""
    stopped_early: bool
    """Whether early stopping ended the run."""
    trained_tokens: int | None = None
    """Number of tokens that counted in the loss."""
    best_step: int
    """Step of the exported checkpoint."""
    checkpoints: list[CheckpointInfo]
    """The checkpoints with the highest validation reward, best first."""
    prompts: int
    """Number of held-out prompts over which the rewards are means."""
    base_reward: float | None = None
    """Mean reward of the base model; absent without prompts, of a warm-up alone."""
    tuned_reward: float | None = None
    """Mean reward of the exported model."""
    base_revision: str | None = None
    """Commit of the base model on the Hugging Face hub."""
    gain: Gain | None = None
    """Difference between the tuned model and the base model."""
    loss: LossComparison | None = None
    """Loss before and after a warm-up alone."""
    reward_hacking: HackingVerdict | None = None
    """Verdict of comparing the reward with its shadows."""
    changed_inputs: list[str] | None = None
    """Inputs that are no longer what was measured, of a run that had already ended when it was started again."""
    not_tracked: list[str] | None = None
    """Sentences about what has not reached the run's trackers."""


@dataclass(frozen=True)
class Failure:
    """The failure of a run."""

    reason: str | None
    """Reason of an `ExitCode`; None when the trainer has not written the message."""
    message: str
    """Text of the message."""


def success_message(summary: Summary, changed_inputs: Sequence[str] = ()) -> str:
    """Return the termination message that rank 0 writes when the run has succeeded.

    Args:
        summary: the summary of the run.
        changed_inputs: names of the inputs that are no longer what was measured.
    """
    names = [one_line(name, LONGEST_INPUT) for name in changed_inputs[:KEPT_INPUTS]]
    if len(changed_inputs) > KEPT_INPUTS:
        names.append(f"and {len(changed_inputs) - KEPT_INPUTS} more")
    return RunResult(
        steps=summary.steps,
        stopped_early=summary.stopped_early,
        trained_tokens=summary.trained_tokens,
        best_step=summary.best_step,
        checkpoints=summary.checkpoints[:KEPT_CHECKPOINTS],
        prompts=summary.prompts,
        base_reward=summary.base.reward if summary.base else None,
        tuned_reward=summary.tuned.reward if summary.tuned else None,
        base_revision=summary.base_revision,
        gain=summary.gain,
        loss=summary.loss,
        reward_hacking=summary.reward_hacking,
        changed_inputs=names or None,
    ).model_dump_json(by_alias=True, exclude_none=True)


def add_missing(message: str, sentences: Sequence[str]) -> str:
    """Add sentences about what has not reached trackers to the message of a run that has succeeded, as far as it holds
    them."""
    result = parse_result(message)
    if result is None:
        return message
    for count in range(min(len(sentences), KEPT_TRACKERS), 0, -1):
        shown = [one_line(sentence, LONGEST_SENTENCE) for sentence in sentences[:count]]
        longer = result.model_copy(update={"not_tracked": shown}).model_dump_json(by_alias=True, exclude_none=True)
        if len(longer.encode()) <= MAXIMUM_BYTES:
            return longer
    return message


def parse_result(message: str) -> RunResult | None:
    """Return the result in a termination message; None when it holds no result, or numbers that a status cannot
    have."""
    try:
        result = RunResult.model_validate_json(message)
    except ValidationError:
        return None
    rewards = [checkpoint.validation_reward or 0.0 for checkpoint in result.checkpoints]
    counts = [result.steps, result.best_step, result.prompts, result.trained_tokens or 0]
    counts += [checkpoint.step for checkpoint in result.checkpoints]
    gains = [result.gain] if result.gain else []
    numbers = [result.base_reward or 0.0, result.tuned_reward or 0.0, *rewards]
    if result.loss is not None:
        gains.append(result.loss.change)
        numbers += [result.loss.base, result.loss.tuned]
        counts += [result.loss.conversations, result.loss.tokens]
    elif result.base_reward is None or result.tuned_reward is None or result.gain is None:
        return None
    numbers += [number for gain in gains for number in (gain.mean, gain.low, gain.high)]
    is_usual = all(map(math.isfinite, numbers)) and all(0 <= count <= _LARGEST_COUNT for count in counts)
    is_short = len(result.checkpoints) <= KEPT_CHECKPOINTS
    is_commit = result.base_revision is None or _REVISION.fullmatch(result.base_revision) is not None
    return result if is_usual and is_short and is_commit else None


def memory_message(verdict: MemoryVerdict) -> str:
    """Return the termination message of the pod that plans the memory of a job; a long text is cut, so that it stays
    JSON."""
    for maximum in (2000, 1000, 500):
        shown = verdict.model_copy(update={"message": one_line(verdict.message, maximum)})
        message = shown.model_dump_json(by_alias=True)
        if len(message.encode()) <= MAXIMUM_BYTES:
            break
    return message


def parse_memory(message: str) -> MemoryVerdict | None:
    """Return the verdict in the termination message of such a pod; None when it holds none."""
    try:
        verdict = MemoryVerdict.model_validate_json(message)
    except ValidationError:
        return None
    return verdict.model_copy(update={"message": one_line(verdict.message, 2000)})


def parse_failure(message: str) -> Failure:
    """Return the failure in a termination message; without the trainer's own, Kubernetes gives the end of the log."""
    text = message.strip()
    reason, separator, rest = text.partition(": ")
    if separator and reason in {code.reason for code in ExitCode}:
        return Failure(reason, rest.strip())
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _END.match(line)]
    last = _END.sub("", errors[-1]) if errors else (lines[-1] if lines else "")
    return Failure(None, last.strip())


def failure_message(code: ExitCode, message: str) -> str:
    """Return the termination message of a program that has failed."""
    return f"{code.reason}: {message}"


def format_end(code: ExitCode, message: str, rank: int | None = None) -> str:
    """Return what a program that does not succeed writes to standard error as its last words.

    Args:
        code: its exit code.
        message: why it ends.
        rank: number of the process, where it is one of several that end together.
    """
    line = f"{_STOPPED if code is ExitCode.INTERRUPTED else _ERROR}: {message}"
    return line if rank is None else f"rank {rank}: {line}"


def find_end(output: str) -> str | None:
    """Return the message of one line or more with which a program has ended, from its output; None when there is
    none."""
    ends = list(_END.finditer(output))
    if not ends:
        return None
    message = output[ends[-1].end() :]
    # The other processes of a run may fail with it and say so.
    return "\n".join(line for line in message.strip().splitlines() if not _END_OF_RANK.match(line))
