"""Starts the processes of a run on this machine, stage by stage, and exits with the code that says why it ended."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from rft_api.addresses import is_remote, is_stored
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write, open_new
from rft_api.foreign.files import read_document
from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.same_run import Change, changes_of_run
from rft_api.system_errors import NOT_WRITABLE, may_pass
from rft_api.trainer_config import TrainerConfig
from rft_trainer.ending import Ending, announce, with_missing
from rft_trainer.failures import explain
from rft_trainer.process_group import Command, ProcessGroup
from rft_trainer.trackers.processes import Followers, check_trackers, prepare_states

log = logging.getLogger(__name__)

_ALLOCATION = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=268435456"
"""Settings of glibc: ask for huge pages, keep tensors of up to 64 MiB on the heap, and keep 256 MiB of it when free."""


def main(arguments: list[str] | None = None) -> int:
    """Run the trainer's command line; return an exit code of `rft_api.exit_codes.ExitCode`."""
    parser = argparse.ArgumentParser(prog="rft_trainer", description="Trains as a run's job.json says.")
    parser.add_argument("config", type=Path, help="job.json")
    parser.add_argument("--port", type=int, default=9090, help="port of /progress and /metrics")
    parser.add_argument("--node-rank", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")))
    parser.add_argument("--master-address", default="127.0.0.1", help="host name of the first machine")
    parser.add_argument(
        "--master-port", type=int, default=0, help="first of two ports that the first machine listens on"
    )
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "rft", help="folder for copies of s3:// addresses"
    )
    parser.add_argument(
        "--compare-inputs",
        action="store_true",
        help="print the inputs that have changed since the run started, as a list in JSON, and end",
    )
    parser.add_argument("--stage", choices=["warmup", "train"], help="run one stage in this process (used internally)")
    options = parser.parse_args(arguments)
    config = _read_config(options.config)
    if isinstance(config, str):
        return announce(Ending(ExitCode.CONFIGURATION_INVALID, config))
    if options.stage:
        from rft_trainer.worker import run_worker

        return run_worker(config, options.stage, options.port)
    if config.compute.nodes > 1 and not options.master_port:
        parser.error("--master-port is needed with several nodes")
    # Workers write their stacks on this signal. The launcher handles it, too: it must survive a signal to the whole
    # group.
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    work = _compare_inputs if options.compare_inputs else _run
    return announce(_ending_of(lambda: work(options, config), config))


def _ending_of(work: Callable[[], Ending], config: TrainerConfig) -> Ending:
    """Do some work; return how it ended, also when it raised an error."""
    try:
        return work()
    except Exception as error:
        run_error = explain(error, config, "Starting")
        if run_error is None:
            traceback.print_exc()
            return Ending(ExitCode.UNEXPECTED, f"{type(error).__name__}: {error}")
        return Ending(run_error.code, run_error.message)


def _compare_inputs(options: argparse.Namespace, config: TrainerConfig) -> Ending:
    """Print which inputs are no longer what the run started with, and change nothing."""
    from rft_trainer.base_model import pin_base_model
    from rft_trainer.digests import changed_inputs

    if any(map(is_remote, _uris(config))):
        config = _with_local_inputs(options, config, options.port)
    from rft_trainer.copies import copying

    with copying(config, "Data", options.port) as report:
        report_bytes = partial(report, "comparing model and data with those that were measured")
        report_bytes(0, 0)  # nobody knows yet how much there is to read
        changes = changed_inputs(config, pin_base_model(config), report_bytes)
    print(json.dumps([name for _, name in changes]), flush=True)
    return Ending(ExitCode.SUCCEEDED)


def _run(options: argparse.Namespace, config: TrainerConfig) -> Ending:
    """Run the stages, with local copies of what is in object stores; return why the run has ended."""
    check_trackers(config)
    group = ProcessGroup()
    if any(map(is_remote, _uris(config))):
        return _run_with_copies(group, options, config)
    _claim_output(config, config.output)
    return _run_stages(group, options, options.config, config)


