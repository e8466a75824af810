"""One training process: sets up the process, runs a stage, and returns its exit code."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import pin_base_model
from rft_trainer.data import load_dataset
from rft_trainer.digests import check_inputs
from rft_trainer.ending import report_end, report_result
from rft_trainer.failures import explain
from rft_trainer.progress import ProgressReporter, RowCounter, serve_progress
from rft_trainer.progress_log import logged_progress


def run_worker(config: TrainerConfig, stage: str, port: int | None) -> ExitCode:
    """Run one stage (`warmup` or `train`) with the rank from the environment; return the exit code."""
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Their lines for every request and call would hide ours.
    for name in ("httpx", "httpcore", "datasets", "DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    # To find out why a run hangs: `kill -USR1` writes the stack of every thread to the log.
    faulthandler.register(signal.SIGUSR1)
    reporter = ProgressReporter(config.namespace, config.name)
    try:
        with ExitStack() as stack:
            if rank == 0 and port is not None:
                serve_progress(reporter, port)
            if rank == 0:
                stack.enter_context(logged_progress(reporter))
            code = _run_stage(config, stage, rank, reporter, stop)
        if config.compute.effective_deepspeed is not None:
            _leave_process_group()
        return code
    except Exception as error:
        run_error = explain(error, config, reporter.progress.phase)
        if run_error is not None:
            return report_end(run_error.code, run_error.message, rank)
        traceback.print_exc()
        return report_end(ExitCode.UNEXPECTED, f"{type(error).__name__}: {error}", rank)


def _run_stage(
    config: TrainerConfig, stage: str, rank: int, reporter: ProgressReporter, stop: threading.Event
) -> ExitCode:
    # Faults in addresses and data are reported at once. Everything below needs torch, which takes half a minute to
    # load.
    reporter.update(message="looking up the base model")
    commit = pin_base_model(config) if rank == 0 else None
    changed_inputs: list[str] = []
    if rank == 0:
        reporter.update(message="comparing the inputs with those that the run started with")
        changed_inputs = check_inputs(config, commit, reporter.report_bytes())
    reporter.update(message="reading data")
    rows = RowCounter(reporter)
    load_dataset(config.data, sys.maxsize, rows.count, config.sampling.system_prompt)
    reporter.update(message="loading libraries")
    # Objects that libraries create during import are never garbage. Searching them for garbage again and again would
    # take a large part of the start.
    gc.disable()
    import torch
    import transformers

    from rft_trainer.distributed import any_rank, local_rank
    from rft_trainer.memory import keep_freed_memory

    keep_freed_memory()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_tqdm_hook(partial(_report_weights, reporter))
    on_gpu = config.compute.on_gpus
    if on_gpu:
        if not torch.cuda.is_available():
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                "spec.compute.gpusPerNode asks for GPUs, and this machine has none; set gpusPerNode: 0 for CPUs",
            )
        torch.cuda.set_device(local_rank())
    if config.compute.effective_deepspeed is not None:
        _join_process_group(on_gpu)
    result = RunFolder(config.output).after_warmup(config.is_reinforced)
    if stage == "warmup" and any_rank(result.exists()):
        # If each machine has its own disk, only the first one knows that an earlier start has completed this stage.
        return ExitCode.SUCCEEDED
    # TRL imports vLLM if it is installed, which takes as long as all other imports together. Here only servers need it.
    from trl import import_utils

    import_utils.is_vllm_available = lambda *args, **kwargs: False
    from rft_trainer.flow import Run
    from rft_trainer.supervised import SupervisedRun

    gc.freeze()
    gc.enable()
    kind = Run if config.is_reinforced else SupervisedRun
    run = kind(config, commit, rows.total, reporter, stop.is_set)
    if stage == "warmup":
        run.warm_up()
    else:
        summary = run.train()
        if summary is not None:
            report_result(summary, changed_inputs)
    return ExitCode.SUCCEEDED


def _report_weights(
    reporter: ProgressReporter, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Replace transformers' progress bar for loading weights by reports to the reporter; keep its other bars."""
    if kwargs.get("desc") != "Loading weights" or not args:
        return factory(*args, **kwargs)

    def items() -> Iterator[Any]:
        report = reporter.part(len(args[0]), "weights")
        for number, item in enumerate(args[0], start=1):
            yield item
            report(number)

    return items()


def _join_process_group(on_gpu: bool) -> None:
    """Connect to the other ranks through DeepSpeed, which needs to know the process group."""
    import deepspeed
    from deepspeed import ops

    from rft_trainer.distributed import COLLECTIVE_TIMEOUT

    if not on_gpu:
        # Otherwise DeepSpeed would compile a C++ extension for collectives in shared memory, for a minute. gloo
        # suffices.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT)


def _leave_process_group() -> None:
    """End the threads of collective operations, because a running one would abort the process when Python exits."""
    import torch.distributed as dist

    dist.destroy_process_group()
