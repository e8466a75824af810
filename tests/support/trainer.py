"""Runs the trainer as its users do: as a program, on a configuration rendered from a manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from rft_api.addresses import is_stored
from rft_api.manifests import load_manifests
from rft_api.render import RewardAddress, render_trainer_config
from rft_api.run_folder import RunFolder
from rft_api.summary import Summary
from rft_api.trainer_config import TrainerConfig
from support.patience import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from rft_trainer.engines import VLLM
    from rft_trainer.grpo import RFTTrainer

# Tests share two cores with servers and with each other's processes: more threads would only wait for one another.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

# Full marks for an answer of digits only: a model with random weights gets some right, and learns fast to get more.
DIGIT_SHARE = """
def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        share = sum(c.isdigit() for c in text) / max(len(text), 1)
        short = 1.0 if 1 <= len(text) <= 4 else 0.0
        rows.append({
            "id": sample["id"],
            "aggregate_reward_score": share + 0.5 * short,
            "metrics_list": [
                {"name": "digits", "value": share, "type": "Reward"},
                {"name": "short", "value": short, "type": "Reward"},
            ],
        })
    return rows
"""


# The first process waits after a step: for a signal to end, or until the test goes on. Tests wait for the line of the
# step, and may send their signal at once: what listens for it has to be there before the line.
_PAUSE = """
import os, signal, time
from pathlib import Path
from rft_trainer import metrics_log

append = metrics_log.append_metrics

def append_and_wait(folder, metrics):
    if metrics.split == "validation" or metrics.step != int(os.environ["PAUSE_AFTER"]):
        append(folder, metrics)
        return
    signals = []
    previous = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *arguments: (signals.append(arguments), previous(*arguments)))
    append(folder, metrics)
    while not (signals or Path(os.environ["PAUSE_ENDS"]).exists()):
        time.sleep(0.02)

metrics_log.append_metrics = append_and_wait
"""


# What a trainer executes before anything else.
_HOOKS = """
from pathlib import Path

for hook in sorted(Path(__file__).parent.glob("*.hook")):
    exec(compile(hook.read_text(encoding="utf-8"), str(hook), "exec"), {})
"""

_STAND_INS = """
import os, sys
from pathlib import Path

sys.path.append(os.environ["STAND_IN_TESTS"])
from rft_trainer.rollout_servers import process
from support.rollout_stand_in import stand_in_command

process.server_command = lambda settings, socket: stand_in_command(socket, Path(os.environ["STAND_IN_FOLDER"]))
"""


def _hook(folder: Path, name: str, source: str, **variables: str) -> dict[str, str]:
    """Variables with which a trainer executes some source before anything else, besides that of other names."""
    hooks = folder / "hooks"
    hooks.mkdir(parents=True, exist_ok=True)
    (hooks / "sitecustomize.py").write_text(_HOOKS, encoding="utf-8")
    (hooks / f"{name}.hook").write_text(source, encoding="utf-8")
    return {"PYTHONPATH": str(hooks), **variables}


def pause_after(step: int, folder: Path) -> dict[str, str]:
    """Variables with which a trainer pauses after a step, so that a test can do something to it before its next one.

    The pause ends with SIGTERM, or when `end_pause` is called with the same folder.
    """
    return _hook(folder, "pause", _PAUSE, PAUSE_AFTER=str(step), PAUSE_ENDS=str(folder / "hooks/ended"))


def stand_in_servers(folder: Path) -> dict[str, str]:
    """Variables with which a trainer starts stand-ins for its rollout servers; see `support.rollout_stand_in`.

    Their requests are written to the folder. They may be joined with those of `pause_after` for the same folder.
    """
    tests = str(Path(__file__).parents[1])
    return _hook(folder, "servers", _STAND_INS, STAND_IN_FOLDER=str(folder), STAND_IN_TESTS=tests)


def end_pause(folder: Path) -> None:
    """Let a trainer go on that pauses after a step."""
    (folder / "hooks" / "ended").touch()


def job_spec(model: Path, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """An RFTJob's spec for the tiny model; `changes` replace top-level fields, None removes them."""
    spec: dict[str, Any] = {
        "model": {"uri": str(model)},
        "data": {
            "train": [{"name": "digits", "uri": str(data / "train.jsonl"), "reward": "digits"}],
            "validation": [{"name": "digits", "uri": str(data / "validation.jsonl"), "reward": "digits"}],
            "test": [{"name": "digits", "uri": str(data / "test.jsonl"), "reward": "digits"}],
        },
        "hyperparameters": hyperparameters(),
        "tuning": {"type": "Full"},
        "preflight": {"prompts": 4},
        "compute": {"gpusPerNode": 0},
        "output": {"uri": str(output)},
    }
    spec.update(changes)
    return {name: value for name, value in spec.items() if value is not None}


