"""Measure what attacks cost the servers of this project, as ratios to an undisturbed one; print a Markdown table.

Run: .venv/bin/python bench/attacks.py [SERVER ...] (six minutes; needs Linux, and root for the memory of the kernel)
Each server runs twice, and one of the two is attacked. An innocent caller asks both in turn meanwhile, so the load of
the machine is the same for both, and what is left of the ratio is the attack's. The command fails when a ratio exceeds
its bound. The memory is the most that the server's process had meanwhile. For attacks on the memory of the kernel, it
is that of the server, its workers and what the kernel holds for them, beside that of the undisturbed one and what its
code may take, `sandbox.memory`. The loader's memory is without that of the process in which it checks large headers,
one at a time, which has a limit of its own.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/operator"))

from support.adapters import configuration, header, safetensors, write_adapter_bytes
from support.hostile_clients import connected, flooding, floods
from support.hostile_pods import KINDS
from support.hostile_replies import GREEDY, SOURCE
from support.loader import LoaderProgram, PretendedServer, write_list
from support.memory import forget_peak, peak_bytes
from support.patience import wait_until
from support.reward_server import TOKEN, RewardServer, sample
from views import pod

from rft_api.foreign import server_limits
from rft_api.metrics import TrainMetrics
from rft_api.ports import free_port
from rft_api.quantities import quantity_value
from rft_api.reward_protocol import SCORE_PATH
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.pods.transport import PodTransport
from rft_operator.rft_job.names import PROGRESS_PORT
from rft_operator.rft_job.probe import ask_progress

PAUSE_SECONDS = 0.01
"""Pause of the innocent caller between two questions."""
NETWORK = f"127.80.{os.getpid() % 256}"
"""Beginning of the addresses of pods, whose port is fixed."""
GOOD_POD = f"{NETWORK}.200"
HOSTILE_JOBS = 100
ASK_AGAIN_SECONDS = 1.0
"""Time between two questions to the pod of a job. The operator asks less often."""
CGROUPS = Path("/sys/fs/cgroup")


class Subject:
    """A server of which one copy is attacked, and the question that an innocent caller asks it."""

    def __init__(self, pid, ask):
        self.pid = pid
        self.ask = ask

    def forget_peak(self):
        forget_peak(self.pid)

    def peak(self):
        return peak_bytes(self.pid)


class Group(Subject):
    """A server with all processes that it starts, and with what the kernel holds for them: a group of processes.

    `allowance`: the bytes that code may take there, and did not.
    """

    def __init__(self, folder, ask, allowance):
        super().__init__(0, ask)
        self.allowance = allowance
        self.current = folder / ("memory.current" if (folder / "memory.current").exists() else "memory.usage_in_bytes")
        self.most = 0

    def forget_peak(self):
        self.most = 0

    def sample(self):
        self.most = max(self.most, int(self.current.read_text()))

    def peak(self):
        self.sample()
        return self.most + self.allowance


def measure(attacked, undisturbed, attack, seconds):
    """Return the ratios of memory and of p95 latency, attacked to undisturbed, while an attack goes on."""
    pair = (attacked, undisturbed)
    for server in pair * 20:
        server.ask()
    times = {server: [] for server in pair}
    for server in pair:
        server.forget_peak()
    stop = threading.Event()
    watch = threading.Thread(target=sample_groups, args=(pair, stop))
    watch.start()
    try:
        with attack() as went_on:
            end = time.monotonic() + seconds
            while time.monotonic() < end or len(times[attacked]) < 100 or not went_on():
                for server in pair:
                    started = time.perf_counter()
                    server.ask()
                    times[server].append(time.perf_counter() - started)
                time.sleep(PAUSE_SECONDS)
    finally:
        stop.set()
        watch.join()
    slow, usual = (statistics.quantiles(times[server], n=20, method="inclusive")[-1] for server in pair)
    print(
        f"{len(times[attacked])} answers, p95 {1000 * slow:.1f} and {1000 * usual:.1f} ms", file=sys.stderr, flush=True
    )
    return attacked.peak() / undisturbed.peak(), slow / usual


def say(text):
    print(text, file=sys.stderr, flush=True)


def sample_groups(pair, stop):
    while not stop.wait(0.005):
        for server in pair:
            if isinstance(server, Group):
                server.sample()


# The reward server.


def ask_score(server):
    """An innocent caller that scores a completion, on a connection of its own, as after a pause."""
    completion = "[{'id': 'one', 'aggregate_reward_score': 1.0}]"
    body = json.dumps([sample("one", completion)])

    def ask():
        with contextlib.closing(server.connect()) as connection:
            status, answer = post(connection, body)
        assert status == 200, answer
        assert json.loads(answer)[0]["aggregate_reward_score"] == 1.0, answer

    return ask


def post(connection, body):
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    connection.request("POST", SCORE_PATH, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def scoring(server, completions):
    """An attack by a client that has such completions scored, one request after the other."""

    @contextlib.contextmanager
    def attack():
        stop, answers = threading.Event(), []

        def send():
            connection = server.connect()
            for completion in itertools.cycle(completions):
                if stop.is_set():
                    return
                status, answer = post(connection, json.dumps([sample("bad", completion), sample("one", completion)]))
                assert status == 200, answer
                assert all(row["aggregate_reward_score"] is None for row in json.loads(answer)), answer
                answers.append(answer)

        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            sender = threads.submit(send)
            try:
                yield lambda: answers
            finally:
                stop.set()
                sender.result()

    return attack


def deep(field):
    """A completion whose row has 985 lists in each other in a field."""
    return f"[{{'id': 'one', '{field}': __import__('json').loads('[' * 985 + ']' * 985)}}]"


PAIRS = "s = __import__('socket')\no = __import__('os')\nt = __import__('time')\nheld = []\n"
LARGE_PAIRS = f"""{PAIRS}
held = [s.socketpair() for _ in range(30)]
for ends in held:
    for end in ends:
        end.setsockopt(s.SOL_SOCKET, s.SO_SNDBUF, 8 << 20)
