"""Turns errors of libraries and of the system into an exit code and a sentence that says what to do.

This module does not import torch, because an error may occur before torch is loaded, or while it is loaded.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import open_new
from rft_api.foreign.text import one_line
from rft_api.progress import Phase
from rft_api.system_errors import NOT_WRITABLE, UNAVAILABLE
from rft_api.trainer_config import TrainerConfig

Operation = Literal["loading", "generation", "vLLM", "update", "export"]
"""An operation whose need of memory depends on the configuration."""

_MEMORY_TEXTS = (
    # torch and CUDA; glibc and the dynamic loader; cuBLAS and cuDNN; C++
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "failed to map segment from shared object", "_status_alloc_failed", "std::bad_alloc",
    # vLLM, while it starts
    "no available memory for the cache blocks", "larger than the available kv cache memory", "free memory on device",
)  # fmt: skip
_WRITER_TEXTS = ("inline_container.cc", "PytorchStreamWriter", "Error while serializing: I/O error")
_PROBE_BYTES = 1 << 20


class OutOfMemory(Exception):
    """Memory ran out in an operation."""

    def __init__(self, operation: Operation, text: str):
        super().__init__(text)
        self.operation = operation


@contextmanager
def memory_for(operation: Operation) -> Iterator[None]:
    """Raise OutOfMemory with this operation when memory runs out inside the context; a nested operation has precedence.

    Raises:
        OutOfMemory: in place of the library's error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(operation, first_line(error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error or one of its causes says that memory ran out, on a device or in the process."""
    for link in _chain(error):
        if isinstance(link, (MemoryError, OutOfMemory)):
            return True
        # CUDA's error class is a subclass of RuntimeError; vLLM raises ValueError.
        if isinstance(link, (RuntimeError, OSError, ImportError, ValueError)):
            text = str(link).lower()
            if any(part in text for part in _MEMORY_TEXTS):
                return True
    return False


def explain(error: Exception, config: TrainerConfig, phase: Phase) -> RunError | None:
    """Return the error that ends the run, in the user's terms; None for an error that only a developer understands.

    Args:
        error: the error that was raised.
        config: the run's configuration, for advice on values to lower.
        phase: the stage in which the error was raised.
    """
    if isinstance(error, RunError):
        return error
    if is_out_of_memory(error):
        memory_error = next((link for link in _chain(error) if isinstance(link, OutOfMemory)), None)
        operation = memory_error.operation if memory_error else "update" if phase in ("WarmUp", "Training") else None
        where = f"out of memory {_WHILE[operation]}" if operation else "out of memory"
        text = f"{where}: {first_line(memory_error or error)}; {memory_advice(operation, config, phase)}"
        return RunError(ExitCode.OUT_OF_MEMORY, text)
    path = getattr(error, "filename", None) or config.output
    number = _system_error(error, Path(config.output))
    if number in NOT_WRITABLE:
        return RunError(ExitCode.OUTPUT_FAILED, f"{path}: {first_line(error)}: {NOT_WRITABLE[number]} and start again")
    if isinstance(error, OSError) and number in UNAVAILABLE:
        return RunError(
            ExitCode.STORAGE_UNREACHABLE,
            f"{path}: {first_line(error)}: look at the disk, or at the server that the folder is mounted from, and "
            f"start again",
        )
    return None


_WHILE: dict[Operation, str] = {
    "loading": "while a model was loaded",
    "generation": "while completions were generated",
    "vLLM": "in vLLM",
    "update": "in an update of the weights",
    "export": "while the model was exported",
}


def memory_advice(operation: Operation | None, config: TrainerConfig, phase: Phase) -> str:
    """Return advice for a run whose memory has run out: the values to lower, and what they are now."""
    training, compute = config.hyperparameters, config.compute
    parameters, deepspeed = "spec.hyperparameters", compute.effective_deepspeed
    more = "use GPUs with more memory" if compute.on_gpus else "give it more memory (spec.compute.pod)"
    lengths = (
        f"lower {parameters}.maxCompletionTokens ({training.max_completion_tokens}) or maxPromptTokens "
        f"({training.max_prompt_tokens})"
    )
    advice: list[str] = []
    if operation == "generation":
        advice.append(lengths)
        if phase == "Training":
            advice.append(
                f"lower batchSize ({training.batch_size}) or samplesPerPrompt ({training.samples_per_prompt})"
            )
        if compute.on_gpus and compute.rollout_engine != "vLLM":
            advice.append("set spec.compute.rollouts.engine: vLLM")
    elif operation == "vLLM":
        advice += [lengths, "set spec.compute.rollouts.engine: InProcess"]
    elif operation == "update":
        if phase == "WarmUp" and config.warmup is not None:
            advice.append(
                f"lower spec.warmup.batchSize ({config.warmup.batch_size}), or leave the longest conversations out"
            )
        elif training.effective_tokens_per_micro_batch is not None:
            advice.append(
                f"lower {parameters}.tokensPerMicroBatch ({training.effective_tokens_per_micro_batch}), down to "
                f"maxPromptTokens + maxCompletionTokens ({training.max_tokens})"
            )
        elif config.effective_micro_batch_size > 1:
            advice.append(f"lower {parameters}.microBatchSize ({config.effective_micro_batch_size})")
        else:
            advice.append(lengths)
        if deepspeed is not None and compute.world_size > 1 and deepspeed.zero_stage < 3:
            advice.append(f"raise spec.compute.deepspeed.zeroStage ({deepspeed.zero_stage})")
        if compute.on_gpus and not (deepspeed is not None and deepspeed.offload == "Optimizer"):
            advice.append("keep the optimizer's state in host memory (spec.compute.deepspeed.offload: Optimizer)")
    if operation in ("loading", "update") and config.tuning.type == "Full":
        advice.append("train an adapter (spec.tuning.type: LoRA)")
    if operation in ("loading", "export") and compute.effective_processes_per_node > 1 and not compute.on_gpus:
        advice.append(f"lower spec.compute.processesPerNode ({compute.effective_processes_per_node})")
    return ", or ".join([*advice, more])


def write_failure(error: Exception, folder: Path) -> str | None:
    """Return what to do about an error of writing below a folder; None for other errors."""
    number = _system_error(error, folder)
    if number in NOT_WRITABLE:
        return NOT_WRITABLE[number]
    if isinstance(error, OSError) or _is_of_a_writer(error):
        return "see whether the disk works and files may be written there"
    return None


def _system_error(error: BaseException, folder: Path) -> int | None:
    """Return the system's error number behind an error, or None; a library may only repeat the system's text for it.

    torch does not say why its writer has failed. Then this function writes a probe to the folder to find out.
    """
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno is not None:
            return link.errno
    for link in _chain(error):
        for number in (*NOT_WRITABLE, errno.EIO):
            if os.strerror(number) in str(link):
                return number
    return _probe(folder) if _is_of_a_writer(error) else None


def _is_of_a_writer(error: BaseException) -> bool:
    """Return whether torch or safetensors have raised the error because they could not write a file."""
    return any(text in str(link) for link in _chain(error) for text in _WRITER_TEXTS)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text.

    Where the first line only announces the next one with a colon, that is part of it.
    """
    lines = str(error).strip().splitlines()
    announces = len(lines) > 1 and lines[0].endswith(":")
    return one_line(" ".join(lines[: 1 + announces])) if lines else type(error).__name__


def _probe(folder: Path) -> int | None:
    path = folder / ".probe"
    try:
        with open_new(path) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return error.errno
    finally:
        path.unlink(missing_ok=True)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    link_ids: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in link_ids:
        link_ids.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