def hyperparameters(**changes: Any) -> dict[str, Any]:
    """Hyperparameters of a run of a few seconds; `changes` replace them, None removes them."""
    parameters = {
        "batchSize": 4, "samplesPerPrompt": 4, "microBatchSize": 8, "maxSteps": 6, "learningRate": "2e-3",
        "maxPromptTokens": 32, "maxCompletionTokens": 8, "evalInterval": 2, **changes,
    }  # fmt: skip
    return {name: value for name, value in parameters.items() if value is not None}


def render(spec: dict[str, Any], folder: Path, address: str | dict[str, str], token_file: Path | None) -> TrainerConfig:
    """Renders a spec with the operator's and the command line's own function; rewards are digits and others by name."""
    splits = ("train", "validation", "test")
    names = sorted({s["reward"] for split in splits for s in spec.get("data", {}).get(split, [])})
    names += spec.get("shadowRewards", [])
    addresses = address if isinstance(address, dict) else dict.fromkeys(names, address)
    documents = [{"apiVersion": "rft.dev/v1alpha1", "kind": "RFTJob", "metadata": {"name": "test"}, "spec": spec}]
    documents += [
        {
            "apiVersion": "rft.dev/v1alpha1",
            "kind": "RewardFunction",
            "metadata": {"name": name},
            "spec": {"python": {"source": DIGIT_SHARE}},
        }
        for name in names
    ]
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.yaml"
    # JSON is YAML, one document a line apart.
    manifest.write_text("\n---\n".join(json.dumps(document) for document in documents), encoding="utf-8")
    manifests = load_manifests([manifest])
    return render_trainer_config(
        manifests.jobs[0],
        manifests.reward_functions,
        {name: RewardAddress(addresses[name], str(token_file) if token_file else None) for name in names},
        lambda uri: uri,
    )