"""
MANY_PAIRS = f"""{PAIRS}
for _ in range(40):
    if o.fork() == 0:
        for end in [end for _ in range(58) for end in s.socketpair()]:
            end.setblocking(False)
            held.append(end)
            try:
                while True:
                    end.send(bytes(65536))
            except BlockingIOError:
                pass
        t.sleep(60)
t.sleep(60)
"""
PIPES = f"""{PAIRS}
held = [o.pipe() for _ in range(30)]
for _, end in held:
    __import__('fcntl').fcntl(end, 1031, 1 << 20)
"""


def reward_server_cases(folder):
    """Attacks 3, 4 and 5: what code answers, and clients without a token."""
    spec = {"timeout": "30s", "sandbox": {"memory": "2Gi", "processes": 2}, "python": {"source": SOURCE}}
    with RewardServer(folder / "attacked", spec) as server, RewardServer(folder / "undisturbed", spec) as other:
        # A worker that is busy with hostile code scores nothing else; that the server answers is what counts.
        probed = [Subject(each.process.pid, ask_page(f"{each.url}/healthz")) for each in (server, other)]
        for name, completion in GREEDY.items():
            yield f"3: a handler returns {name}", probed, scoring(server, [completion])
        pair = [Subject(each.process.pid, ask_score(each)) for each in (server, other)]
        port = int(server.url.rpartition(":")[2])
        for name, flood in floods("/healthz", SCORE_PATH).items():
            yield f"4: {name}, without end", pair, flooding_of(port, *flood)
        yield from half_requests(pair, port, b"GET /healthz HTTP/1.1\r\n", server_limits.CONNECTIONS)
        yield "4: 32 clients that ask for metrics again and again", pair, asking(f"{server.url}/metrics", 32)
        fields = ("id", "error", "aggregate_reward_score", "metrics_list", "warnings", "explanation")
        yield "5: rows that nest 985 lists", pair, scoring(server, list(map(deep, fields)))


def kernel_memory_cases(folder):
    """Attack 6: the memory of the kernel."""
    spec = {"timeout": "10s", "sandbox": {"memory": "128Mi", "processes": 2}, "python": {"source": SOURCE}}
    with process_group() as one, process_group() as two:
        servers = [RewardServer(folder / each.name, spec, launcher=joining(each)) for each in (one, two)]
        with servers[0], servers[1]:
            allowances = 0, int(quantity_value(spec["sandbox"]["memory"]))
            pair = [
                Group(group, ask_page(f"{server.url}/healthz"), allowance)
                for group, server, allowance in zip((one, two), servers, allowances, strict=True)
            ]
            attacks = {"large pairs of sockets": LARGE_PAIRS, "sockets of many processes": MANY_PAIRS, "pipes": PIPES}
            for name, code in attacks.items():
                yield f"6: {name}", pair, scoring(servers[0], [f"exec({code!r}) or []"])


@contextlib.contextmanager
def process_group():
    """A group of processes whose memory the kernel counts, with its own for them."""
    base = CGROUPS / "memory" if (CGROUPS / "memory" / "memory.usage_in_bytes").exists() else CGROUPS
    group = base / f"rft-attacks-{secrets.token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        sys.exit(f"the memory of the kernel cannot be measured: {group}: {error.strerror}; run this as root")
    try:
        yield group
    finally:
        for _ in range(100):  # a group is removed when its last process has gone
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def joining(group):
    return ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")


# Clients of any server.


def flooding_of(port, first, more):
    @contextlib.contextmanager
    def attack():
        with flooding(port, first, more) as sent:
            yield lambda: sent

    return attack


def half_requests(pair, port, line, connections):
    """Attacks by many connections that never go on."""
    beginnings = {
        "connections that say nothing": b"",
        "half requests": line + b"host: x\r\n",
        "half requests of 60 KB": line + b"a: " + b"b" * 60_000,
    }
    for name, beginning in beginnings.items():
        yield f"4: {2 * connections:,} {name}", pair, holding(port, beginning, 2 * connections)


def holding(port, beginning, number):
    @contextlib.contextmanager
    def attack():
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                with contextlib.suppress(ConnectionError):
                    stack.enter_context(connected(port, beginning))
            yield lambda: True

    return attack


def asking(url, clients):
    @contextlib.contextmanager
    def attack():
        stop, answers = threading.Event(), []

        def ask_on():
            ask = ask_page(url)
            while not stop.is_set():
                ask()
                answers.append(1)

        with concurrent.futures.ThreadPoolExecutor(clients) as threads:
            senders = [threads.submit(ask_on) for _ in range(clients)]
            try:
                yield lambda: answers
            finally:
                stop.set()
                for sender in senders:
                    sender.result()

    return attack


def ask_page(url):
    address = url.removeprefix("http://")

    def ask():
        host, _, path = address.partition("/")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        connection.close()

    return ask


# The trainer's port.

TRAINER = """
import sys
from rft_api.metrics import TrainMetrics
from rft_trainer.progress import ProgressReporter, serve_progress
reporter = ProgressReporter("team", "job")
reporter.plan(1000)
reporter.record_step(TrainMetrics.model_validate_json(sys.argv[2]), 10)
serve_progress(reporter, int(sys.argv[1]))
print("serving", flush=True)
sys.stdin.read()
"""
STEP = TrainMetrics(
    step=1, epoch=0.1, loss=0.0, reward=0.5, reward_std=0.1, components={f"component {n}": 0.5 for n in range(64)},
    sources={}, episode_length=3.0, gradient_norm=1.0, advantage_mean=0.0, advantage_std=1.0, advantage_abs_mean=0.8,
    policy_entropy=1.0, zero_variance_group_ratio=0.0, clipped_completion_ratio=0.0, learning_rate=1e-5,
    generate_seconds=1.0, reward_seconds=0.1, reward_request_seconds=0.2, update_seconds=1.0, tokens=10,
    rewards_failed=0,
)  # fmt: skip


@contextlib.contextmanager
def child(*command):
    """A program that says on its output when it is ready, and ends with its input."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "tests")}
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout.readline() == b"serving\n"
            yield process
        finally:
            process.kill()


