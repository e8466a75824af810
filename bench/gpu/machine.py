"""What the checks run on: the model, the devices, and the jobs that several checks share, each run once."""

from __future__ import annotations

import functools
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
        self._dedicated_jobs: dict[int, Any] = {}

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

    def config(self, compute: dict[str, Any], **changes: Any) -> Any:
        """Return the configuration of a job that trains an adapter; `changes` are hyperparameters."""
        self._jobs += 1
        folder = self.folder / f"job-{self._jobs}"
        sizes = {"maxSteps": JOB_STEPS, "maxPromptTokens": 96, "maxCompletionTokens": 32, "microBatchSize": None}
        learning = hyperparameters(**(sizes | changes))
        spec = job_spec(
            self.model,
            self.data,
            folder / "out",
            tuning={"type": "LoRA", "rank": 8},
            hyperparameters=learning,
            preflight={"action": "Skip"},
            compute=compute,
        )
        return render(spec, folder, self.rewards.url, self.rewards.token_file)

    def train(self, compute: dict[str, Any]) -> Any:
        """Run a job as users do; return it when it has succeeded."""
        config = self.config(compute)
        program = TrainerProgram(config, Path(config.output).parent, free_port())
        program.succeed()
        return program

    @functools.cached_property
    def shared_job(self) -> Any:
        """A job that trains an adapter, whose completions come from a vLLM on the same GPU."""
        return self.train({"gpusPerNode": min(1, self.gpus), "rollouts": {"engine": "vLLM"}})

    def dedicated_job(self, overlap: int) -> Any:
        """A job whose completions come from a vLLM on a GPU of its own, with or without overlap."""
        if overlap not in self._dedicated_jobs:
            rollouts = {"engine": "vLLM", "placement": "Dedicated", "overlap": overlap}
            self._dedicated_jobs[overlap] = self.train({"gpusPerNode": 1, "rollouts": rollouts})
        return self._dedicated_jobs[overlap]

    def server_config(self) -> Any:
        """Return the configuration of a run whose servers are started by themselves."""
        compute = {"gpusPerNode": min(1, self.gpus), "rollouts": {"engine": "vLLM"}}
        return render_config(self.model, "LoRA", self.folder / "servers", compute)

    @functools.cached_property
    def servers(self) -> Figures:
        """What was measured of a server and of the trainer's own process in turns."""
        return measure(self.server_config(), ROUNDS, VERSIONS)

    def watched(self, config: Any, limit: int) -> tuple[int, int, str]:
        """Run the trainer on one GPU; return exit code, the most bytes that it has reserved, and its last lines."""
        folder = Path(config.output).parent
        file, result = folder / "config.json", folder / "reserved"
        file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        command = [sys.executable, Path(__file__).with_name("watched_worker.py"), file, result, str(limit)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        reserved = int(result.read_text(encoding="utf-8")) if result.exists() else 0
        return done.returncode, reserved, done.stdout[-4000:]


Check = Callable[[Machine], tuple[str, bool]]
"""Returns what it has seen, and whether that meets what it must."""
