"""`rft run`: trains the job of some manifests on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from rft_api.addresses import job_addresses
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.manifests import ManifestError, ManifestErrors, Manifests, resolve_source
from rft_api.model import Location
from rft_api.ports import free_port
from rft_api.progress import Progress
from rft_api.render import RewardAddress, render_trainer_config, reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.run_folder import RunFolder
from rft_api.same_run import changes_of_run
from rft_api.termination import find_end
from rft_api.trainer_config import TrainerConfig
from rft_cli.addresses import INPUTS, Places
from rft_cli.check import check_manifests
from rft_cli.display import Display
from rft_cli.history import History
from rft_cli.local_rewards import local_reward_errors
from rft_cli.processes import LOG_LINES, Program, RewardServer
from rft_cli.report import final_line, read_model, report
from rft_cli.texts import harmless

POLL_SECONDS = 0.5
_SIGNALLED = 128


def run(files: Sequence[Path], job_name: str | None, output: Path | None) -> None:
    """Trains the job; prints progress and report, and the result as the last line.

    Raises:
        ManifestErrors: when the manifests are wrong.
        RunError: when the run ends without a result.
    """
    console, notes = Console(), Console(stderr=True)
    found, errors = check_manifests(files)
    if errors:
        raise ManifestErrors(errors, found)
    job = _choose_job(found, job_name)
    folder = RunFolder(_output_folder(found, job, output))
    _require_local(found, job, output)
    for remark in _ignored(found, job):
        notes.print(Text(f"note: {remark}", style="dim"), soft_wrap=True)
    functions = {name: resolve_source(found.reward_functions[name], found.config_maps) for name in reward_names(job)}
    # The folder may be given on the command line; the manifest's own address of it is then no longer looked at.
    job = job.model_copy(
        update={
            "spec": job.spec.model_copy(update={"output": job.spec.output.model_copy(update={"uri": str(folder.path)})})
        }
    )
    places = Places(found.folders[job.metadata.name], folder.path, found.config_maps)
    with _locked(folder):
        _require_same_configuration(job, functions, places, folder)
        if not folder.summary.exists():
            places.write_inputs(job)
            _train(job, functions, places, folder, console)
        else:
            console.print(f"This run is finished; here is its report. Folder: {folder.path}", soft_wrap=True)
    finished = report(folder.path, console)
    if finished.summary is None:
        raise RunError(ExitCode.UNEXPECTED, f"the trainer ended without {folder.summary}")
    # Not through the console, which would wrap and colour it.
    print(final_line(finished, finished.summary), flush=True)


def _choose_job(found: Manifests, name: str | None) -> RFTJob:
    names = ", ".join(job.metadata.name for job in found.jobs)
    if not found.jobs:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "there is no RFTJob in the given files")
    if name is None and len(found.jobs) > 1:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"the given files define several RFTJobs; choose one with --job: {names}"
        )
    chosen = [job for job in found.jobs if name in (None, job.metadata.name)]
    if not chosen:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"there is no RFTJob {name} in the given files (defined: {names})"
        )
    return chosen[0]


def _output_folder(found: Manifests, job: RFTJob, output: Path | None) -> Path:
    if output is not None:
        return output.expanduser().resolve()
    return (found.folders[job.metadata.name] / Path(job.spec.output.uri).expanduser()).resolve()


def _require_local(found: Manifests, job: RFTJob, output: Path | None) -> None:
    """Refuses what only a cluster can do.

    Raises:
        ManifestErrors: with every field that asks for it.
    """
    errors: list[ManifestError] = []

    def refuse(kind: str, name: str, location: Location, message: str) -> None:
        errors.append(found.error(kind, name, location, message))

    job_name = job.metadata.name
    for address in job_addresses(job):
        is_output = address.role == "output"
        if address.scheme == "pvc" or (address.scheme == "s3" and is_output):
            if is_output and output is not None:
                continue
            hint = " (or give --output)" if is_output else ""
            message = f"{address.scheme}:// works in a cluster; on this machine, set a path{hint}"
            refuse("RFTJob", job_name, address.location, message)
    if job.spec.compute.nodes > 1:
        refuse("RFTJob", job_name, ("spec", "compute", "nodes"), "must be 1 on this machine")
    for name in reward_names(job):
        errors += local_reward_errors(found, found.reward_functions[name])
    if errors:
        raise ManifestErrors(errors, found)


def _ignored(found: Manifests, job: RFTJob) -> Iterator[str]:
    spec = job.spec
    fields = {
        "spec.endpoint": spec.endpoint,
        "spec.credentials": spec.credentials,
        "spec.queueName": spec.queue_name,
        "spec.suspend": spec.suspend,
        "spec.compute.pod": spec.compute.pod,
        "spec.limits.gpuHours": spec.limits.gpu_hours,
        "spec.limits.deadline": spec.limits.deadline,
    }
    stated = [field for field, value in fields.items() if value]
    if stated:
        yield f"ignored on this machine: {', '.join(stated)}"
    if found.endpoints:
        names = ", ".join(endpoint.metadata.name for endpoint in found.endpoints)
        yield f"InferenceEndpoint {names}: not created by a local run"


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Keeps two runs out of one folder; makes the folder."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = (folder.path / ".lock").open("a+")
    except OSError as error:
        raise RunError(
            ExitCode.OUTPUT_INVALID, f"the output folder {folder.path} cannot be written: {error.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise RunError(
                ExitCode.OUTPUT_INVALID, f"another rft run (process {holder}) is working in {folder.path}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _render(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, servers: Sequence[RewardServer]
) -> TrainerConfig:
    addresses = {server.name: RewardAddress(server.url, str(server.token_file)) for server in servers}
    unknown = {name: RewardAddress(url="", token_file=None) for name in functions}
    return render_trainer_config(job, functions, {**unknown, **addresses}, places.locate)


def _require_same_configuration(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, folder: RunFolder
) -> None:
    """Refuses to go on with a run under another configuration.

    Raises:
        RunError: OUTPUT_INVALID with the fields that differ.
    """
    before = read_model(folder.config, TrainerConfig)
    if before is None:
        return
    changes = changes_of_run(before, _render(job, functions, places, []))
    if changes:
        lines = "\n".join(f"  {c.path}: {_shown(c.before)} before, {_shown(c.after)} now" for c in changes)
        raise RunError(
            ExitCode.OUTPUT_INVALID,
            f"{folder.path} holds a run with another configuration:\n{lines}\n"
            f"Choose another folder (--output), delete this one, or undo the change to go on with this run.",
        )


def _shown(value: object) -> str:
    return harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


class _Interruption:
    """Counts Ctrl-C and SIGTERM, which end the run in an orderly way instead of at once."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    @contextmanager
    def listening(self) -> Iterator[_Interruption]:
        """Takes over the signals."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.count += 1

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _train(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, folder: RunFolder, console: Console
) -> None:
    with ExitStack() as stack:
        interruption = stack.enter_context(_Interruption().listening())
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rft-")))
        display = stack.enter_context(Display(console, job.metadata.name, History(folder.metrics)))
        starting = Progress(message="starting the reward servers and running their tests")
        display.update(starting)
        servers = [
            stack.enter_context(RewardServer(function, private, folder.path / f"reward-{name}.log"))
            for name, function in functions.items()
        ]

        def shall_stop() -> bool:
            display.update(starting)
            return bool(interruption)

        for server in servers:
            server.wait_until_ready(shall_stop)
        if interruption:
            raise RunError(ExitCode.INTERRUPTED, "stopped before training began")
        config = _render(job, functions, places, servers)
        atomic_write(folder.config, config.model_dump_json(by_alias=True, indent=2) + "\n")
        port = free_port()
        trainer = _start_trainer(config, folder, port)
        stack.callback(trainer.kill)
        code = _follow(trainer, port, servers, display, interruption)
        if code != ExitCode.SUCCEEDED:
            raise _failure(code, trainer, bool(interruption))


def _start_trainer(config: TrainerConfig, folder: RunFolder, port: int) -> Program:
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // config.compute.effective_processes_per_node)
    command = [sys.executable, "-m", "rft_trainer", str(folder.config), "--port", str(port)]
    command += ["--scratch", str(folder.path / INPUTS / "stored")]
    return Program(command, folder.path / "trainer.log", {"OMP_NUM_THREADS": str(threads), **os.environ})


def _follow(
    trainer: Program, port: int, servers: Sequence[RewardServer], display: Display, interruption: _Interruption
) -> int:
    """Shows the run until the trainer ends; returns its exit code."""
    progress, asked_to_stop = Progress(message="starting the trainer"), False
    with httpx.Client(timeout=2, trust_env=False) as client:
        while (code := trainer.exit_code()) is None:
            progress = _progress(client, port) or progress
            display.update(progress)
            for server in servers:
                if not interruption and server.keep_alive():
                    display.note(f"the reward server of {server.name} had ended and was started again")
            if interruption and not asked_to_stop:
                asked_to_stop = True
                trainer.terminate()
                display.note("saving a checkpoint; start the same command again to go on (Ctrl-C again: end at once)")
            if interruption.count > 1:
                trainer.kill()
                raise RunError(ExitCode.INTERRUPTED, "ended at once; the same command goes on from the last checkpoint")
            time.sleep(POLL_SECONDS)
    display.update(progress)
    return code


def _progress(client: httpx.Client, port: int) -> Progress | None:
    try:
        return Progress.model_validate_json(client.get(f"http://127.0.0.1:{port}/progress").content)
    except (httpx.HTTPError, ValidationError):
        return None  # not up yet, or too busy to answer now


def _failure(code: int, trainer: Program, interrupted: bool) -> RunError:
    stated = find_end(trainer.output())
    if code == ExitCode.INTERRUPTED or (interrupted and code == _SIGNALLED + signal.SIGTERM):
        return RunError(ExitCode.INTERRUPTED, stated or "stopped before a checkpoint; start again from the last one")
    if stated and code in {member.value for member in ExitCode}:
        return RunError(ExitCode(code), stated)
    reason = f"the trainer ended with code {code}"
    if code == _SIGNALLED + signal.SIGKILL:
        reason = "the trainer was killed (signal 9), most likely because memory ran out; lower tokensPerMicroBatch"
    elif code > _SIGNALLED:
        reason = f"the trainer was ended by signal {code - _SIGNALLED}"
    known = code in {member.value for member in ExitCode}
    tail = trainer.last_lines(LOG_LINES)
    return RunError(
        ExitCode(code) if known else ExitCode.UNEXPECTED, f"{reason}; the end of {trainer.log}:\n{harmless(tail)}"
    )
