"""`rft run`: train the model of a job on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from rft_api.addresses import job_addresses
from rft_api.exact_json import parse_text
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write, open_in_place
from rft_api.foreign.text import one_line, printable
from rft_api.manifests import ManifestError, ManifestErrors, Manifests, resolve_source
from rft_api.model import Location
from rft_api.ports import free_port
from rft_api.progress import Progress
from rft_api.render import RewardAddress, render_trainer_config, reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.run_folder import RunFolder
from rft_api.same_run import changes_of_run
from rft_api.scratch import scratch_folder
from rft_api.termination import find_end
from rft_api.tracker_state import missing_sentences
from rft_api.trackers import missing_packages
from rft_api.trainer_config import TrainerConfig
from rft_cli.addresses import INPUTS, Places
from rft_cli.check import check_manifests
from rft_cli.console import make_console
from rft_cli.display import Display
from rft_cli.history import History
from rft_cli.interruption import Interruption
from rft_cli.local_rewards import local_reward_errors
from rft_cli.processes import LOG_LINES, Program, RewardServer
from rft_cli.report import read_model, report
from rft_cli.result_line import final_line
from rft_cli.track import take_over_trackers

POLL_SECONDS = 0.5
_STALE = """\
This report is of what was measured, which is not what is there now. These inputs have changed since:
{changes}
To measure what is there now, start another run: choose another folder (--output). This one stays as it is."""
_NOT_COMPARED = """\
This report is of what was measured. Whether model and data are still the same could not be found out: {message}"""
_SIGNAL_BASE = 128
"""The exit code of a program that signal N has ended is this plus N."""


def run(files: Sequence[Path], job_name: str | None, output: Path | None) -> None:
    """Train the model of the job; print the progress, the report and, as the last line, the result in JSON.

    Raises:
        ManifestErrors: when a manifest is wrong, or needs a cluster.
        RunError: when the run ends without a result.
    """
    console, notes = make_console(), make_console(stderr=True)
    manifests, errors = check_manifests(files)
    if errors:
        raise ManifestErrors(errors, manifests)
    job = choose_job(manifests, job_name)
    folder = RunFolder(_output_folder(manifests, job, output))
    _require_local(manifests, job, output)
    for remark in _ignored_fields(manifests, job):
        notes.print(Text(f"note: {remark}", style="dim"), soft_wrap=True)
    functions = {
        name: resolve_source(manifests.reward_functions[name], manifests.config_maps) for name in reward_names(job)
    }
    # The folder on the command line replaces the address in the manifest.
    job = job.model_copy(
        update={
            "spec": job.spec.model_copy(update={"output": job.spec.output.model_copy(update={"uri": str(folder.path)})})
        }
    )
    places = Places(manifests.folders[job.metadata.name], folder.path, manifests.config_maps)
    with _lock(folder):
        _require_same_configuration(job, functions, places, folder)
        changes: list[str] | None = []
        remark = ""
        places.write_inputs(job)
        if not folder.summary.exists():
            _train(job, functions, places, folder, console)
        else:
            take_over_trackers(folder, job.spec.trackers)
            console.print(f"This run is finished; here is its report. Folder: {folder.path}", soft_wrap=True)
            try:
                changes = _compare_inputs(_render(job, functions, places, []), folder, console)
                remark = _STALE.format(changes="\n".join(f"  {name}" for name in changes)) if changes else ""
            except RunError as error:
                changes, remark = None, _NOT_COMPARED.format(message=error.message)
    result = report(folder.path, console)
    if result.summary is None:
        raise RunError(ExitCode.UNEXPECTED, f"the trainer ended without {folder.summary}")
    if remark:
        console.print(Text(remark, style="bold yellow"), soft_wrap=True)
    for sentence in missing_sentences(folder, job.spec.trackers, str(folder.path)):
        console.print(Text(sentence, style="bold yellow"), soft_wrap=True)
    # print instead of the console, which would wrap and colour the line.
    print(final_line(result, result.summary, changes), flush=True)


def choose_job(manifests: Manifests, name: str | None) -> RFTJob:
    """Return the job of this name, or the only one.

    Raises:
        RunError: CONFIGURATION_INVALID when there is none, or there are several and no name.
    """
    names = ", ".join(job.metadata.name for job in manifests.jobs)
    if not manifests.jobs:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "there is no RFTJob in the given files")
    if name is None and len(manifests.jobs) > 1:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"the given files define several RFTJobs; choose one with --job: {names}"
        )
    jobs = [job for job in manifests.jobs if name in (None, job.metadata.name)]
    if not jobs:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"there is no RFTJob {name} in the given files (defined: {names})"
        )
    return jobs[0]


def _output_folder(manifests: Manifests, job: RFTJob, output: Path | None) -> Path:
    if output is not None:
        return output.expanduser().resolve()
    return (manifests.folders[job.metadata.name] / Path(job.spec.output.uri).expanduser()).resolve()


def _require_local(manifests: Manifests, job: RFTJob, output: Path | None) -> None:
    """Refuse a job that needs a cluster.

    Raises:
        ManifestErrors: with every field that needs a cluster, or something that this machine lacks.
    """
    errors: list[ManifestError] = []

    def refuse(kind: str, name: str, location: Location, message: str) -> None:
        errors.append(manifests.error(kind, name, location, message))

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
    for location, problem in missing_packages(job.spec.trackers):
        refuse("RFTJob", job_name, location, problem)
    for name in reward_names(job):
        errors += local_reward_errors(manifests, manifests.reward_functions[name])
    if errors:
        raise ManifestErrors(errors, manifests)


def _ignored_fields(manifests: Manifests, job: RFTJob) -> Iterator[str]:
    """Yield remarks about fields and resources that have no effect on this machine."""
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
    ignored = [field for field, value in fields.items() if value]
    if ignored:
        yield f"ignored on this machine: {', '.join(ignored)}"
    if manifests.endpoints:
        names = ", ".join(endpoint.metadata.name for endpoint in manifests.endpoints)
        yield f"InferenceEndpoint {names}: not created by a local run"


@contextmanager
def _lock(folder: RunFolder) -> Iterator[None]:
    """Create the folder of a run, and lock it, so that no second run can use it.

    Raises:
        RunError: OUTPUT_INVALID when the folder cannot be written, or another run uses it.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = open_in_place(folder.path / ".lock")
    except OSError as error:
        raise RunError(
            ExitCode.OUTPUT_INVALID, f"the output folder {folder.path} cannot be written: {error.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = one_line(lock.read(20).decode("utf-8", "replace"))
            raise RunError(
                ExitCode.OUTPUT_INVALID, f"another rft run (process {holder}) is working in {folder.path}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        yield


def _render(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, servers: Sequence[RewardServer]
) -> TrainerConfig:
    """Render the configuration of the trainer; rewards without a server get an empty address."""
    addresses = {server.name: RewardAddress(server.url, str(server.token_file)) for server in servers}
    empty_addresses = {name: RewardAddress(url="", token_file=None) for name in functions}
    return render_trainer_config(job, functions, {**empty_addresses, **addresses}, places.locate)


def _require_same_configuration(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, folder: RunFolder
) -> None:
    """Refuse to resume a run with another configuration.

    Raises:
        RunError: OUTPUT_INVALID with the fields that differ.
    """
    previous = read_model(folder.config, TrainerConfig)
    if previous is None:
        return
    changes = changes_of_run(previous, _render(job, functions, places, []))
    if changes:
        lines = "\n".join(f"  {c.path}: {_value_text(c.before)} before, {_value_text(c.after)} now" for c in changes)
        raise RunError(
            ExitCode.OUTPUT_INVALID,
            f"{folder.path} holds a run with another configuration:\n{lines}\n"
            f"Choose another folder (--output), delete this one, or undo the change to go on with this run.",
        )


def _value_text(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _train(
    job: RFTJob, functions: dict[str, RewardFunction], places: Places, folder: RunFolder, console: Console
) -> None:
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption().listening())
        private = stack.enter_context(scratch_folder())
        display = stack.enter_context(Display(console, job.metadata.name, History(folder.metrics)))
        tests = sum(len(function.spec.tests) for function in functions.values())
        starting = Progress(message=f"starting the reward servers and running their {tests} tests")
        servers = []
        for name, function in functions.items():
            requirements = ", ".join(function.spec.requirements())
            installing = Progress(message=f"installing the packages of reward {name}: {requirements}")
            on_wait = partial(display.update, installing if requirements else starting)
            on_wait()
            log = folder.path / f"reward-{name}.log"
            servers.append(stack.enter_context(RewardServer(function, private, log, on_wait)))

        def is_cancelled() -> bool:
            display.update(starting)
            return bool(interruption)

        for server in servers:
            server.wait_until_ready(is_cancelled)
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


def _compare_inputs(config: TrainerConfig, folder: RunFolder, console: Console) -> list[str]:
    """Return the names of the inputs of a finished run that are no longer what it has measured.

    Raises:
        RunError: when they cannot be compared.
    """
    with scratch_folder() as private, Display(console, config.name, History(folder.metrics)) as display:
        file = private / "job.json"
        atomic_write(file, config.model_dump_json(by_alias=True))
        port = free_port()
        command = [sys.executable, "-m", "rft_trainer", str(file), "--compare-inputs", "--port", str(port)]
        command += ["--scratch", str(folder.path / INPUTS / "stored")]
        trainer = Program(command, private / "trainer.log", os.environ)
        progress = Progress(phase="Data", message="comparing model and data with those that were measured")
        try:
            with httpx.Client(timeout=2, trust_env=False) as client:
                while (code := trainer.exit_code()) is None:
                    progress = _ask_progress(client, port) or progress
                    display.update(progress)
                    time.sleep(POLL_SECONDS)
        finally:
            trainer.kill()
        if code != ExitCode.SUCCEEDED:
            raise _failure(code, trainer, False)
        names: list[str] = parse_text(trainer.last_lines(1))
        return names


def _start_trainer(config: TrainerConfig, folder: RunFolder, port: int) -> Program:
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // config.compute.effective_processes_per_node)
    command = [sys.executable, "-m", "rft_trainer", str(folder.config), "--port", str(port)]
    command += ["--scratch", str(folder.path / INPUTS / "stored")]
    return Program(command, folder.path / "trainer.log", {"OMP_NUM_THREADS": str(threads), **os.environ})


def _follow(
    trainer: Program, port: int, servers: Sequence[RewardServer], display: Display, interruption: Interruption
) -> int:
    """Show the run until the trainer ends, and return its exit code.

    Raises:
        RunError: INTERRUPTED after the second interruption, REWARD_FAILING when a reward server ends too often.
    """
    progress, stop_requested = Progress(message="starting the trainer"), False
    with httpx.Client(timeout=2, trust_env=False) as client:
        while (code := trainer.exit_code()) is None:
            progress = _ask_progress(client, port) or progress
            display.update(progress)
            for server in servers:
                if not interruption and server.keep_alive():
                    display.note(f"the reward server of {server.name} had ended and was started again")
            if interruption and not stop_requested:
                stop_requested = True
                trainer.terminate()
                display.note("saving a checkpoint; start the same command again to go on (Ctrl-C again: end at once)")
            if interruption.count > 1:
                trainer.kill()
                raise RunError(ExitCode.INTERRUPTED, "ended at once; the same command resumes from the last checkpoint")
            time.sleep(POLL_SECONDS)
    display.update(progress)
    return code


def _ask_progress(client: httpx.Client, port: int) -> Progress | None:
    try:
        return Progress.model_validate_json(client.get(f"http://127.0.0.1:{port}/progress").content)
    except (httpx.HTTPError, ValidationError):
        return None  # The trainer has not started its server yet, or is too busy to answer now.


def _failure(code: int, trainer: Program, interrupted: bool) -> RunError:
    """Return the error of a trainer that has failed: its own message, or else the end of its log."""
    message = find_end(trainer.output())
    if code == ExitCode.INTERRUPTED or (interrupted and code == _SIGNAL_BASE + signal.SIGTERM):
        return RunError(ExitCode.INTERRUPTED, message or "stopped before a checkpoint; start again from the last one")
    has_meaning = code in {member.value for member in ExitCode}
    if message and has_meaning:
        return RunError(ExitCode(code), message)
    reason = f"the trainer ended with code {code}"
    if code == _SIGNAL_BASE + signal.SIGKILL:
        reason = "the trainer was killed (signal 9), most likely because memory ran out; lower tokensPerMicroBatch"
    elif code > _SIGNAL_BASE:
        reason = f"the trainer was ended by signal {code - _SIGNAL_BASE}"
    tail = trainer.last_lines(LOG_LINES)
    return RunError(
        ExitCode(code) if has_meaning else ExitCode.UNEXPECTED,
        f"{reason}; the end of {trainer.log}:\n{printable(tail)}",
    )