def trainer_cases(folder):
    """Attack 4 on the port of progress and metrics."""
    ports = [free_port(), free_port()]
    step = STEP.model_dump_json(by_alias=True)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child("-c", TRAINER, str(port), step)) for port in ports]
        pair = [
            Subject(process.pid, ask_page(f"http://127.0.0.1:{port}/metrics"))
            for process, port in zip(children, ports, strict=True)
        ]
        for name, flood in floods("/metrics", "/metrics").items():
            yield f"4: {name}, without end", pair, flooding_of(ports[0], *flood)
        yield from half_requests(pair, ports[0], b"GET /metrics HTTP/1.1\r\n", server_limits.SMALL_CONNECTIONS)


# The operator's questions to pods.


def operator_cases(folder):
    """Attack 1: pods that answer for ever, or without end, beside a good one of another namespace."""
    addresses = {kind: f"{NETWORK}.{number}" for number, kind in enumerate(KINDS, 1)}
    told = [f"{address}={kind}" for kind, address in addresses.items()]
    threading.Thread(target=lambda: asyncio.run(serve_good_pod()), daemon=True).start()
    with child("-m", "support.hostile_pods", *told, "--", str(PROGRESS_PORT)):
        for name in [*KINDS, "all kinds"]:
            hostile = list(addresses.values()) if name == "all kinds" else [addresses[name]]
            # Each begins anew, so that no memory of an earlier attack counts.
            with child(__file__, "--poll") as one, child(__file__, "--poll") as other:
                pair = [Subject(process.pid, ask_poll(process)) for process in (one, other)]
                yield f"1: {HOSTILE_JOBS} pods, {name.replace('_', ' ')}", pair, polling(one, hostile)


