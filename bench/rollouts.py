"""Compare completions of vLLM servers with those of the trainer's own process; print a Markdown table.

Run: .venv/bin/python bench/rollouts.py [--models tiny smollm2] [--tunings LoRA Full] [--rounds 3] [--versions 10]
(SmolLM2 needs the quickstart's model, see `make demo`.)
For each model and tuning one server is started, as a run on CPUs starts it. In each round the same prompts are
completed in process and by the server, in turns, so that both have the same other work of the machine beside them: the
ratio of their tokens per second, round by round, says more than either. Then versions of the policy are changed and
synchronized one after the other. The memory of the server is the sum of its processes' proportional shares (PSS).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SMOLLM2 = ROOT / ".cache/models/smollm2-135m-instruct"
TOKENS = 32
PROMPTS, SAMPLES = 8, 4


@dataclass(frozen=True)
class Figures:
    """What was measured of one model and tuning."""

    start_seconds: float
    """From the start of the server to its first answer."""
    server_bytes: int
    """Memory of all processes of the server."""
    own: list[float]
    """Tokens per second in process, of each round."""
    served: list[float]
    """Tokens per second of the server, of each round."""
    sync_seconds: list[float]
    """Seconds from a changed policy to its version at the server, of each version."""

    @property
    def ratios(self) -> list[float]:
        """Tokens per second of the server, divided by those in process, of each round."""
        return [served / own for served, own in zip(self.served, self.own, strict=True)]


@contextmanager
def started(config: Any) -> Iterator[tuple[Any, Any, Any, float]]:
    """Yield the engine of a run, its tokenizer, its policy, and the seconds that its servers took to start."""
    import torch

    from rft_trainer.base_model import BaseModel
    from rft_trainer.engines import VLLM
    from rft_trainer.modeling import add_adapter, load_model, load_tokenizer, model_dtype, stated_end_token_ids

    base = BaseModel(config.model, None, config.model)
    tokenizer = load_tokenizer(config.model)
    start = time.monotonic()
    with closing(VLLM(config, base, stated_end_token_ids(config.model, tokenizer), lambda: False)) as engine:
        # vLLM measures how much memory of a GPU is free, so nothing else may take any before it answers.
        engine.wait_until_ready()
        seconds = time.monotonic() - start
        device = torch.device("cuda") if config.compute.on_gpus else torch.device("cpu")
        policy = load_model(config.model, model_dtype(config, base)).to(device)
        if config.tuning.type == "LoRA":
            policy = add_adapter(policy, config.tuning, seed=0)
        yield engine, tokenizer, policy, seconds


def prompts_of(tokenizer: Any) -> list[list[int]]:
    """Return the token ids of the prompts, each once for every sample."""
    from rft_trainer.modeling import prompt_token_ids

    texts = [f"sort these digits: {number:04d}" for number in range(PROMPTS)]
    once = [prompt_token_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    return [ids for ids in once for _ in range(SAMPLES)]


def change(policy: Any, seed: int) -> None:
    """Change the weights that are trained a little, as a step does."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(1e-4 * torch.randn_like(weight))


def measure(config: Any, rounds: int, versions: int) -> Figures:
    """Start a server, and measure it beside this process."""
    import psutil
    import torch

    from rft_trainer.evaluation import plain_completer

    with started(config) as (engine, tokenizer, policy, start_seconds):
        prompts = prompts_of(tokenizer)
        engine.sync(policy, 1)
        complete = plain_completer(policy, tokenizer, TOKENS, 1.0)

        def own(number: int) -> float:
            torch.manual_seed(number)
            start = time.monotonic()
            rows = complete(prompts, lambda ended: None)
            return sum(map(len, rows)) / (time.monotonic() - start)

        def served(number: int) -> float:
            start = time.monotonic()
            rows = engine.sample(prompts, number, 1.0, lambda ended: None)
            return sum(len(row.token_ids) for row in rows) / (time.monotonic() - start)

        # The first completions of each side also prepare what later ones use.
        own(0), served(0)
        speeds: dict[Any, list[float]] = {own: [], served: []}
        for number in range(1, rounds + 1):
            for side in (own, served) if number % 2 else (served, own):
                speeds[side].append(side(number))
        seconds = []
        for step in range(2, versions + 2):
            change(policy, step)
            start = time.monotonic()
            engine.sync(policy, step)
            seconds.append(time.monotonic() - start)
        # All processes that this one has started are those of the server.
        processes = psutil.Process().children(recursive=True)
        memory = sum(process.memory_full_info().pss for process in processes)
    return Figures(start_seconds, memory, speeds[own], speeds[served], seconds)


def render_config(model: Path, tuning: str, folder: Path, compute: dict[str, Any], **changes: Any) -> Any:
    """Return the configuration of a run with a model; its rewards are never asked."""
    from support.trainer import hyperparameters, job_spec, render

    parameters = hyperparameters(maxPromptTokens=96, maxCompletionTokens=TOKENS, **changes)
    adapter = {"type": "LoRA", "rank": 8} if tuning == "LoRA" else {"type": tuning}
    spec = job_spec(model, folder, folder / "out", tuning=adapter, hyperparameters=parameters, compute=compute)
    return render(spec, folder, "http://127.0.0.1:1", None)


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median of values, with the least and the greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def row(name: str, tuning: str, figures: Figures) -> str:
    """Return the line of the table about a model and a tuning."""
    cells = [
        name,
        tuning,
        spread(figures.own, 1),
        spread(figures.served, 1),
        spread(figures.ratios, 2),
        spread(figures.sync_seconds, 2),
        f"{figures.start_seconds:.0f}",
        f"{figures.server_bytes / 2**30:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["tiny", "smollm2"], default=["tiny", "smollm2"])
    parser.add_argument("--tunings", nargs="+", choices=["LoRA", "Full"], default=["LoRA", "Full"])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of completions (default: 3)")
    parser.add_argument("--versions", type=int, default=10, help="versions that are synchronized (default: 10)")
    options = parser.parse_args()
    if "smollm2" in options.models and not SMOLLM2.is_dir():
        parser.error(f"{SMOLLM2} is missing; `make demo` makes it")
    from support.tiny import write_model

    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
            tiny = name == "tiny"
            model = write_model(Path(temporary) / "tiny", hidden=128, tied=False) if tiny else SMOLLM2
            for tuning in options.tunings:
                print(f"{name}, {tuning}", file=sys.stderr)
                compute = {"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}}
                config = render_config(model, tuning, Path(temporary) / f"{name}-{tuning}", compute)
                lines.append(row(name, tuning, measure(config, options.rounds, options.versions)))
    print("Median (least to greatest) of the rounds and of the versions\n")
    columns = [
        "model", "tuning", "tokens/s in process", "tokens/s of the server", "ratio", "seconds to synchronize a version",
        "seconds to start", "GiB of the server",
    ]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
