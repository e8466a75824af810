"""Measure what hostile tenants cost a good one; print a Markdown table and a line of JSON.

Run: .venv/bin/python bench/hostile_jobs.py (under ten minutes; needs Linux and, once, the programs of the test cluster,
which it builds)
Good jobs run in a namespace of their own. The first column is without anybody else. In the next ones, hostile jobs run
whose pods answer as tests/support/hostile_pods.py says, with hostile rewards and endpoints, a tenth as many of each. In
the others (--churn), a tenant changes objects without end. The API server is real, with its controllers; pods are
created, and this program says that they run. Everything shares this machine, so a part of each ratio is the machine's:
the line "API server" has what the same write costs without the operator.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import ssl
import statistics
import string
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/operator"))

from cluster.build import find_binaries
from cluster.control_plane import ControlPlane
from cluster.kubectl import CRDS
from cluster.node import clean_up
from cluster.runs import RunFolder, remove_abandoned
from cluster.versions import CONTROL_PLANE
from lives import JOB, REWARD, write_operator_kubeconfig
from operator_scale import cpu_seconds, markdown_table, memory, say
from pretending import Operator, reason
from support.hostile_pods import KINDS

from rft_operator.inference_endpoint.names import LOADER_PORT, SERVER_PORT
from rft_operator.reward_function.names import REWARD_PORT
from rft_operator.rft_job.names import PROGRESS_PORT

GROUP = "/apis/rft.dev/v1alpha1"
GOOD = "good"
EDITED, POLLED = 10, 30
"""Good jobs that are edited, and good jobs whose progress changes."""
EDIT_SECONDS = 0.25
"""Time between two edits of good jobs. Each job is edited every EDITED * EDIT_SECONDS."""
# The ports of pods are fixed, and other programs of this machine may have them at other addresses.
HOSTILE_ADDRESSES = {kind: f"127.77.{os.getpid() % 256}.{number}" for number, kind in enumerate(KINDS, 1)}
GOOD_ADDRESS = f"127.78.{os.getpid() % 256}.{{}}"
MERGE = "application/merge-patch+json"
REQUESTS_AT_ONCE = 8
CONTAINERS = {"trainer": "trainer", "reward-server": "reward-server", "server": "server"}
"""The main container of the pods of each component."""


class Bench:
    """A control plane, an operator, pods that only seem to run, and a connection to the API server."""

    def __init__(self, folder, options):
        self.folder = folder
        self.options = options
        self.plane = ControlPlane(folder / "plane", find_binaries(CONTROL_PLANE, print))
        self.operator = None
        self.hostile_pods = None
        self.seen = {}  # the newest generation, and step, that the status of a good job shows
        self.changed = asyncio.Event()
        self.asked = {}  # the step that each good pod has last answered, and when
        self.polls = []  # seconds from one answer of a good pod until the status shows the next
        self.kinds = itertools.cycle(KINDS)
        self.running = 0
        self.hostile_in_each = 0  # hostile jobs in each of their namespaces
        self.retries = itertools.cycle(range(1, 101))

    def close(self):
        if self.operator is not None:
            self.operator.kill()
        if self.hostile_pods is not None:
            self.hostile_pods.kill()
        self.plane.stop()

    async def run(self):
        self.plane.start()
        self.plane.kubectl.apply_definitions(CRDS)
        self.operator = Operator(write_operator_kubeconfig(self.plane), self.folder / "operator.log")
        await self.serve_pods()
        context = ssl.create_default_context(cafile=str(self.plane.authority.pair.certificate))
        context.load_cert_chain(self.plane.admin.certificate, self.plane.admin.key)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        columns = []
        async with aiohttp.ClientSession(self.plane.url, connector=connector) as self.session:
            self.operator.start()
            await self.create_namespace(GOOD)
            tasks = self.tasks = [asyncio.create_task(task) for task in (self.run_pods(), self.watch_good())]
            try:
                await self.create_all(GOOD, [job(f"edited-{n}") for n in range(EDITED)])
                await self.create_all(GOOD, [job(f"polled-{n}") for n in range(POLLED)])
                await self.until_running(EDITED + POLLED + 1)
                # Each kind of latency is then past its first time, and polls are spread.
                await self.measure("warm-up", 20)
                columns.append(await self.measure("undisturbed"))
                for number in self.options.hostile:
                    await self.add_hostile(number)
                    title = f"{number:,} hostile in {self.options.namespaces}"
                    columns.append(await self.measure(title))
                await self.create_namespace("churn")
                for name in self.options.churn:
                    columns.append(await self.measure_churn(name))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return columns

    async def serve_pods(self):
        """Serve good pods here, each at its address, and hostile ones in another process."""

        def good(name):
            async def answer(reader, writer):
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await reader.readuntil(b"\r\n\r\n")
                    step = self.asked.get(name, (0, 0, 0))[0] + 1
                    self.asked[name] = (step, time.monotonic(), self.asked.get(name, (0, 0, 0))[1])
                    body = json.dumps({"phase": "Training", "step": step, "totalSteps": 10**9}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    await writer.drain()
                writer.close()

            return answer

        for number, name in enumerate(good_names(), 1):
            await asyncio.start_server(good(name), GOOD_ADDRESS.format(number), PROGRESS_PORT)
        addresses = [f"{address}={kind}" for kind, address in HOSTILE_ADDRESSES.items()]
        ports = [str(port) for port in (PROGRESS_PORT, REWARD_PORT, SERVER_PORT, LOADER_PORT)]
        command = [sys.executable, "-m", "support.hostile_pods", *addresses, "--", *ports]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "tests")}
        self.hostile_pods = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert await asyncio.to_thread(self.hostile_pods.stdout.readline) == b"serving\n"

    async def run_pods(self):
        """Say of each new pod that it runs."""
        async for event in self.watch("/api/v1/pods"):
            pod = event["object"]
            labels, status = pod["metadata"].get("labels", {}), pod.get("status", {})
            container = CONTAINERS.get(labels.get("app.kubernetes.io/component"))
            if event["type"] not in ("ADDED", "MODIFIED") or container is None or status.get("podIP"):
                continue
            with contextlib.suppress(AssertionError):  # gone meanwhile
                await self.run_pod(pod, container)

    async def run_pod(self, pod, container):
        namespace, owner = pod["metadata"]["namespace"], pod["metadata"]["labels"]["rft.dev/owner"]
        good = {name: GOOD_ADDRESS.format(number) for number, name in enumerate(good_names(), 1)}
        address = good[owner] if namespace == GOOD and owner in good else HOSTILE_ADDRESSES[next(self.kinds)]
        ready = not owner.startswith("bad-reward")
        truth = "True" if ready else "False"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        state = {"running": {"startedAt": now}}
        status = {
            "phase": "Running",
            "startTime": now,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": kind, "status": truth} for kind in ("Ready", "ContainersReady")],
            "containerStatuses": [
                {"name": container, "image": "i", "imageID": "i", "restartCount": 0}
                | {"ready": ready, "started": True, "state": state}
            ],
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
        await self.request("PATCH", path, {"status": status}, MERGE)
        self.running += 1

    async def watch_good(self):
        async for event in self.watch(f"{GROUP}/namespaces/{GOOD}/rftjobs"):
            now, found = time.monotonic(), event["object"]
            name, status = found["metadata"]["name"], found.get("status", {})
            generations = [c["observedGeneration"] for c in status.get("conditions", []) if c["type"] == "Succeeded"]
            step, before = status.get("progress", {}).get("step", 0), self.seen.get(name, (0, 0, 0))
            self.seen[name] = (max(generations, default=0), step, now)
            answered = self.asked.get(name)
            if name.startswith("polled") and step > before[1] > 0 and answered is not None and answered[0] == step:
                self.polls.append(now - answered[2])
            self.changed.set()

    async def watch(self, path):
        """Yield events without end. The API server ends a watch that falls behind; the next begins with all objects."""
        timeout = aiohttp.ClientTimeout(total=None)
        while True:
            async with self.session.get(f"{path}?watch=true", timeout=timeout, read_bufsize=2**24) as response:
                if response.status == 429:  # the API server has just learnt of the kind
                    await asyncio.sleep(1)
                    continue
                assert response.status == 200, await response.text()
                async for line in response.content:
                    yield json.loads(line)

    async def create_namespace(self, name):
        """Create a namespace, with a reward that is ready."""
        await asyncio.to_thread(
            self.plane.kubectl.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
        account = ["serviceaccount", "default", f"--namespace={name}"]
        await asyncio.to_thread(lambda: self.plane.kubectl.wait_for(*account, until=bool))
        await self.create_all(name, [REWARD])

    async def add_hostile(self, number):
        """Have so many hostile jobs, and a tenth as many hostile rewards, and endpoints, in all namespaces together."""
        say(f"creating {number} hostile jobs")
        spaces = [f"hostile-{n}" for n in range(self.options.namespaces)]
        for space in spaces:
            exists = await asyncio.to_thread(self.plane.kubectl.run, "get", "namespace", space)
            if exists.returncode:
                await self.create_namespace(space)
                await self.create_all(space, [endpoint("base", model={"uri": "s3://models/base"})])
        numbers, before = range(self.hostile_in_each, number // len(spaces)), self.running
        self.hostile_in_each = numbers.stop
        for space in spaces:
            objects = [job(f"bad-job-{n}") for n in numbers]
            objects += [renamed(REWARD, f"bad-reward-{n}") for n in numbers if n % 10 == 0]
            adapter = {"baseEndpoint": "base", "adapter": {"uri": "s3://adapters/a"}}
            objects += [endpoint(f"bad-adapter-{n}", **adapter) for n in numbers if n % 10 == 5]
            await self.create_all(space, objects)
        await self.until_running(before + len(numbers) * len(spaces))
        say("waiting for all of them to be asked")
        for space in spaces:
            await self.until_noticed(space)
        await asyncio.sleep(20)

    async def until_noticed(self, namespace):
        """Wait until the operator has noticed of all jobs of a namespace that they run, so that it asks their pods."""
        waiting = True
        while waiting:
            self.check()
            await asyncio.sleep(3)
            jobs = await self.request("GET", f"{GROUP}/namespaces/{namespace}/rftjobs", None)
            waiting = [j for j in jobs["items"] if reason(j, "Succeeded") != "Running"]

    async def until_running(self, number):
        while self.running < number:
            self.check()
            await asyncio.sleep(0.2)

    def check(self):
        assert not self.operator.has_ended(), self.operator.log()[-5000:]
        for task in self.tasks:
            if task.done():
                task.result()

    async def measure_churn(self, name):
        churn = asyncio.create_task(getattr(self, f"churn_{name}")())
        await asyncio.sleep(2)
        try:
            column = await self.measure(name)
            if churn.done():
                churn.result()  # it has failed, and the column means nothing
            return column
        finally:
            churn.cancel()
            await asyncio.gather(churn, return_exceptions=True)
            await asyncio.sleep(5)

    async def measure(self, title, seconds=None):
        """Edit good jobs, and watch everything else meanwhile; return the figures."""
        seconds = seconds or self.options.seconds
        say(f"measuring for {seconds} s: {title}")
        self.check()
        process = psutil.Process(self.operator.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
        cpu, log = cpu_seconds(process), self.log_bytes()
        edits, writes, health, metrics = [], [], [], []
        self.polls.clear()
        psutil.cpu_percent()
        end = time.monotonic() + seconds
        watchers = [
            asyncio.create_task(self.sample(f"http://127.0.0.1:{port}{path}", times))
            for port, path, times in (
                (self.operator.liveness_port, "/healthz", health),
                (self.operator.metrics_port, "/metrics", metrics),
            )
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in itertools.count():
                    if time.monotonic() > end:
                        break
                    tasks.create_task(self.edit(f"edited-{number % EDITED}", edits, writes))
                    await asyncio.sleep(EDIT_SECONDS)
        finally:
            for watcher in watchers:
                watcher.cancel()
        column = {
            "title": title,
            "edit_ms": quantiles(edits),
            "poll_ms": quantiles(self.polls),
            "api_write_ms": quantiles(writes),
            "healthz_ms": quantiles(health),
            "metrics_ms": quantiles(metrics),
            "peak_rss_mb": memory(process)[1],
            "operator_cpu_percent": round(100 * (cpu_seconds(process) - cpu) / seconds),
            "machine_busy_percent": round(psutil.cpu_percent()),
            "log_bytes_per_second": round((self.log_bytes() - log) / seconds),
        }
        say(json.dumps(column))  # all is not lost when a later column fails
        return column

    async def edit(self, name, edits, writes):
        """Change a spec, and measure until the status is about it."""
        path = f"{GROUP}/namespaces/{GOOD}/rftjobs/{name}"
        started = time.monotonic()
        patch = {"spec": {"limits": {"retries": next(self.retries)}}}
        answer = await self.request("PATCH", path, patch, MERGE)
        answered = time.monotonic()
        writes.append(answered - started)
        while self.seen[name][0] < answer["metadata"]["generation"]:
            self.changed.clear()
            await self.changed.wait()
        edits.append(max(time.monotonic() - answered, 0))

    async def sample(self, url, times):
        async with aiohttp.ClientSession() as session:
            while True:
                started = time.monotonic()
                try:
                    async with session.get(url, timeout=aiohttp.ClientTimeout(total=30)) as response:
                        await response.read()
                except (aiohttp.ClientError, TimeoutError):
                    pass  # it counts as it took
                times.append(time.monotonic() - started)
                await asyncio.sleep(0.25)

    def log_bytes(self):
        return (self.folder / "operator.log").stat().st_size

    async def churn_edits(self):
        """Edit ten jobs, each ten times a second."""
        await self.create_all("churn", [job(f"edited-{n}") for n in range(10)])
        await self.patch_on_and_on(
            [f"edited-{n}" for n in range(10)], 100, lambda: {"spec": {"suspend": random.random() < 0.5}}
        )

    async def churn_annotations(self):
        """Annotate a job with 200 KiB that do not compress well, ten times a second."""
        await self.create_all("churn", [job("annotated")])
        await self.patch_on_and_on(["annotated"], 10, lambda: {"metadata": {"annotations": {"a": noise(200 << 10)}}})

    async def churn_loop(self):
        """Create and delete jobs, four at a time."""

        async def create_and_delete(number):
            while True:
                await self.create_all("churn", [job(f"brief-{number}")])
                path = f"{GROUP}/namespaces/churn/rftjobs/brief-{number}"
                await self.request("DELETE", path, {})

        await asyncio.gather(*(create_and_delete(number) for number in range(4)))

    async def churn_burst(self):
        """Create a thousand jobs as fast as the API server takes them."""
        await self.create_all("churn", [job(f"burst-{n}") for n in range(1000)], at_once=32)
        await asyncio.Event().wait()

    async def churn_huge(self):
        """Have twenty jobs with specs of 900 kB, and edit one after the other."""
        variables = [{"name": f"V{n}", "value": noise(15_000)} for n in range(60)]
        huge = [job(f"huge-{n}", compute={"gpusPerNode": 0, "pod": {"env": variables}}) for n in range(20)]
        await self.create_all("churn", huge)
        names = [one["metadata"]["name"] for one in huge]
        await self.patch_on_and_on(names, 2, lambda: {"spec": {"limits": {"retries": next(self.retries)}}})

    async def patch_on_and_on(self, names, per_second, patch):
        """Patch one object after the other, at this rate, or as fast as the API server answers to eight at a time."""
        semaphore = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def send(name):
            try:
                await self.request("PATCH", f"{GROUP}/namespaces/churn/rftjobs/{name}", patch(), MERGE)
            finally:
                semaphore.release()

        async with asyncio.TaskGroup() as tasks:
            for name in itertools.cycle(names):
                await semaphore.acquire()
                tasks.create_task(send(name))
                await asyncio.sleep(1 / per_second)

    async def create_all(self, namespace, objects, at_once=REQUESTS_AT_ONCE):
        semaphore = asyncio.Semaphore(at_once)

        async def create(obj):
            async with semaphore:
                plural = f"{obj['kind'].lower()}s"
                await self.request("POST", f"{GROUP}/namespaces/{namespace}/{plural}", obj)

        await asyncio.gather(*(create(obj) for obj in objects))

    async def request(self, method, path, body, content_type="application/json"):
        headers = {"Content-Type": content_type}
        async with self.session.request(method, path, data=json.dumps(body), headers=headers) as response:
            text = await response.text()
            assert response.status in (200, 201), text[:1000]
            return json.loads(text)


def good_names():
    return [*(f"edited-{n}" for n in range(EDITED)), *(f"polled-{n}" for n in range(POLLED))]


def renamed(manifest, name):
    return {**manifest, "metadata": {"name": name}}


def job(name, **spec):
    return {**JOB, "metadata": {"name": name}, "spec": {**JOB["spec"], **spec}}


def endpoint(name, **spec):
    head = {"apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint"}
    return {**head, "metadata": {"name": name}, "spec": spec}


def noise(size):
    return "".join(random.choices(string.ascii_letters + string.digits, k=size))


def quantiles(seconds):
    """The median, the 95th percentile and the most in milliseconds, with their number."""
    if len(seconds) < 2:
        return {"p50": None, "p95": None, "most": None, "number": len(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    figures = {"p50": cuts[49], "p95": cuts[94], "most": max(seconds)}
    return {**{name: round(1000 * value, 1) for name, value in figures.items()}, "number": len(seconds)}


def table(columns):
    first = columns[0]

    def times(field):
        return lambda c: f"{c[field]['p50']} / {c[field]['p95']}"

    def ratio(field):
        before = first[field]["p95"]
        return lambda c: f"{c[field]['p95'] / before:.2f}" if before and c[field]["p95"] else "-"

    return markdown_table(
        columns,
        [
            ("beside the good jobs", lambda c: c["title"]),
            ("edit to status, ms: p50 / p95", times("edit_ms")),
            ("the same, p95 as a ratio", ratio("edit_ms")),
            ("change of progress to status at the latest, ms: p50 / p95", times("poll_ms")),
            ("the same, p95 as a ratio", ratio("poll_ms")),
            ("API server: the same edit alone, ms: p50 / p95", times("api_write_ms")),
            ("/healthz, ms: p50 / p95", times("healthz_ms")),
            ("/metrics, ms: p50 / p95", times("metrics_ms")),
            ("most memory, MB", lambda c: c["peak_rss_mb"]),
            ("the operator's CPU, %", lambda c: c["operator_cpu_percent"]),
            ("the machine's CPU in use meanwhile, %", lambda c: c["machine_busy_percent"]),
            ("log, bytes a second", lambda c: c["log_bytes_per_second"]),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, nargs="*", default=[16, 100, 1000], help="hostile jobs (16 100 1000)")
    parser.add_argument("--namespaces", type=int, default=1, help="number of hostile namespaces (1)")
    kinds = [name.removeprefix("churn_") for name in dir(Bench) if name.startswith("churn_")]
    parser.add_argument("--churn", nargs="*", choices=kinds, default=[], help="tenants who change objects without end")
    parser.add_argument("--seconds", type=int, default=40, help="seconds for which each column is measured (40)")
    options = parser.parse_args()
    remove_abandoned(clean_up)
    run = RunFolder()
    bench = Bench(run.path, options)
    try:
        with contextlib.closing(bench):
            columns = asyncio.run(bench.run())
    finally:
        run.remove()
    print(table(columns))
    print(json.dumps(columns))


if __name__ == "__main__":
    main()
