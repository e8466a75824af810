"""Measure latency, memory, CPU and writes of the operator with many jobs; print a Markdown table and a line of JSON.

Run: .venv/bin/python bench/operator_scale.py (about ten minutes; needs Linux and, once, the programs of the test
cluster, which it builds)
Jobs are applied at a steady rate to a real API server with its controllers, all on this machine. Pods are created, but
no node runs them. The latency is the time from the answer to the apply request until a watch reports the training Job.
In the second column, finished jobs exist at the same time.
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
    """A control plane, an operator, and a connection of the benchmark to the API server."""

    def __init__(self, folder, options, finished):
        self.options = options
        self.finished = finished
        self.audit = Audit(folder)
        self.plane = ControlPlane(folder / "plane", find_binaries(CONTROL_PLANE, print), self.audit.flags)
        self.operator = None
        self.folder = folder
        self.first_seen = {}  # the time when the watch first reported a training Job, by the name of its RFTJob

    async def run(self):
        self.plane.start()
        self.plane.kubectl.apply_definitions(CRDS)
        self.operator = Operator(write_operator_kubeconfig(self.plane), self.folder / "operator.log")
        context = ssl.create_default_context(cafile=str(self.plane.authority.pair.certificate))
        context.load_cert_chain(self.plane.admin.certificate, self.plane.admin.key)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(self.plane.url, connector=connector) as self.session:
            with self.plane.kubectl.namespace(NAMESPACE):
                await self.create_finished_jobs()
                self.operator.start()
                await asyncio.to_thread(self.create_reward)
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
        memory_at_start = memory(process)
        say(f"applying {self.options.jobs} jobs")
        psutil.cpu_percent()
        latencies = await self.apply_jobs()
        machine_percent = psutil.cpu_percent()
        await self.until_idle(process)
        memory_with_jobs = memory(process)
        say(f"watching an idle operator for {self.options.idle_seconds} s")
        cpu_of_jobs = cpu_seconds(process)
        await asyncio.sleep(self.options.idle_seconds)
        idle_cpu = (cpu_seconds(process) - cpu_of_jobs) * 60 / self.options.idle_seconds
        writes = Counter(
            f"{request.verb} {request.resource}"
            for request in self.audit.requests()
            if request.verb in WRITES and request.namespace == NAMESPACE
        )
        say("killing the operator and starting it again")
        catch_up_seconds = await self.restart()
        second_process = psutil.Process(self.operator.pid)
        await self.until_idle(second_process)
        memory_after_restart = memory(second_process)
        cuts = statistics.quantiles(latencies, n=100, method="inclusive")
        return {
            "jobs": self.options.jobs,
            "finished": self.finished,
            "latency_ms": {f"p{p}": round(1000 * cuts[p - 1], 1) for p in (50, 95, 99)},
            "slowest_ms": round(1000 * max(latencies), 1),
            "rss_mb": {
                "at first": memory_at_start[0],
                "with the jobs": memory_with_jobs[0],
                "started anew": memory_after_restart[0],
            },
            "peak_rss_mb": {"first start": memory_with_jobs[1], "second start": memory_after_restart[1]},
            "machine_busy_percent": round(machine_percent),
            "cpu_seconds_in_all": round(cpu_of_jobs, 1),
            "idle_cpu_seconds_a_minute": round(idle_cpu, 2),
            "caught_up_seconds": round(catch_up_seconds, 1),
            "writes_a_job": round(writes.total() / self.options.jobs, 2),
            "writes": {name: round(count / self.options.jobs, 3) for name, count in writes.most_common()},
            "load": os.getloadavg()[0],
        }

    async def create_finished_jobs(self):
        if not self.finished:
            return
        say(f"creating {self.finished} finished jobs")
        semaphore = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def create(number):
            name = f"old-{number:05}"
            async with semaphore:
                await self.request("POST", JOBS, manifest(name))
                patch = {"status": FINISHED}
                await self.request("PATCH", f"{JOBS}/{name}/status", patch, "application/merge-patch+json")

        async with asyncio.TaskGroup() as tasks:
            for number in range(self.finished):
                tasks.create_task(create(number))

    def create_reward(self):
        kubectl, kubelet = self.plane.kubectl, Kubelet(self.plane.kubectl, NAMESPACE)
        kubectl.apply(REWARD, namespace=NAMESPACE)
        (pod,) = kubelet.pods(REWARDS)
        kubelet.run(pod, "reward-server")
        wait_for(kubectl, NAMESPACE, "rewardfunction/amount", "Ready", "Ready")

    async def apply_jobs(self):
        apply_times, start = {}, time.monotonic()

        async def apply(number):
            await asyncio.sleep(start + number / self.options.rate - time.monotonic())
            name = f"job-{number:05}"
            apply_times[name] = await self.apply(name)

        async with asyncio.TaskGroup() as tasks:
            for number in range(self.options.jobs):
                tasks.create_task(apply(number))
        await self.until_seen(apply_times)
        return [self.first_seen[name] - apply_time for name, apply_time in apply_times.items()]

    async def restart(self):
        """Restart the operator, and return the seconds until it has created the Job of the RFTJob that is last."""
        self.operator.kill()
        await self.apply("last")
        start = time.monotonic()
        self.operator.start()
        await self.until_seen(["last"])
        return self.first_seen["last"] - start

    async def apply(self, name):
        parameters = "?fieldManager=bench&force=true"
        await self.request("PATCH", f"{JOBS}/{name}{parameters}", manifest(name), "application/apply-patch+yaml")
        return time.monotonic()

    async def until_seen(self, names):
        while not self.first_seen.keys() >= set(names):
            assert not self.operator.has_ended(), self.operator.log()
            await asyncio.sleep(0.05)

    async def until_idle(self, process):
        """Wait until the operator has used less than a tenth of a processor for five seconds in a row."""
        idle_seconds = 0
        while idle_seconds < 5:
            before = process.cpu_times()
            await asyncio.sleep(1)
            after = process.cpu_times()
            used = after.user + after.system - before.user - before.system
            idle_seconds = idle_seconds + 1 if used < 0.1 else 0

    async def watch(self):
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(f"{TRAINING_JOBS}?watch=true", timeout=timeout, read_bufsize=2**20) as response:
            async for line in response.content:
                labels = json.loads(line)["object"]["metadata"].get("labels", {})
                self.first_seen.setdefault(labels.get("rft.dev/owner"), time.monotonic())

    async def request(self, method, path, body, content_type="application/json"):
        headers = {"Content-Type": content_type}
        async with self.session.request(method, path, data=json.dumps(body), headers=headers) as response:
            assert response.status in (200, 201), await response.text()


def manifest(name):
    return {**JOB, "metadata": {"name": name, "namespace": NAMESPACE}}


def memory(process):
    """Return the resident memory now and its maximum so far, in MB."""
    lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return tuple(round(int(lines[name].split()[0]) * 1024 / 1e6) for name in ("VmRSS", "VmHWM"))


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


def say(text):
    print(f"{text} ...", file=sys.stderr, flush=True)


def markdown_table(results, rows):
    """Return a table with a column for each result; a row is a title and a function of a result, the first the head."""
    lines = [f"| {title} | " + " | ".join(str(cell(result)) for result in results) + " |" for title, cell in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * len(results), *lines[1:]])


def table(results):
    return markdown_table(
        results,
        [
            ("finished jobs lying about", lambda r: f"{r['finished']:,}"),
            (
                "apply to Job, ms: p50 / p95 / p99 / most",
                lambda r: " / ".join(map(str, (*r["latency_ms"].values(), r["slowest_ms"]))),
            ),
            (
                "memory, MB: at first / with the jobs / started anew",
                lambda r: " / ".join(map(str, r["rss_mb"].values())),
            ),
            ("most memory, MB: first start / second start", lambda r: " / ".join(map(str, r["peak_rss_mb"].values()))),
            ("the machine's CPU in use meanwhile, %", lambda r: r["machine_busy_percent"]),
            ("CPU, s: all jobs", lambda r: r["cpu_seconds_in_all"]),
            ("CPU, s a minute: idle", lambda r: r["idle_cpu_seconds_a_minute"]),
            ("killed and started again: caught up after, s", lambda r: r["caught_up_seconds"]),
            ("writes a job", lambda r: r["writes_a_job"]),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="number of jobs (1000)")
    parser.add_argument("--rate", type=float, default=20, help="jobs that are applied per second (20)")
    parser.add_argument("--finished", type=int, default=10000, help="finished jobs of the second column (10000)")
    parser.add_argument(
        "--idle-seconds", type=int, default=60, help="seconds for which the idle operator is watched (60)"
    )
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
    print(table(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
