"""Kill rollout servers at random moments of a run; compare its metrics with those of an undisturbed run, bit for bit.

Run: .venv/bin/python bench/server_kills.py [--kills 20] [--servers 1] [--overlap 0] [--seed 0]
A tiny model trains on CPUs with vLLM servers, twice. In the second run, a process of a server gets SIGKILL so many
times: mostly some seconds after the server can be reached, at times while it starts. Each start of a vLLM takes a
minute or more on two cores, so twenty kills take half an hour or longer. The command fails when the metrics differ in
anything but times, or when the run ends before the last kill.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.reward_server import RewardServer
from support.tiny import digits_rows, write_jsonl, write_model
from support.trainer import DIGIT_SHARE, TrainerProgram, curve, hyperparameters, job_spec, render

from rft_api.ports import free_port

SECONDS_BETWEEN = 6.0
"""Longest time between the moment when a server can be reached and its kill."""
SHARE_WHILE_STARTING = 0.2
"""Share of kills that meet a server that starts. (A server that ends three times before it is ready ends the run.)"""


def start(folder: Path, steps: int, model: Path, rewards: RewardServer, options: argparse.Namespace) -> TrainerProgram:
    """Start a run in a folder."""
    spec = job_spec(
        model,
        model.parent,
        folder / "out",
        tuning={"type": "LoRA", "rank": 8},
        hyperparameters=hyperparameters(maxSteps=steps, learningRate="2e-3", epochs=1000, evalInterval=50),
        compute={
            "gpusPerNode": 0,
            "rollouts": {"engine": "vLLM", "servers": options.servers, "overlap": options.overlap},
        },
    )
    return TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port())


def servers_of(run: TrainerProgram) -> list[psutil.Process]:
    """The processes of all vLLM servers of a run: API servers and engines."""
    processes = psutil.Process(run.process.pid).children(recursive=True)
    keepers = [process for process in processes if any("keeper" in word for word in _command(process))]
    return [process for keeper in keepers for process in keeper.children(recursive=True)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def disturb(run: TrainerProgram, kills: int, random_numbers: random.Random) -> int:
    """Kill processes of servers while a run trains; return how many were killed before it ended."""
    killed, was_starting = 0, False
    while killed < kills and run.process.poll() is None:
        steps = len(run.metrics())
        while_starting = steps > 0 and not was_starting and random_numbers.random() < SHARE_WHILE_STARTING
        if not while_starting:
            # A new line means that the servers answer.
            while len(run.metrics()) == steps and run.process.poll() is None:
                time.sleep(0.05)
        time.sleep(random_numbers.uniform(0, SECONDS_BETWEEN))
        processes = servers_of(run)
        if not processes or run.process.poll() is not None:
            continue
        victim = random_numbers.choice(processes)
        victim.kill()
        killed, was_starting = killed + 1, while_starting
        print(f"kill {killed} after {len(run.metrics())} lines of metrics", file=sys.stderr)
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--servers", type=int, default=1, help="vLLM servers of the run")
    parser.add_argument("--overlap", type=int, default=0, help="1 samples each next step while one is learnt")
    parser.add_argument("--seed", type=int, default=0, help="decides when what is killed")
    options = parser.parse_args()
    steps = 20 + 40 * options.kills
    with (
        tempfile.TemporaryDirectory() as temporary,
        RewardServer(Path(temporary), {"python": {"source": DIGIT_SHARE}}) as rewards,
    ):
        folder = Path(temporary)
        rows = digits_rows(72, 4, seed=1)
        for name, part in (("train", rows[:40]), ("validation", rows[40:48]), ("test", rows[48:])):
            write_jsonl(folder / f"{name}.jsonl", part)
        # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
        model = write_model(folder / "tiny", hidden=128, tied=False)
        try:
            undisturbed = start(folder / "undisturbed", steps, model, rewards, options)
            undisturbed.succeed()
            disturbed = start(folder / "disturbed", steps, model, rewards, options)
            killed = disturb(disturbed, options.kills, random.Random(options.seed))
            disturbed.succeed()
        finally:
            TrainerProgram.end_all()
        before, after = curve(undisturbed.metrics()), curve(disturbed.metrics())
        different = [line for line, other in zip(before, after, strict=True) if line != other]
        print("| kills | servers | overlap | lines of metrics | different |\n|---|---|---|---|---|")
        print(f"| {killed} | {options.servers} | {options.overlap} | {len(before)} | {len(different)} |")
        if different:
            print(json.dumps(different[0]), file=sys.stderr)
        return int(bool(different) or killed < options.kills)


if __name__ == "__main__":
    sys.exit(main())