def ask_poll(process):
    def ask():
        process.stdin.write(f"ask {GOOD_POD}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"polled\n"

    return ask


def polling(process, hostile):
    @contextlib.contextmanager
    def attack():
        for _, address in zip(range(HOSTILE_JOBS), itertools.cycle(hostile), strict=False):
            process.stdin.write(f"poll {address}\n".encode())
        process.stdin.flush()
        yield lambda: True

    return attack


async def serve_good_pod():
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"phase": "Training", "step": 3}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    await asyncio.start_server(answer, GOOD_POD, PROGRESS_PORT)
    await asyncio.Event().wait()


async def poll_pods():
    """Ask pods as the operator does, as the lines of the input say.

    `ask ADDRESS` asks a good pod once, which is said when it has answered; `poll ADDRESS` asks a hostile one on and on.
    """
    limits, tasks = Limits(), set()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with httpx.AsyncClient(trust_env=False, transport=PodTransport()) as client:
        pods = PodClient(client, limits)

        async def ask(namespace, address):
            async with limits.working.held(namespace):
                return await ask_progress(pods, [pod(ip=address, namespace=namespace)])

        async def ask_on_and_on(address):
            await asyncio.sleep(random.uniform(0, ASK_AGAIN_SECONDS))  # jobs are not asked in step
            while True:
                await ask("hostile", address)
                await asyncio.sleep(ASK_AGAIN_SECONDS)

        print("serving", flush=True)
        while line := (await lines.readline()).decode().strip():
            verb, address = line.split()
            if verb == "ask":
                assert (await ask("good", address)).step == 3
                print("polled", flush=True)
            else:
                tasks.add(asyncio.create_task(ask_on_and_on(address)))


# The loader.


