"""Measure how much of the time of a slow reward is hidden behind generation and log-probabilities.

Run: .venv/bin/python bench/reward_overlap.py (about ten minutes; needs the quickstart's model, see `make demo`)
Prints a Markdown table. For each row, the quickstart is trained twice with the same seed: as the trainer does it, and
in sequential order, where rewards are requested after generation and nothing is computed meanwhile. The reward is a
server on this machine that waits for a second for each request, as a Lambda may, or for each 16 completions, as a judge
that answers 16 at a time. The hidden share is 1 - (seconds of waiting for rewards) / (the same in sequential order);
the first step is left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples/quickstart"
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(QUICKSTART))

STEPS = 4
AT_ONCE = 16
# By the name of the row: whether each 16 completions (and not each request) take a second, and the KL coefficient.
CASES = {
    "1 s a request": (False, "0"),
    "1 s a request, with a KL coefficient": (False, "0.01"),
    "1 s each 16 completions": (True, "0"),
}


class Reward:
    """A server of the quickstart's reward that answers after a second; all requests share the slots of the judge."""

    def __init__(self, by_completion: bool):
        from reward import lambda_handler

        slots = threading.Semaphore(1)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                samples = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if by_completion:
                    for _ in range(0, len(samples), AT_ONCE):
                        with slots:
                            time.sleep(1)
                else:
                    time.sleep(1)
                body = json.dumps(lambda_handler(samples, None)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *parts: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def train(side: str, url: str, kl: str, folder: Path) -> None:
    """Train on one side, and leave the metrics in the folder."""
    from support.sequential import SequentialTrainer
    from support.trainer import hyperparameters, job_spec, render, train_in_process

    from rft_trainer.grpo import RFTTrainer

    job = yaml.safe_load((QUICKSTART / "job.yaml").read_text(encoding="utf-8"))["spec"]
    short = folder / "validation.jsonl"
    short.write_text("".join((QUICKSTART / "data/validation.jsonl").open(encoding="utf-8").readlines()[:4]))
    files = {"train": QUICKSTART / "data/train.jsonl", "validation": short}
    spec = job_spec((QUICKSTART / job["model"]["uri"]).resolve(), QUICKSTART, folder / "out", tuning=job["tuning"])
    spec["data"] = {split: [{"name": "amounts", "uri": str(file), "reward": "digits"}] for split, file in files.items()}
    spec["hyperparameters"] = hyperparameters(
        **{**job["hyperparameters"], "maxSteps": STEPS, "evalInterval": 1000, "klCoefficient": kl}
    )
    trainer_class = {"overlapped": RFTTrainer, "sequential": SequentialTrainer}[side]
    train_in_process(render(spec, folder, url, None), trainer_class)


def measure(side: str, case: str) -> list[dict]:
    """Train on one side, and return the metrics of each step."""
    by_completion, kl = CASES[case]
    reward = Reward(by_completion)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            command = [sys.executable, __file__, "--side", side, "--url", reward.url, "--kl", kl, "--folder", temporary]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        finally:
            reward.close()
        lines = (Path(temporary) / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["overlapped", "sequential"], help="train on one side (used internally)")
    parser.add_argument("--url")
    parser.add_argument("--kl")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        return train(options.side, options.url, options.kl, options.folder)
    print("| Reward | s a step, generation | s waited, sequential | s waited, overlapped | share hidden ", end="")
    print("| steps with the same loss and reward |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for case in CASES:
        sides = {side: measure(side, case) for side in ("sequential", "overlapped")}
        waits = {side: [step["rewardSeconds"] for step in steps[1:]] for side, steps in sides.items()}
        medians = {side: statistics.median(seconds) for side, seconds in waits.items()}
        generation = statistics.median(step["generateSeconds"] for step in sides["overlapped"][1:])
        equal = sum(
            all(one[name] == other[name] for name in ("loss", "reward", "gradientNorm"))
            for one, other in zip(*sides.values(), strict=True)
        )
        hidden_share = 1 - medians["overlapped"] / medians["sequential"]
        print(
            f"| {case} | {generation:.1f} | {medians['sequential']:.2f} | {medians['overlapped']:.2f} "
            f"| {hidden_share:.2f} | {equal} of {STEPS} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