def _run_with_copies(group: ProcessGroup, options: argparse.Namespace, config: TrainerConfig) -> Ending:
    """Fetch inputs from object stores, run the stages, and copy the result to the configured output."""
    _quiet_clients()
    # boto3 takes a while to import, and most runs on one machine need none of this.
    from rft_trainer.copies import copying
    from rft_trainer.mirror import Mirror

    port = options.port if options.node_rank == 0 else None
    mirror = None
    output = config.output
    if is_stored(output):
        output = str(options.scratch / "output")
        if options.node_rank == 0:
            mirror = Mirror(RunFolder(output), config.output)
            with copying(config, "Fetching", port) as report:
                mirror.fetch(partial(report, config.output))
        else:
            # Files here may be of an older start. The first machine has the current ones, and copies to the others
            # those that they read, so that all machines resume from the same state.
            shutil.rmtree(output, ignore_errors=True)
    _claim_output(config, output)
    if mirror:
        prepare_states(RunFolder(output), config)
        mirror.start()

    def run_stages() -> Ending:
        local = _with_local_inputs(options, config, port).model_copy(update={"output": output})
        file = options.scratch / "job.json"
        atomic_write(file, local.model_dump_json(by_alias=True))
        own_disks = is_stored(config.output) and config.compute.nodes > 1
        return _run_stages(group, options, file, local, own_disks)

    ending = _ending_of(run_stages, config)
    if mirror:
        try:
            with copying(config, "Exporting", port) as report:
                mirror.finish(partial(report, config.output))
        except RunError as error:
            if not ending.code.permanent:
                raise
            # The user must first correct the fault that has ended the run.
            log.warning("%s", error.message)
    return ending


def _with_local_inputs(options: argparse.Namespace, config: TrainerConfig, port: int | None = None) -> TrainerConfig:
    """Fetch the inputs that are elsewhere; return the configuration with the paths of the copies."""
    _quiet_clients()
    from rft_trainer.copies import copying
    from rft_trainer.inputs import fetch_inputs

    with copying(config, "Fetching", port) as report:
        return fetch_inputs(config, options.scratch / "inputs", report)