def train_in_process(
    config: TrainerConfig,
    kind: type[RFTTrainer] | None = None,
    engine: VLLM | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RFTTrainer:
    """Trains as `config` says in this process, without preflight and evaluations; returns the trainer.

    `kind` is a subclass of the trainer to train with. Completions come from `engine`, or are sampled in this process.
    A run that has stopped because of `should_stop` goes on from its checkpoint.
    """
    # Slow to import, and not needed to start programs.
    import torch

    from rft_trainer.checkpoints import resume_point
    from rft_trainer.data import load_dataset, mix
    from rft_trainer.engines import InProcess
    from rft_trainer.grpo import RFTTrainer
    from rft_trainer.modeling import add_adapter, load_model, load_tokenizer
    from rft_trainer.progress import ProgressReporter
    from rft_trainer.rewards import RewardClient

    folder = RunFolder(config.output)
    folder.path.mkdir(parents=True, exist_ok=True)
    checkpoint = resume_point(folder)
    model = load_model(config.model, torch.float32)
    if config.tuning.type == "LoRA":
        model = add_adapter(model, config.tuning, config.hyperparameters.seed)
    maximum, system_prompt = config.hyperparameters.max_prompt_tokens, config.sampling.system_prompt
    dataset = load_dataset(config.data, maximum, lambda messages: 1, system_prompt)
    prompts = mix(dataset.train, dataset.weights, config.hyperparameters.epochs, config.hyperparameters.seed)
    client = RewardClient(config.rewards, shadows=config.shadows)
    reporter, tokenizer = ProgressReporter("default", config.name), load_tokenizer(config.model)
    trainer = (kind or RFTTrainer)(
        config, model, tokenizer, prompts, dataset.validation, client, engine or InProcess(config, tokenizer), reporter,
        should_stop, checkpoint,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(folder.checkpoint(checkpoint.step)) if checkpoint else None)
    client.close()
    return trainer


class TrainerProgram:
    """A started `python -m rft_trainer`, and what is known of it."""

    _started: ClassVar[list[TrainerProgram]] = []

    def __init__(
        self,
        config: TrainerConfig,
        folder: Path,
        port: int,
        wrapper: list[str] | None = None,
        environment: dict[str, str] | None = None,
        arguments: Sequence[str] = (),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = RunFolder(folder / "scratch/output" if is_stored(config.output) else config.output)
        self.url = f"http://127.0.0.1:{port}"
        file = folder / "config.json"
        file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(wrapper or []), sys.executable, "-m", "rft_trainer", str(file), "--port", str(port),
                    "--scratch", str(folder / "scratch"), *arguments,
                ],
                stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT | (environment or {}), start_new_session=True,
            )  # fmt: skip
        self._started.append(self)

    @classmethod
    def end_all(cls) -> None:
        """Kills those that still run."""
        while cls._started:
            program = cls._started.pop()
            if program.process.poll() is None:
                program.kill()

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """The exit code; the processes are killed when they neither write nor end."""
        wait_until(lambda: self.process.poll() is not None, self._written, self._stuck, pause=0.05)
        return self.process.wait()

    def succeed(self) -> Summary:
        """The summary of a run that has to succeed."""
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.log[-6000:]}"
        return Summary.model_validate_json(self.folder.summary.read_text(encoding="utf-8"))

    def kill(self) -> None:
        """Kills the launcher and its workers at once, as a node that goes away does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_line(self, step: int, split: str = "train") -> None:
        """Returns when the metrics hold the line of a step."""
        self.wait_for(lambda: any(line["step"] >= step and line["split"] == split for line in self.metrics()))

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Returns when something holds; the program must not end before, and is killed when it writes nothing."""

        def has_come() -> bool:
            if holds():
                return True
            assert self.process.poll() is None, f"ended before what was waited for:\n{self.log[-4000:]}"
            return False

        wait_until(has_come, self._written, self._stuck, pause=0.05)

    def _written(self) -> tuple[int, int]:
        """How much it has written to its log and to its metrics."""
        return len(self.log), len(self.metrics())

    def _stuck(self) -> str:
        """What it has written at last; it is killed."""
        # Every process writes where it is to the log.
        os.killpg(self.process.pid, signal.SIGUSR1)
        time.sleep(2)
        self.kill()
        return self.log[-9000:]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are whole."""
        if not self.folder.metrics.exists():
            return []
        lines = self.folder.metrics.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=PATIENCE_SECONDS)


# Fields of a metrics line that differ between two equal runs.
CLOCK = ("generateSeconds", "rewardSeconds", "rewardRequestSeconds", "updateSeconds", "seconds", "endedAt")


def curve(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without the times: equal, bit for bit, for equal runs."""
    lines = [{name: value for name, value in line.items() if name not in CLOCK} for line in metrics]
    return sorted(lines, key=lambda line: (line["step"], line["split"]))


def assert_whole_adapter(run: RunFolder) -> None:
    """The run's best adapter was exported whole, and has learned something."""
    from safetensors.torch import load_file  # takes torch along

    adapter = load_file(run.best / "adapter_model.safetensors")
    assert all(weight.numel() for weight in adapter.values())
    assert any(weight.abs().sum() > 0 for name, weight in adapter.items() if "lora_B" in name)
