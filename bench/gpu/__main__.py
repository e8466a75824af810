"""Check what only GPUs can show; print a Markdown table, and write the results to a JSON file.

Run: .venv/bin/python bench/gpu [--list] [--only STEP ...] [--cpu] [--model FOLDER] [--results FILE]
Install the trainer and its `vllm` beside it first. Without --model it trains SmolLM2-135M, which `make demo` makes;
another model has to be of a type that `rft plan` can plan. Each step prints its figure when it is known, and the file
has all figures so far. A step that fails says why, and the next ones are run; what this machine lacks is not run, and
says so. With --cpu the steps that need no GPU are rehearsed with a tiny model in float32, which takes some minutes for
each start of vLLM. The exit code is 1 when a figure does not meet what it must.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from checks import STEPS, Step, installed
from machine import ROOT, Machine

DEFAULT = ROOT / ".cache/models/smollm2-135m-instruct"


def lacking(step: Step, gpus: int) -> str | None:
    """Return what this machine lacks for a step; None when it has all."""
    if "vLLM" in step.needs and find_spec("vllm") is None:
        return "vLLM is not installed"
    required = {"a GPU": 1, "two GPUs and vLLM": 2}.get(step.needs, 0)
    if step.needs == "two processes" and gpus == 1:
        required = 2
    return f"it needs {step.needs}" if gpus < required else None


def run(step: Step, machine: Machine) -> dict[str, Any]:
    """Return the result of a step; an error in it is its result."""
    missing = lacking(step, machine.gpus)
    if missing is not None:
        return not_run(step, missing)
    start = time.monotonic()
    try:
        figure, met = step.check(machine)
    except Exception as error:
        traceback.print_exc()
        figure, met = in_short(error), False
    finally:
        if machine.gpus:
            # What this process keeps of a GPU would be missing for the trainers and servers of the next steps.
            gc.collect()
            torch.cuda.empty_cache()
    seconds = round(time.monotonic() - start, 1)
    return {"step": step.name, "must": step.must, "figure": figure, "met": met, "seconds": seconds}


def in_short(error: Exception) -> str:
    """Return the first and the last line of an error: of a program that failed, the last one says why."""
    lines = f"{type(error).__name__}: {error}".strip().splitlines()
    return " ... ".join(line[:300] for line in dict.fromkeys((lines[0], lines[-1])))


def not_run(step: Step, why: str) -> dict[str, Any]:
    """Return the result of a step that is not run."""
    return {"step": step.name, "must": step.must, "figure": f"not run: {why}", "met": None, "seconds": 0.0}


def print_table(results: list[dict[str, Any]]) -> None:
    """Print all results as a Markdown table."""
    print("| step | must | figure | met | seconds |\n|---|---|---|---|---|")
    words = {True: "yes", False: "**no**", None: "not run"}
    for result in results:
        cells = [result["step"], result["must"], result["figure"], words[result["met"]], str(result["seconds"])]
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the steps, and end")
    parser.add_argument("--only", nargs="+", metavar="STEP", choices=[step.name for step in STEPS])
    parser.add_argument("--cpu", action="store_true", help="rehearse on CPUs with a tiny model")
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--results", type=Path, default=Path("gpu-results.json"), help="JSON file to write")
    options = parser.parse_args()
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    if options.list:
        print("\n".join(f"{step.name}: {step.must} (needs {step.needs})" for step in steps))
        return 0
    gpus = 0 if options.cpu else torch.cuda.device_count()
    if gpus == 0 and not options.cpu:
        parser.error("this machine has no GPU that torch sees; --cpu rehearses what needs none")
    if options.cpu and options.model:
        parser.error("--cpu has a tiny model of its own; leave --model out")
    if not options.cpu and not (options.model or DEFAULT).is_dir():
        parser.error(f"{options.model or DEFAULT} is missing; `make demo` makes the default model")
    with tempfile.TemporaryDirectory(prefix="rft-gpu-") as temporary:
        folder = Path(temporary)
        if options.cpu:
            from support.tiny import write_model

            # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
            model = write_model(folder / "tiny", hidden=128, tied=False)
        else:
            model = (options.model or DEFAULT).resolve()
        results: list[dict[str, Any]] = []
        report = {
            "device": "CPU" if options.cpu else "GPU", "model": model.name, "versions": installed(), "steps": results,
        }  # fmt: skip

        def save() -> None:
            options.results.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

        save()  # a file that cannot be written is an error now, and not after an hour
        with Machine(folder, model, gpus) as machine, suppress(KeyboardInterrupt):
            for step in steps:
                results.append(run(step, machine))
                print(f"{step.name}: {results[-1]['figure']}", file=sys.stderr, flush=True)
                save()
    interrupted = [not_run(step, "interrupted") for step in steps[len(results) :]]
    print_table(results + interrupted)
    return int(bool(interrupted) or any(result["met"] is False for result in results))


if __name__ == "__main__":
    sys.exit(main())
