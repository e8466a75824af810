"""Measure what packages cost the workers of a reward server; print a Markdown table.

Run: .venv/bin/python bench/reward_packages.py (two minutes; installs the packages of uv.lock once, below ~/.cache)
For each package that the reward server's image brings, and for all together, workers start with code that imports it
and uses it once for each sample. The figures are medians of several workers:

- import: the processor time that the start takes, minus that of a worker without packages.
- own memory: what the worker needs for itself, minus that of a worker without packages.
- mapped: the same for memory that is mapped from files, which all workers of a pod share.
- first call and later calls: the processor time of a call with one sample.
"""

import hashlib
import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from rft_reward.configuration import load_function, scoring_settings
from rft_reward.worker_process import WorkerProcess

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.reward_packages import USES, using  # noqa: E402
from support.reward_server import write_function  # noqa: E402

WORKERS = 5
CALLS = 20
SAMPLE = b'[{"id": "1", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}]'


def install():
    """Install the packages in the versions of uv.lock, as the image does; return their folder."""
    uv = next(ROOT.glob(".cache/uv-*/bin/uv"))
    export = [uv, "export", "--quiet", "--frozen", "--only-group", "reward-packages", "--no-annotate", "--no-header"]
    requirements = subprocess.run(export, cwd=ROOT, check=True, capture_output=True).stdout
    folder = Path("~/.cache/rft-operator/bench").expanduser() / hashlib.sha256(requirements).hexdigest()[:16]
    if not folder.exists():
        command = [uv, "pip", "install", "--target", f"{folder}.partial", "--python", sys.executable, "--no-deps"]
        command += ["--require-hashes", "--compile-bytecode", "--requirements", "-"]
        subprocess.run(command, cwd=ROOT, check=True, input=requirements)
        Path(f"{folder}.partial").rename(folder)
    return folder


async def measure(settings):
    """Start one worker; return the seconds of its start, its memory in bytes, and the seconds of its calls."""
    worker = WorkerProcess(settings)
    try:
        await worker.start()
        seconds = [processor_seconds(worker)]
        for _ in range(CALLS):
            reply = await worker.ask(SAMPLE, 1, 60.0)
            assert "rows" in reply.answers[0], reply.answers
            seconds.append(processor_seconds(worker))
        status = Path(f"/proc/{worker._worker}/status").read_text()
    finally:
        await worker.end()
    memory = {line.split(":")[0]: int(line.split()[1]) << 10 for line in status.splitlines() if line.endswith(" kB")}
    calls = [end - start for start, end in itertools.pairwise(seconds)]
    return seconds[0], memory["RssAnon"], memory["RssFile"], calls[0], statistics.median(calls[1:])


def processor_seconds(worker):
    return int(Path(f"/proc/{worker._worker}/schedstat").read_text().split()[0]) / 1e9


def figures(folder, packages):
    """Return the medians of several workers whose code uses packages."""
    with tempfile.TemporaryDirectory() as temporary:
        spec = {"python": {"source": using(packages), "requirements": list(USES)}}
        function = load_function(write_function(Path(temporary) / "function.json", spec))
        settings = scoring_settings(function, Path(temporary), None, packages=folder).pools[0].worker
        runs = [uvloop.run(measure(settings)) for _ in range(WORKERS + 1)]
    return [statistics.median(values) for values in zip(*runs[1:], strict=True)]  # the first reads the files


def main():
    folder = install()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.0f} MB", file=sys.stderr)
    without = figures(folder, [])
    print("| Package | import, s | own memory, MiB | mapped, MiB | first call, ms | later calls, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, packages in [*((f"`{package}`", [package]) for package in sorted(USES)), ("all", sorted(USES))]:
        start, own, mapped, first, later = figures(folder, packages)
        cells = [
            start - without[0],
            (own - without[1]) / 2**20,
            (mapped - without[2]) / 2**20,
            1e3 * first,
            1e3 * later,
        ]
        print(
            f"| {name} | {cells[0]:.2f} | {cells[1]:.0f} | {cells[2]:.0f} | {cells[3]:.1f} | {cells[4]:.1f} |",
            flush=True,
        )
    print(
        f"none: start {without[0]:.2f} s, {without[1] / 2**20:.0f} MiB own, first call {1e3 * without[3]:.1f} ms",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
