"""What the checks run on: the model, the devices, and the jobs that several checks share, each run once."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from rollouts import Figures, measure, render_config  # noqa: E402
from support.reward_server import RewardServer  # noqa: E402
from support.tiny import digits_rows, write_jsonl  # noqa: E402
from support.trainer import DIGIT_SHARE, TrainerProgram, hyperparameters, job_spec, render  # noqa: E402

from rft_api.ports import free_port  # noqa: E402

JOB_STEPS, ROUNDS, VERSIONS = 4, 3, 10
PROMPTS, SAMPLES, COMPLETION_TOKENS, RANK = 4, 4, 32, 8
"""The sizes of jobs: prompts of a step, completions of each, their longest length, and the rank of the adapter."""


class Once:
    """A property that is computed once, also where that fails: a job that failed is not run again for the next step."""

    def __init__(self, compute: Callable[[Any], Any]):
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_once_{name}"

    def __get__(self, machine: Any, owner: type) -> Any:
        if self._name not in machine.__dict__:
            try:
                machine.__dict__[self._name] = self._compute(machine), None
            except Exception as error:
                # The error itself would keep what was computed before it, such as a model on the GPU.
                machine.__dict__[self._name] = None, f"as before: {type(error).__name__}: {error}"
                raise
        value, problem = machine.__dict__[self._name]
        if problem is not None:
            raise RuntimeError(problem)
        return value


class Machine:
    """This machine, as the checks use it; a context manager that ends what was started.

    Args:
        folder: an empty folder for all outputs.
        model: folder of the model.
        gpus: the GPUs that may be used; 0 computes on CPUs.
    """

    def __init__(self, folder: Path, model: Path, gpus: int):
        self.folder = folder
        self.model = model
        self.gpus = gpus
        self._exit = ExitStack()
        self._jobs = 0

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *error: object) -> None:
        TrainerProgram.end_all()
        self._exit.close()

    @functools.cached_property
    def rewards(self) -> Any:
        """A reward server, which pays for digits."""
        folder = self.folder / "rewards"
        folder.mkdir()
        return self._exit.enter_context(RewardServer(folder, {"python": {"source": DIGIT_SHARE}}))

    @functools.cached_property
    def data(self) -> Path:
        """A folder with prompts: numbers of four digits."""
        rows = digits_rows(56, 4, seed=1)
        for name, part in (("train", rows[:40]), ("validation", rows[40:48]), ("test", rows[48:])):
            write_jsonl(self.folder / f"data/{name}.jsonl", part)
        return self.folder / "data"

    def config(self, compute: dict[str, Any], system_prompt: str | None = None, **changes: Any) -> Any:
        """Return the configuration of a job that trains an adapter; `changes` are hyperparameters."""
        self._jobs += 1
        folder = self.folder / f"job-{self._jobs}"
        sizes = {
            "maxSteps": JOB_STEPS, "batchSize": PROMPTS, "samplesPerPrompt": SAMPLES, "maxPromptTokens": 96,
            "maxCompletionTokens": COMPLETION_TOKENS, "microBatchSize": None,
        }  # fmt: skip
        learning = hyperparameters(**(sizes | changes))
        spec = job_spec(
            self.model,
            self.data,
            folder / "out",
            tuning={"type": "LoRA", "rank": RANK},
            hyperparameters=learning,
            sampling=None if system_prompt is None else {"systemPrompt": system_prompt},
            preflight={"action": "Skip"},
            compute=compute,
        )
        return render(spec, folder, self.rewards.url, self.rewards.token_file)

    def start(self, config: Any) -> TrainerProgram:
        """Start a job as users do."""
        return TrainerProgram(config, Path(config.output).parent, free_port())

    def train(self, compute: dict[str, Any]) -> TrainerProgram:
        """Run a job as users do; return it when it has succeeded."""
        program = self.start(self.config(compute))
        program.succeed()
        return program

    @property
    def own_compute(self) -> dict[str, Any]:
        """What a job computes on whose trainer samples its completions itself."""
        return {"gpusPerNode": min(1, self.gpus), "rollouts": {"engine": "InProcess"}}

    @Once
    def own_job(self) -> Any:
        """A job that trains an adapter, whose completions the trainer samples itself, in one process."""
        return self.train(self.own_compute)

    @Once
    def shared_job(self) -> Any:
        """A job that trains an adapter, whose completions come from a vLLM on the same GPU."""
        return self.train({"gpusPerNode": min(1, self.gpus), "rollouts": {"engine": "vLLM"}})

    @Once
    def dedicated_job(self) -> Any:
        """A job whose completions come from a vLLM on a GPU of its own."""
        return self._dedicated(overlap=0)

    @Once
    def overlapping_job(self) -> Any:
        """The same job, whose completions are sampled ahead."""
        return self._dedicated(overlap=1)

    def _dedicated(self, overlap: int) -> TrainerProgram:
        rollouts = {"engine": "vLLM", "placement": "Dedicated", "overlap": overlap}
        return self.train({"gpusPerNode": 1, "rollouts": rollouts})

    def server_config(self) -> Any:
        """Return the configuration of a run whose servers are started by themselves."""
        compute = {"gpusPerNode": min(1, self.gpus), "rollouts": {"engine": "vLLM"}}
        return render_config(self.model, "LoRA", self.folder / "servers", compute)

    @Once
    def servers(self) -> Figures:
        """What was measured of a server and of the trainer's own process in turns."""
        return measure(self.server_config(), ROUNDS, VERSIONS)

    def bare_seconds(self) -> list[float]:
        """Return the seconds of the steps of a bare TRL script that trains as the jobs do."""
        result = self.folder / "bare.json"
        self._run("bare_script.py", self.model, self.data, result)
        return [float(seconds) for seconds in json.loads(result.read_text(encoding="utf-8"))]

    def watched(self, config: Any, limit: int) -> tuple[int, dict[str, int], str]:
        """Run the trainer in one process; return its exit code, what its updates needed, and its last lines.

        Args:
            config: the configuration.
            limit: bytes of the GPU that it may use; 0 for all.
        """
        folder = Path(config.output).parent
        file, result = folder / "config.json", folder / "seen.json"
        file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        done = self._run("watched_worker.py", file, result, limit, check=False)
        seen = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        return done.returncode, seen, done.stdout[-4000:]

    def _run(self, program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this folder; what it has written is part of the error when it fails."""
        command = [sys.executable, str(Path(__file__).with_name(program)), *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{program} ended with exit code {done.returncode}:\n{done.stdout[-4000:]}")
        return done


Check = Callable[[Machine], tuple[str, bool]]
"""Returns what it has seen, and whether that meets what it must."""
