"""What the operator takes for many jobs: latency, memory, CPU, writes; prints a Markdown table and a line of JSON.

Run: .venv/bin/python bench/operator_scale.py (about ten minutes; needs Linux and, once, the programs of the test
cluster, which it builds)
Jobs are applied at a steady rate to a real API server with its controllers, all on this machine. Pods are made, but no
node runs them. The latency is that from the answer to the apply to a watch's news of the training Job. The second
column has finished jobs lying about.
"""

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/operator"))

from audit import WRITES, Audit
from cluster.build import find_binaries
from cluster.control_plane import ControlPlane
from cluster.kubectl import CRDS
from cluster.node import clean_up
from cluster.runs import RunFolder, remove_abandoned
from cluster.versions import CONTROL_PLANE
from lives import JOB, REWARD, REWARDS, wait_for, write_operator_kubeconfig
from pretending import Kubelet, Operator

NAMESPACE = "bench"
JOBS = f"/apis/rft.dev/v1alpha1/namespaces/{NAMESPACE}/rftjobs"
TRAINING_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
REQUESTS_AT_ONCE = 16
NOW = "2026-01-31T12:00:00Z"
FINISHED = {
    "conditions": [
        {"type": kind, "status": "True", "reason": reason, "message": "", "observedGeneration": 1}
        | {"lastTransitionTime": NOW}
        for kind, reason in (("Succeeded", "Succeeded"), ("SpecAccepted", "Accepted"), ("RewardsReady", "RewardsReady"))
    ],
    "progress": {"phase": "Done", "step": 20, "totalSteps": 20, "epoch": "1.0000", "reward": "0.8000"},
    "result": {"baselineReward": "0.2500", "bestReward": "0.7500", "gain": "+0.5000", "interval": "+0.4000 to +0.6000"}
    | {"checkpoint": "s3://runs/job/best"},
    "checkpoints": [{"step": 10, "validationReward": "0.7000", "uri": "s3://runs/job/checkpoints/step-10"}],
    "startTime": NOW,
    "completionTime": NOW,
    "retries": 0,
}


class Bench:
    """One control plane, one operator and a connection of our own."""

    def __init__(self, folder, options, finished):
        self.options = options
        self.finished = finished
        self.audit = Audit(folder)
        self.plane = ControlPlane(folder / "plane", find_binaries(CONTROL_PLANE, print), self.audit.flags)
        self.operator = None
        self.folder = folder
        self.seen = {}  # when a training Job was first seen, by the name of its RFTJob

    async def run(self):
        self.plane.start()
        self.plane.kubectl.apply_definitions(CRDS)
        self.operator = Operator(write_operator_kubeconfig(self.plane), self.folder / "operator.log")
        context = ssl.create_default_context(cafile=str(self.plane.authority.pair.certificate))
        context.load_cert_chain(self.plane.admin.certificate, self.plane.admin.key)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(self.plane.url, connector=connector) as self.session:
            with self.plane.kubectl.namespace(NAMESPACE):
                await self.make_finished_jobs()
                self.operator.start()
                await asyncio.to_thread(self.make_reward)
                watch = asyncio.create_task(self.watch())
                try:
                    return await self.measure()
                finally:
                    watch.cancel()

    def close(self):
        if self.operator is not None:
            self.operator.kill()
        self.plane.stop()

    async def measure(self):
        process = psutil.Process(self.operator.pid)
        await self.until_idle(process)
        at_first = memory(process)
        say(f"applying {self.options.jobs} jobs")
        psutil.cpu_percent()
        latencies = await self.apply_jobs()
        machine_busy = psutil.cpu_percent()
        await self.until_idle(process)
        busy = memory(process)
        say(f"watching an idle operator for {self.options.idle_seconds} s")
        before = cpu_seconds(process)
        await asyncio.sleep(self.options.idle_seconds)
        idle = (cpu_seconds(process) - before) * 60 / self.options.idle_seconds
        writes = Counter(
            f"{request.verb} {request.resource}"
            for request in self.audit.requests()
            if request.verb in WRITES and request.namespace == NAMESPACE
        )
        say("killing the operator and starting it again")
        caught_up = await self.restart()
        again = psutil.Process(self.operator.pid)
        await self.until_idle(again)
        cuts = statistics.quantiles(latencies, n=100, method="inclusive")
        return {
            "jobs": self.options.jobs,
            "finished": self.finished,
            "latency_ms": {f"p{p}": round(1000 * cuts[p - 1], 1) for p in (50, 95, 99)},
            "slowest_ms": round(1000 * max(latencies), 1),
            "rss_mb": {"at first": at_first[0], "with the jobs": busy[0], "started anew": memory(again)[0]},
            "peak_rss_mb": {"first start": busy[1], "second start": memory(again)[1]},
            "machine_busy_percent": round(machine_busy),
            "cpu_seconds_in_all": round(before, 1),
            "idle_cpu_seconds_a_minute": round(idle, 2),
            "caught_up_seconds": round(caught_up, 1),
            "writes_a_job": round(writes.total() / self.options.jobs, 2),
            "writes": {name: round(count / self.options.jobs, 3) for name, count in writes.most_common()},
            "load": os.getloadavg()[0],
        }

    async def make_finished_jobs(self):
        if not self.finished:
            return
        say(f"making {self.finished} finished jobs")
        gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def make(number):
            name = f"old-{number:05}"
            async with gate:
                await self.request("POST", JOBS, manifest(name))
                patch = {"status": FINISHED}
                await self.request("PATCH", f"{JOBS}/{name}/status", patch, "application/merge-patch+json")

        async with asyncio.TaskGroup() as tasks:
            for number in range(self.finished):
                tasks.create_task(make(number))

    def make_reward(self):
        kubectl, kubelet = self.plane.kubectl, Kubelet(self.plane.kubectl, NAMESPACE)
        kubectl.apply(REWARD, namespace=NAMESPACE)
        (pod,) = kubelet.pods(REWARDS)
        kubelet.run(pod, "reward-server")
        wait_for(kubectl, NAMESPACE, "rewardfunction/amount", "Ready", "Ready")

    async def apply_jobs(self):
        applied, begun = {}, time.monotonic()

        async def apply(number):
            await asyncio.sleep(begun + number / self.options.rate - time.monotonic())
            name = f"job-{number:05}"
            applied[name] = await self.apply(name)

        async with asyncio.TaskGroup() as tasks:
            for number in range(self.options.jobs):
                tasks.create_task(apply(number))
        await self.until_seen(applied)
        return [self.seen[name] - moment for name, moment in applied.items()]

    async def restart(self):
        """Seconds from the start to the Job of an RFTJob that is looked at after all others."""
        self.operator.kill()
        await self.apply("last")
        begun = time.monotonic()
        self.operator.start()
        await self.until_seen(["last"])
        return self.seen["last"] - begun

    async def apply(self, name):
        parameters = "?fieldManager=bench&force=true"
        await self.request("PATCH", f"{JOBS}/{name}{parameters}", manifest(name), "application/apply-patch+yaml")
        return time.monotonic()

    async def until_seen(self, names):
        while not self.seen.keys() >= set(names):
            assert not self.operator.has_ended(), self.operator.log()
            await asyncio.sleep(0.05)

    async def until_idle(self, process):
        """Waits until the operator has had next to nothing to do for a few seconds."""
        quiet = 0
        while quiet < 5:
            before = process.cpu_times()
            await asyncio.sleep(1)
            after = process.cpu_times()
            quiet = quiet + 1 if after.user + after.system - before.user - before.system < 0.1 else 0

    async def watch(self):
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(f"{TRAINING_JOBS}?watch=true", timeout=timeout, read_bufsize=2**20) as response:
            async for line in response.content:
                labels = json.loads(line)["object"]["metadata"].get("labels", {})
                self.seen.setdefault(labels.get("rft.dev/owner"), time.monotonic())

    async def request(self, method, path, body, content_type="application/json"):
        headers = {"Content-Type": content_type}
        async with self.session.request(method, path, data=json.dumps(body), headers=headers) as response:
            assert response.status in (200, 201), await response.text()