def loader_cases(folder):
    """Attack 12: adapters that take much to read."""
    server = PretendedServer()
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    (base / "model.safetensors").write_bytes(safetensors(header()))
    good = json.dumps(configuration()).encode()
    sparse = write_adapter_bytes(folder / "sparse", safetensors(header()), b"")
    os.truncate(sparse / "adapter_config.json", 1 << 30)
    longest = write_adapter_bytes(folder / "longest", (90_000_000).to_bytes(8, "little"), good)
    os.truncate(longest / "adapter_model.safetensors", 1 << 30)
    values = b"[" + b",".join([b"[]"] * 1_900_000) + b"]"
    names = b"{" + b",".join(b'"%07d":[]' % number for number in range(990_000)) + b"}"
    hostile = {
        "a sparse configuration of 1 GiB": sparse,
        "a header that should have 90 MB": longest,
        "a header of 2 million values": write_adapter_bytes(folder / "values", safetensors(values), good),
        "a header of 990,000 names": write_adapter_bytes(folder / "names", safetensors(names), good),
    }
    loaders = [LoaderProgram(folder / name, base, server.url) for name in ("attacked", "undisturbed")]
    try:
        for loader in loaders:
            write_list(loader.list, {})
            loader.start()
            wait_until(lambda loader=loader: serves(loader.url))
        pair = [Subject(loader.process.pid, ask_page(f"{loader.url}/adapters")) for loader in loaders]
        for number in (1, 30):
            for name, adapter in hostile.items():
                yield f"12: {number} × {name}", pair, listing(loaders[0], adapter, number)
    finally:
        for loader in loaders:
            if loader.process is not None:
                loader.stop()
        server.stop()


def serves(url):
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def listing(loader, adapter, number):
    """Lists so many adapters that are all the same, at another address each second, so that they are read again."""

    @contextlib.contextmanager
    def attack():
        stop, refused = threading.Event(), loader.log.count(" bad-0: ")

        def write():
            for time_of in itertools.count():
                addresses = {}
                for place in range(number):
                    link = loader.folder / f"{adapter.name}-{number}-{time_of}-{place}"
                    link.symlink_to(adapter)
                    addresses[f"bad-{place}"] = link
                write_list(loader.list, addresses)
                if stop.wait(1):
                    return

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield lambda: loader.log.count(" bad-0: ") > refused
        finally:
            stop.set()
            writer.join()
            write_list(loader.list, {})
            time.sleep(2)

    return attack


SERVERS = {
    "reward": ("Reward server", reward_server_cases, 2.5, 15.0),
    "kernel": ("Reward server with its workers", kernel_memory_cases, 1.5, 10.0),
    "trainer": ("Trainer's port", trainer_cases, 1.5, 10.0),
    "operator": ("Operator's questions to pods", operator_cases, 1.5, 10.0),
    "loader": ("Loader", loader_cases, 4.0, 10.0),
}
"""The servers, their attacks, and the bounds of the two ratios.

A server may take what its limits allow: 64 MiB for connections or a reply beside the 50 MB of a reward server,
sandbox.memory for its workers, 4 MiB for connections beside the 40 MB of a small server, a few answers of 128 KiB in
the operator, and two large headers in the loader. An answer takes 1 to 10 ms, and who asks waits a second or more.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "servers", nargs="*", choices=[*SERVERS, []], help=f"servers to attack: {', '.join(SERVERS)} (all)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each attack (3)")
    parser.add_argument("--poll", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.poll:
        asyncio.run(poll_pods())
        return
    rows, exceeded = [], []
    for key in options.servers or SERVERS:
        title, cases, most_memory, most_latency = SERVERS[key]
        with tempfile.TemporaryDirectory() as folder:
            for name, pair, attack in cases(Path(folder)):
                say(f"measuring {title}, {name} ...")
                memory, latency = measure(*pair, attack, options.seconds)
                is_within = memory <= most_memory and latency <= most_latency
                cells = [title, name, f"{memory:.2f}", str(most_memory), f"{latency:.2f}", str(most_latency)]
                rows.append(f"| {' | '.join([*cells, 'yes' if is_within else '**no**'])} |")
                say(rows[-1])
                exceeded += [] if is_within else [f"{title}, {name}"]
    print("| Server | Attack | Memory | at most | p95 of an innocent caller | at most | Within |")
    print("|---|---|---:|---:|---:|---:|---|")
    print("\n".join(rows))
    if exceeded:
        sys.exit(f"{len(exceeded)} of {len(rows)} attacks exceed a bound: {'; '.join(exceeded)}")


if __name__ == "__main__":
    main()