def _quiet_clients() -> None:
    """Keep the lines of the clients of object stores for every request out of the log."""
    for name in ("boto3", "botocore", "s3transfer"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _run_stages(
    group: ProcessGroup, options: argparse.Namespace, file: Path, config: TrainerConfig, own_disks: bool = False
) -> Ending:
    """Run the stages, while the first machine sends what they write to the trackers."""
    if options.node_rank > 0 or not config.trackers:
        return _run_in_order(group, options, file, config, own_disks)
    followers, code = Followers(RunFolder(config.output), config), ExitCode.UNEXPECTED
    try:
        ending = _run_in_order(group, options, file, config, own_disks)
        code = ending.code
    finally:
        missing = followers.finish(code)
    return with_missing(ending, missing)


def _run_in_order(
    group: ProcessGroup, options: argparse.Namespace, file: Path, config: TrainerConfig, own_disks: bool
) -> Ending:
    # If machines have disks of their own, only the first one knows whether the warm-up is complete. So all start the
    # stage, whose processes ask one another.
    result = RunFolder(config.output).after_warmup(config.is_reinforced)
    warm_up = config.warmup and (own_disks or not result.exists())
    if warm_up:
        ending = group.run(_commands(options, file, config, "warmup", own_disks))
        if ending.code != ExitCode.SUCCEEDED:
            return ending
    return group.run(_commands(options, file, config, "train", own_disks))


def _uris(config: TrainerConfig) -> list[str]:
    return [config.model, config.output, *(item.source.uri for item in config.sources())]


def _commands(
    options: argparse.Namespace, file: Path, config: TrainerConfig, stage: str, own_disks: bool
) -> list[Command]:
    """Return the commands that start the processes on this machine.

    The variables are those that torch.distributed reads, and RFT_OWN_DISKS: 1 when every machine has a run folder of
    its own, 0 when all have the same.
    """
    count = config.compute.effective_processes_per_node
    command = [sys.executable, "-m", "rft_trainer", str(file), "--stage", stage, "--port", str(options.port)]
    threads = str(max(1, _available_cpus() // count))
    # The libraries must not send usage data to the Hugging Face hub.
    shared = {"OMP_NUM_THREADS": threads, "HF_HUB_DISABLE_TELEMETRY": "1", **os.environ}
    if "OMP_WAIT_POLICY" not in shared:
        # A thread that waits for the next operation spins for half a millisecond, and then sleeps. When it sleeps at
        # once, a small model generates a fifth slower; the longer it spins, the more it delays other programs.
        shared.setdefault("GOMP_SPINCOUNT", "10000")
    if not config.compute.on_gpus:
        # Nothing is compiled on CPUs, and DeepSpeed would import torch's compiler for an optimizer that is not used.
        shared.setdefault("TORCHDYNAMO_DISABLE", "1")
        # With the defaults, most large tensors get new memory, which the kernel clears page by page: in the quickstart
        # about 100,000 times while it samples for a step. Without that, sampling takes a tenth less CPU time.
        shared.setdefault("GLIBC_TUNABLES", _ALLOCATION)
    if config.compute.effective_deepspeed is None:
        # There is one process. With the variables below, accelerate would wrap the model for several.
        return [Command(0, command, shared)]
    # Each stage has its own port: other machines may start the next stage while the first one still exports the
    # warm-up.
    port = options.master_port + (stage == "warmup") if options.master_port else free_port()
    shared |= {
        "WORLD_SIZE": str(config.compute.world_size),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": options.master_address,
        "MASTER_PORT": str(port),
        "RFT_OWN_DISKS": str(int(own_disks)),
    }
    first = options.node_rank * count
    return [
        Command(first + local, command, {**shared, "RANK": str(first + local), "LOCAL_RANK": str(local)})
        for local in range(count)
    ]


def _read_config(path: Path) -> TrainerConfig | str:
    try:
        return read_document(path, TrainerConfig)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return f"{path}: {details}"
    except ValueError as error:
        return f"{path}: {error}"


def _claim_output(config: TrainerConfig, output: str) -> None:
    """Claim the local folder `output` for this run; messages name the configured output instead.

    Raises:
        RunError: when the folder cannot be used, with the code of `_output_problem`.
    """
    problem = _output_problem(config, RunFolder(output))
    if problem:
        raise RunError(problem.code, problem.message.replace(output, config.output))


def _output_problem(config: TrainerConfig, folder: RunFolder) -> Ending | None:
    """Write the configuration to the output folder; return the problem if the folder cannot be used."""
    previous_config = None
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if folder.config.exists():
            previous_config = read_document(folder.config, TrainerConfig)
            changes = changes_of_run(previous_config, config)
            if changes:
                return Ending(
                    ExitCode.OUTPUT_INVALID,
                    f"{folder.path} holds another run: {_names(changes)} from its job.json; "
                    f"choose another output or remove the folder",
                )
        elif any(folder.path.glob("*.jsonl")) or folder.checkpoints.exists():
            return Ending(
                ExitCode.OUTPUT_INVALID,
                f"{folder.path} holds files of a run without its job.json; choose another output",
            )
        probe = folder.path / ".writable"
        with open_new(probe) as file:
            file.write(b"\n")
        probe.unlink()
        if previous_config != config:
            atomic_write(folder.config, config.model_dump_json(by_alias=True, indent=2) + "\n")
    except OSError as error:
        text = f"{folder.path} cannot be written to: {error.strerror}"
        if may_pass(error):
            return Ending(ExitCode.STORAGE_UNREACHABLE, f"{text}; look at the disk, or at the server behind the folder")
        if error.errno in NOT_WRITABLE and error.errno != errno.EROFS:
            return Ending(ExitCode.OUTPUT_FAILED, f"{text}: {NOT_WRITABLE[error.errno]} and start again")
        return Ending(ExitCode.OUTPUT_INVALID, text)
    except ValueError:  # pydantic's ValidationError, or it is too large
        return Ending(ExitCode.OUTPUT_INVALID, f"{folder.config} is not a run's configuration; choose another output")
    return None


def _names(changes: Sequence[Change]) -> str:
    return f"{', '.join(change.path for change in changes)} {'differs' if len(changes) == 1 else 'differ'}"


def _available_cpus() -> int:
    """Return the number of CPUs that this process may use, from its affinity and the limit of its cgroup, if any."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, max(1, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cpus
