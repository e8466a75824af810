"""Errors that only happen on machines that are too small or broken: provoked for real, and sorted by who mends them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import digits_rows, write_jsonl, write_model
from support.trainer import TrainerProgram, hyperparameters, job_spec, render, train_in_process
from trl import GRPOTrainer

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.termination import parse_failure
from rft_trainer import process_group
from rft_trainer.ending import ProcessEnd, announce, group_ending
from rft_trainer.failures import explain, memory_for, write_failure
from rft_trainer.process_group import Command, ProcessGroup

# Runs one statement with little more memory than the process has, and says what kind of error that was.
MEMORY_PROBE = """
import resource, sys
import numpy, torch
from safetensors.torch import load_file
from rft_trainer.failures import is_out_of_memory
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
try:
    exec(sys.argv[1])
except Exception as error:
    print(is_out_of_memory(error))
"""

# Limits a trainer's memory to what it has and a little more when its progress says that a stage has begun.
LIMIT_AT_A_STAGE = """
import os, resource
from rft_trainer.progress import ProgressReporter
update = ProgressReporter.update
def limited(self, **fields):
    update(self, **fields)
    if fields.get("message") == os.environ["LIMIT_AT"]:
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
ProgressReporter.update = limited
"""


def start(spec, folder, rewards, **options):
    config = render(spec, folder, rewards.url, rewards.token_file)
    return TrainerProgram(config, folder, free_port(), **options)


@pytest.mark.parametrize(
    "statement",
    [
        "torch.ones(1 << 30)",
        "a = torch.ones(1 << 12, 1 << 10, requires_grad=True); (a @ a.T @ a).sum().backward()",
        "numpy.ones(1 << 30)",
        "bytearray(1 << 30)",
        "load_file('large.safetensors')",
        "torch.load('large.pt', mmap=True)",
    ],
)
def test_memory_that_runs_out_is_recognized(tmp_path, statement):
    tensors = {"weight": torch.zeros(100 << 18)}
    if "safetensors" in statement:
        save_file(tensors, tmp_path / "large.safetensors")
    if "large.pt" in statement:
        torch.save(tensors, tmp_path / "large.pt")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE, statement], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.stdout == "True\n", run.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
)
def test_the_words_for_memory_that_runs_out_on_gpus(error, config):
    assert explain(error, config, "Training").code is ExitCode.OUT_OF_MEMORY


@pytest.fixture
def config(tmp_path, model, data):
    return render(job_spec(model, data, tmp_path / "out"), tmp_path, "http://127.0.0.1:1", None)


def advice(config, operation, phase):
    try:
        with memory_for(operation or "update"):
            raise MemoryError
    except Exception as error:
        return explain(error if operation else MemoryError(), config, phase).message


def test_the_message_says_what_to_lower(tmp_path, model, data, config):
    assert advice(config, "update", "Training").startswith(
        "out of memory in an update of the weights: MemoryError; lower spec.hyperparameters.microBatchSize (8), or "
        "train an adapter (spec.tuning.type: LoRA)"
    )
    assert "lower spec.hyperparameters.maxCompletionTokens (8) or maxPromptTokens (32)" in advice(
        config, "generation", "Baseline"
    )
    assert "batchSize (4) or samplesPerPrompt (4)" in advice(config, "generation", "Training")
    assert "batchSize" not in advice(config, "generation", "Baseline"), "it does not matter to an evaluation"
    assert "while a model was loaded" in advice(config, "loading", "Baseline")
    assert advice(config, None, "Training") == advice(config, "update", "Training")
    assert advice(config, None, "Data") == "out of memory: MemoryError; give it more memory (spec.compute.pod)"
    single = config.hyperparameters.model_copy(update={"micro_batch_size": 1})
    smallest = config.model_copy(update={"hyperparameters": single})
    assert "maxCompletionTokens (8)" in advice(smallest, "update", "Training"), "there is no smaller micro-batch"
    spec = job_spec(
        model, data, tmp_path / "out", hyperparameters=hyperparameters(microBatchSize=4),
        compute={"gpusPerNode": 4, "rollouts": {"engine": "vLLM"}}, tuning={"type": "LoRA"},
        warmup={"data": [{"name": "w", "uri": "w"}], "batchSize": 16},
    )  # fmt: skip
    on_gpus = render(spec, tmp_path, "http://127.0.0.1:1", None)
    update = advice(on_gpus, "update", "Training")
    assert "raise spec.compute.deepspeed.zeroStage (2)" in update
    assert "spec.compute.deepspeed.offload: Optimizer" in update
    assert "LoRA" not in update
    assert "lower spec.warmup.batchSize (16)" in advice(on_gpus, "update", "WarmUp")
    assert "spec.compute.rollouts.engine: InProcess" in advice(on_gpus, "vLLM", "Training")


def limited_at(stage, tmp_path):
    folder = tmp_path / "hooks"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LIMIT_AT_A_STAGE)
    return {"PYTHONPATH": str(folder), "LIMIT_AT": stage}


def test_a_model_that_does_not_fit_ends_the_run_for_good(tmp_path, data, rewards):
    large = write_model(tmp_path / "large", hidden=1024, layers=8)
    run = start(
        job_spec(large, data, tmp_path / "out"),
        tmp_path / "run",
        rewards,
        environment=limited_at("loading the model", tmp_path),
    )
    assert run.wait() == ExitCode.OUT_OF_MEMORY, run.log
    assert "error: out of memory while a model was loaded: " in run.log
    assert "train an adapter (spec.tuning.type: LoRA)" in run.log
    assert "Traceback" not in run.log


def test_completions_that_do_not_fit_end_the_run_for_good(tmp_path, model, data, rewards):
    rows = digits_rows(24, 4, seed=7)
    for row in rows:
        row["messages"][0]["content"] *= 20_000
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxPromptTokens=100_000))
    spec["data"]["test"][0]["uri"] = str(write_jsonl(tmp_path / "long.jsonl", rows))
    run = start(spec, tmp_path / "run", rewards, environment=limited_at("scoring the base model", tmp_path))
    assert run.wait() == ExitCode.OUT_OF_MEMORY, run.log
    assert "error: out of memory while completions were generated: " in run.log
    assert "maxCompletionTokens (8) or maxPromptTokens (100000)" in run.log
    assert "Traceback" not in run.log


def test_files_that_may_not_grow(tmp_path, model, data, rewards):
    limit = ["sh", "-c", 'ulimit -f 300; exec "$@"', "sh"]
    run = start(job_spec(model, data, tmp_path / "out"), tmp_path / "run", rewards, wrapper=limit)
    assert run.wait() == ExitCode.OUTPUT_FAILED, run.log
    assert "checkpoint step-2 could not be written to" in run.log
    assert "start again: it starts from the beginning" in run.log
    assert "make room" not in run.log


# torch's writer keeps the reason to itself.
WRITE_PROBE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from rft_trainer.failures import write_failure
for write in (torch.save, save_file):
    try:
        write({"weight": torch.zeros(1 << 18)}, Path(sys.argv[1]) / "file")
    except Exception as error:
        print(write_failure(error, Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [("size=400k", "the disk is full; make room"), ("ro", "the file system is mounted read-only")],
)
def test_why_a_library_could_not_write(tmp_path, options, sentence):
    mount = f'mount -t tmpfs -o {options} tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", mount, "sh", sys.executable, "-c", WRITE_PROBE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines() == [sentence, sentence], run.stderr


@pytest.mark.parametrize(
    "error", [RuntimeError("NCCL communicator was aborted on rank 1"), ValueError("a tensor of another shape")]
)
def test_what_is_no_failure_to_write_is_not_called_one(tmp_path, model, data, rewards, monkeypatch, error):
    assert write_failure(error, tmp_path) is None
    config = render(job_spec(model, data, tmp_path / "out"), tmp_path, rewards.url, rewards.token_file)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(GRPOTrainer, "_save_checkpoint", fail)
    with pytest.raises(type(error)) as raised:
        train_in_process(config)
    assert raised.value is error
    assert explain(error, config, "Training") is None


def test_errors_of_the_system_are_told_apart(config):
    def code(number: int) -> ExitCode | None:
        found = explain(OSError(number, os.strerror(number)), config, "Training")
        return found and found.code

    assert [code(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)] == [ExitCode.OUTPUT_FAILED] * 4
    assert [code(n) for n in (errno.EIO, errno.ESTALE)] == [ExitCode.STORAGE_UNREACHABLE] * 2
    assert code(errno.EMFILE) is None
    refused = RunError(ExitCode.DATA_INVALID, "bad")
    assert explain(refused, config, "Data") is refused


@pytest.mark.parametrize(
    ("ends", "code", "message"),
    [
        ([ProcessEnd(0, 0, '{"result": 1}'), ProcessEnd(1, 0)], ExitCode.SUCCEEDED, '{"result": 1}'),
        (
            [ProcessEnd(0, 1, "Unexpected: connection closed", 2.0), ProcessEnd(1, 17, "OutOfMemory: lower it", 1.0)],
            ExitCode.OUT_OF_MEMORY,
            "lower it",
        ),
        (
            [ProcessEnd(0, 1, "Unexpected: connection closed", 2.0), ProcessEnd(1, -9, moment=1.0)],
            ExitCode.UNEXPECTED,
            "the process of rank 1 was killed (SIGKILL); if the kernel killed it, memory ran out: see dmesg",
        ),
        (
            [ProcessEnd(0, -9, moment=9.0, stopped=True), ProcessEnd(1, 1, "Unexpected: KeyError: 'x'", 1.0)],
            ExitCode.UNEXPECTED,
            "KeyError: 'x'",
        ),
        (
            [ProcessEnd(0, -11, moment=1.0)],
            ExitCode.UNEXPECTED,
            "the process of rank 0 was ended by signal 11 (SIGSEGV)",
        ),
    ],
)
def test_a_group_says_what_its_cause_says(ends, code, message):
    ending = group_ending(ends)
    assert (ending.code, ending.message) == (code, message)


def test_a_process_that_the_kernel_has_killed():
    message = group_ending([ProcessEnd(0, -9)], kernel_kills=1).message
    assert "memory ran out" in message
    assert "spec.compute.pod.resources" in message


@pytest.fixture
def group():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield ProcessGroup()
    for number, handler in before.items():
        signal.signal(number, handler)


def python(rank, code):
    return Command(rank, [sys.executable, "-c", code], dict(os.environ))


REPORTING = "import os, sys; open(os.environ['RFT_REPORT_FILE'], 'w').write({!r}); sys.exit({})"


def test_a_group_ends_with_the_first_hand_report(group, monkeypatch):
    monkeypatch.setattr(process_group, "FAILURE_GRACE_SECONDS", 0.5)
    waits = python(0, "import time; time.sleep(600)")
    ending = group.run([waits, python(1, REPORTING.format("DataInvalid: line 3\nline 4", 11))])
    assert (ending.code, ending.message) == (ExitCode.DATA_INVALID, "line 3\nline 4")


def test_a_group_that_is_told_to_stop_before_it_listens(group):
    ready = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)"
    ending = group.run([python(0, ready)])
    assert ending.code is ExitCode.INTERRUPTED
    assert "start again" in ending.message
    assert group.run([python(0, "")]).code is ExitCode.INTERRUPTED, "no other stage begins"


LAUNCHER = """
import os, sys
from rft_trainer.process_group import Command, ProcessGroup
waits = "import time; print('started', flush=True); time.sleep(600)"
ProcessGroup().run([Command(0, [sys.executable, "-c", waits], dict(os.environ))])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_reports_of_a_launcher_that_is_ended_do_not_stay(group, tmp_path, monkeypatch, number):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )  # fmt: skip
    assert launcher.stdout.readline() == b"started\n"
    (folder,) = tmp_path.iterdir()
    launcher.send_signal(number)
    launcher.wait()
    assert folder.exists() == (number == signal.SIGKILL)
    assert group.run([python(0, "")]).code is ExitCode.SUCCEEDED
    assert list(tmp_path.iterdir()) == [], "the next one removes what a killed one has left"
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)


def test_the_termination_message_is_the_ending(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RFT_TERMINATION_LOG", str(tmp_path / "message"))
    assert announce(group_ending([ProcessEnd(0, 17, "OutOfMemory: lower it")])) == ExitCode.OUT_OF_MEMORY
    failure = parse_failure((tmp_path / "message").read_text())
    assert (failure.reason, failure.message) == ("OutOfMemory", "lower it")
    assert capfd.readouterr().err == "error: lower it\n"
    announce(group_ending([ProcessEnd(0, 0, '{"steps": 3}')]))
    assert Path(tmp_path / "message").read_text() == '{"steps": 3}'


def test_a_port_that_is_in_use_is_named(tmp_path, model, data, rewards):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = render(job_spec(model, data, tmp_path / "out"), tmp_path / "run", rewards.url, rewards.token_file)
        run = TrainerProgram(config, tmp_path / "run", port)
        assert run.wait() == ExitCode.UNEXPECTED
    assert f"error: port {port} of /progress cannot be opened: Address already in use" in run.log
    assert "Traceback" not in run.log