def manifest(name):
    return {**JOB, "metadata": {"name": name, "namespace": NAMESPACE}}


def memory(process):
    """Resident memory now and at most, in MB."""
    lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return tuple(round(int(lines[name].split()[0]) * 1024 / 1e6) for name in ("VmRSS", "VmHWM"))


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


def say(text):
    print(f"{text} ...", file=sys.stderr, flush=True)


def table(results):
    yield "| finished jobs lying about | " + " | ".join(f"{r['finished']:,}" for r in results) + " |"
    yield "|---|" + "---:|" * len(results)
    rows = {
        "apply to Job, ms: p50 / p95 / p99 / most": lambda r: " / ".join(
            map(str, (*r["latency_ms"].values(), r["slowest_ms"]))
        ),
        "memory, MB: at first / with the jobs / started anew": lambda r: " / ".join(map(str, r["rss_mb"].values())),
        "most memory, MB: first start / second start": lambda r: " / ".join(map(str, r["peak_rss_mb"].values())),
        "the machine's CPU in use meanwhile, %": lambda r: r["machine_busy_percent"],
        "CPU, s: all jobs": lambda r: r["cpu_seconds_in_all"],
        "CPU, s a minute: idle": lambda r: r["idle_cpu_seconds_a_minute"],
        "killed and started again: caught up after, s": lambda r: r["caught_up_seconds"],
        "writes a job": lambda r: r["writes_a_job"],
    }
    for title, cell in rows.items():
        yield f"| {title} | " + " | ".join(str(cell(result)) for result in results) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that are applied (1000)")
    parser.add_argument("--rate", type=float, default=20, help="jobs a second (20)")
    parser.add_argument("--finished", type=int, default=10000, help="finished jobs of the second column (10000)")
    parser.add_argument("--idle-seconds", type=int, default=60, help="time that the idle operator is watched (60)")
    options = parser.parse_args()
    remove_abandoned(clean_up)
    run = RunFolder()
    results = []
    try:
        for finished in sorted({0, options.finished}):
            folder = run.path / str(finished)
            folder.mkdir()
            bench = Bench(folder, options, finished)
            with contextlib.closing(bench):
                results.append(asyncio.run(bench.run()))
    finally:
        run.remove()
    print("\n".join(table(results)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
