"""What rollout servers are started with and asked, and which of their answers are taken; without a vLLM."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import psutil
import pytest
import torch
from support.model_configurations import QWEN3_8B
from support.patience import wait_until
from support.trainer import job_spec, render
from transformers import LlamaConfig

from rft_api.exit_codes import ExitCode, RunError
from rft_api.memory_devices import devices_of
from rft_api.memory_plan import GIB, plan_memory
from rft_api.model_shape import read_shape
from rft_api.training import TrainerCompute
from rft_trainer.rollout_servers import process, servers
from rft_trainer.rollout_servers.client import Lost, RolloutClient, Sampling, read_completion, sample_seed
from rft_trainer.rollout_servers.command import ServerSettings, server_command, server_environment
from rft_trainer.rollout_servers.generation import Completion
from rft_trainer.rollout_servers.placement import gpu_memory_share, on_devices, server_cache_bytes, server_settings
from rft_trainer.rollout_servers.process import NotLoaded, RolloutServer, failure_file
from rft_trainer.rollout_servers.servers import Version, socket_of

SAMPLING = Sampling(temperature=1.0, max_tokens=3, end_ids=(1,))
REQUEST = {**SAMPLING.body(), "model": "policy-v1", "prompt": [5, 6], "seed": 7}


def answer_to(request, ids=(8, 1), **changes):
    choice = {
        "prompt_token_ids": request["prompt"],
        "token_ids": list(ids),
        "logprobs": {"token_logprobs": [-0.5] * len(ids)},
        "finish_reason": "stop",
    }
    return {"model": request["model"], "choices": [{**choice, **changes}]}


def test_an_answer_has_ids_log_probabilities_and_the_reason_of_its_end():
    assert read_completion(answer_to(REQUEST), REQUEST) == Completion([8, 1], [-0.5, -0.5], "stop")
    cut = answer_to(REQUEST, (8, 9, 8), finish_reason="length")
    assert read_completion(cut, REQUEST) == Completion([8, 9, 8], [-0.5] * 3, "length")


def test_an_answer_may_end_with_a_stop_string():
    sampling = Sampling(temperature=1.0, max_tokens=3, end_ids=(1,), stop=("b", "c d"))
    request = {**sampling.body(), "model": "policy-v1", "prompt": [5, 6], "seed": 7}
    assert request["stop"] == ["b", "c d"]
    assert request["include_stop_str_in_output"] is True
    for ids in ((8, 9), (8, 9, 8)):
        stopped = answer_to(request, ids, stop_reason="c d")
        assert read_completion(stopped, request) == Completion([*ids], [-0.5] * len(ids), "stop")
    for other in ("d", None, 9):
        with pytest.raises(ValueError, match="ends with the reason stop after 2 tokens"):
            read_completion(answer_to(request, (8, 9), stop_reason=other), request)
    with pytest.raises(ValueError, match="ends with the reason length after 2 tokens"):
        read_completion(answer_to(request, (8, 9), stop_reason="b", finish_reason="length"), request)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "does not have one completion"),
        ({"model": "policy-v1", "choices": []}, "does not have one completion"),
        ({**answer_to(REQUEST), "model": "base"}, "is of model base, and policy-v1 was asked"),
        (answer_to(REQUEST, prompt_token_ids=[5]), "is not to the prompt"),
        (answer_to(REQUEST, logprobs={"token_logprobs": [-0.5]}), "log-probability for each token"),
        (answer_to(REQUEST, logprobs=None), "log-probability for each token"),
        (answer_to(REQUEST, logprobs={"token_logprobs": [-0.5, None]}), "log-probability for each token"),
        (answer_to(REQUEST, logprobs={"token_logprobs": [-0.5, float("nan")]}), "no finite number below 0"),
        (answer_to(REQUEST, logprobs={"token_logprobs": [-0.5, 0.5]}), "no finite number below 0"),
        (answer_to(REQUEST, (), finish_reason="length"), "log-probability for each token"),
        (answer_to(REQUEST, (8, True)), "log-probability for each token"),
        (answer_to(REQUEST, (8, 9)), "ends with the reason stop after 2 tokens"),
        (answer_to(REQUEST, (8, 9), finish_reason="length"), "cut off after 2 of 3 tokens"),
        (answer_to(REQUEST, (8, 9, 8, 9), finish_reason="length"), "ends with the reason length after 4 tokens"),
        (answer_to(REQUEST, finish_reason="length"), "ends with the reason length after 2 tokens"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(answer, words):
    with pytest.raises(ValueError, match=words):
        read_completion(answer, REQUEST)


def test_seeds_of_samples_are_unrelated():
    seeds = {sample_seed(0, "rollout", step, place) for step in range(100) for place in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert sample_seed(0, "rollout", 1, 12) != sample_seed(0, "rollout", 11, 2)


@contextmanager
def server(socket, respond):
    """A server behind a Unix socket; `respond` returns status and content, or None to hang up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"null")
            response = respond(self.path, request)
            if response is None:
                return
            status, content = response
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "client"

        def log_message(self, *arguments):
            pass

    with ThreadingUnixStreamServer(str(socket), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield
        listening.shutdown()


@pytest.fixture
def folder():
    with servers.server_folder() as folder:
        yield folder


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def client(folder, stop):
    client = RolloutClient([socket_of(folder, 0)], stop.is_set)
    yield client
    client.close()


PROMPTS = [[5, 6], [5, 6], [7]]
SEEDS = [1, 2, 3]


def test_a_lost_request_is_sent_again_with_the_same_seed(folder, client):
    seen: list[tuple[int, ...]] = []
    lock = threading.Lock()

    def respond(path, request):
        with lock:  # requests come in any order, also at the same time
            seen.append((*request["prompt"], request["seed"]))
            number = len(seen)
        if number == 1:
            return None
        if number == 2:
            return 500, {"message": "EngineCore encountered an issue"}
        if number == 3:
            return 200, answer_to(request, finish_reason="abort")
        return 200, answer_to(request, (request["seed"] + 10, 1))

    with server(socket_of(folder, 0), respond):
        completions = client.generate("policy-v1", PROMPTS, SEEDS, SAMPLING)
    assert [each.token_ids for each in completions] == [[11, 1], [12, 1], [13, 1]]
    assert len(seen) == 6
    assert set(seen) == {(5, 6, 1), (5, 6, 2), (7, 3)}


def test_completions_are_reported_in_the_thread_that_asks(folder, client):
    reports = []
    with server(socket_of(folder, 0), lambda path, request: (200, answer_to(request))):
        client.generate(
            "policy-v1", PROMPTS * 20, SEEDS * 20, SAMPLING, lambda ended: reports.append(threading.current_thread())
        )
        with pytest.raises(RuntimeError, match="stopped by the one who asked"):
            client.generate("policy-v1", PROMPTS * 20, SEEDS * 20, SAMPLING, refuse)
    assert set(reports) <= {threading.current_thread()}


def test_completions_are_taken_as_they_end_without_waiting_for_others(folder, client):
    others = threading.Event()
    reports = []

    def respond(path, request):
        if request["seed"] == 3:
            others.wait()
        return 200, answer_to(request, (request["seed"] + 10, 1))

    with server(socket_of(folder, 0), respond):
        generation = client.begin("policy-v1", PROMPTS, SEEDS, SAMPLING)
        wait_until(lambda: generation.poll(reports.append) or sum(map(len, reports)) == 2)
        generation.poll(reports.append)
        assert {place: ids for report in reports for place, ids in report.items()} == {0: [11, 1], 1: [12, 1]}
        others.set()
        completions = generation.wait(refuse)  # all but the last one were taken
    assert [each.token_ids for each in completions] == [[11, 1], [12, 1], [13, 1]]


def test_completions_that_all_ended_are_taken_and_returned(folder, client):
    reports = []
    with server(socket_of(folder, 0), lambda path, request: (200, answer_to(request))):
        generation = client.begin("policy-v1", PROMPTS, SEEDS, SAMPLING)
        wait_until(lambda: generation.poll(reports.append) or sum(map(len, reports)) == 3)
        assert len(generation.wait(refuse)) == 3
        client.begin("policy-v1", PROMPTS, SEEDS, SAMPLING).cancel()


def refuse(ended):
    raise RuntimeError("stopped by the one who asked")


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (400, {"message": "too long"}, "answered 400: .*too long"),
        (200, {"choices": []}, "does not have one completion"),
    ],
)
def test_a_refusal_ends_the_run(folder, client, status, content, words):
    answering = server(socket_of(folder, 0), lambda path, request: (status, content))
    with answering, pytest.raises(RuntimeError, match=words):
        client.generate("policy-v1", PROMPTS, SEEDS, SAMPLING)


def test_a_server_that_cannot_be_started_says_why(folder, client):
    failure_file(socket_of(folder, 0)).write_text("rollout server 0 ended: out of memory", encoding="utf-8")
    with pytest.raises(RuntimeError, match="rollout server 0 ended: out of memory"):
        client.generate("policy-v1", PROMPTS, SEEDS, SAMPLING)
    with pytest.raises(RuntimeError, match="rollout server 0 ended: out of memory"):
        client.wait_until_ready()


def test_waiting_for_a_server_ends_with_the_run(client, stop):
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(RunError) as raised:
        client.generate("policy-v1", PROMPTS, SEEDS, SAMPLING)
    assert raised.value.code is ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("refused", "status", "content", "words"),
    [
        ("/v1/load_lora_adapter", 404, {}, "answered 404 to /v1/load_lora_adapter"),
        ("/collective_rpc", 500, {}, "answered 500 to /collective_rpc"),
        # vLLM answers 200 when it has not emptied its cache.
        ("/reset_prefix_cache", 200, {"success": False}, "has not emptied its cache"),
    ],
)
def test_a_version_that_is_not_acknowledged_is_not_loaded(folder, tmp_path, refused, status, content, words):
    def respond(path, request):
        return (status, content) if path.startswith(refused) else (200, {"success": True})

    version = Version("policy-v1", tmp_path, is_adapter="lora" in refused, is_temporary=True)
    with server(socket_of(folder, 0), respond), pytest.raises(NotLoaded, match=words):
        servers.load(socket_of(folder, 0), version, math.inf)


def config_of(folder, compute=None, **changes):
    spec = job_spec(folder / "m", folder, folder / "out", compute=compute or {"gpusPerNode": 0}, **changes)
    return render(spec, folder, "http://127.0.0.1:1", None)


def test_what_a_server_on_cpus_is_started_with(tmp_path):
    compute = {"gpusPerNode": 0, "processesPerNode": 2, "rollouts": {"engine": "vLLM", "servers": 2}}
    config = config_of(tmp_path, compute, tuning={"type": "LoRA", "rank": 20})
    settings = server_settings(config, "/m", LlamaConfig(), torch.float32, threads=8)
    assert len(settings) == 2
    assert (settings[0].threads, settings[0].tokens, settings[0].devices) == (4, 40, ())
    command = server_command(settings[0], tmp_path / "0.sock")
    options = dict(pairwise(command))
    assert options["--max-lora-rank"] == "32"
    assert options["--dtype"] == "float32"
    assert options["--kv-cache-memory-bytes"] == str(2 << 30)
    assert "--tensor-parallel-size" not in options
    assert "--no-enable-chunked-prefill" in command
    environment = server_environment(settings[0], {"RANK": "1", "MASTER_PORT": "1", "PATH": "/bin"}, tmp_path)
    assert "RANK" not in environment
    assert "MASTER_PORT" not in environment
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    whole = server_settings(config_of(tmp_path, compute), "/m", LlamaConfig(), torch.float32, threads=1)
    assert "--enable-lora" not in server_command(whole[0], tmp_path / "0.sock")
    assert server_environment(whole[0], {}, tmp_path)["VLLM_SERVER_DEV_MODE"] == "1"


def test_temporary_files_of_a_server_are_in_the_folder_that_is_removed_with_it():
    """Unless its path has no room for a socket: vLLM ends when it cannot open one."""
    on_cpus = ServerSettings("/m", "float32", 40, 8, 1)
    on_gpus = ServerSettings("/m", "bfloat16", 40, 8, 1, devices=("0",))
    inherited, both = {"TMPDIR": "/tmp"}, ("VLLM_RPC_BASE_PATH", "TMPDIR")
    longest, longer = Path("/" + 69 * "x"), Path("/" + 70 * "x")

    def chosen(settings, folder):
        environment = server_environment(settings, inherited, folder)
        return tuple(environment.get(name) for name in both)

    assert len(f"{longest}/{uuid.uuid4()}") == 107
    assert chosen(on_cpus, longest) == (str(longest), str(longest))
    assert chosen(on_gpus, longest) == (str(longest), "/tmp")
    assert chosen(on_cpus, longer) == chosen(on_gpus, longer) == (None, "/tmp")


def test_the_cache_on_cpus_has_room_for_two_long_sequences():
    architecture = LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, num_attention_heads=4, hidden_size=128)
    token = 2 * 2 * 2 * 32 * 4
    assert server_cache_bytes(architecture, 40, torch.float32) == 256 * 3 * 32 * token
    assert server_cache_bytes(architecture, 1 << 22, torch.float32) == 2 * ((1 << 22) + 32) * token


@pytest.mark.parametrize(
    ("compute", "visible", "devices"),
    [
        ({"gpusPerNode": 2}, None, [("0",), ("1",)]),
        ({"gpusPerNode": 4, "rollouts": {"gpusPerServer": 2}}, None, [("0", "1"), ("2", "3")]),
        ({"gpusPerNode": 2, "rollouts": {"placement": "Dedicated"}}, None, [("2",)]),
        (
            {"gpusPerNode": 1, "rollouts": {"placement": "Dedicated", "servers": 2, "gpusPerServer": 2}},
            "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e",
            [("GPU-b", "GPU-c"), ("GPU-d", "GPU-e")],
        ),
    ],
)
def test_the_gpus_of_each_server(compute, visible, devices):
    parsed = TrainerCompute.model_validate(compute)
    settings = [ServerSettings("/m", "bfloat16", 40, 8, 1)] * parsed.servers_per_node
    placed = on_devices(settings, parsed, 0.5, visible)
    assert [each.devices for each in placed] == devices
    command = server_command(placed[0], socket_of(Path("/folder"), 0))
    assert command[command.index("--tensor-parallel-size") + 1] == str(len(devices[0]))
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.500"
    assert "--no-enable-chunked-prefill" not in command
    assert server_environment(placed[0], {}, Path("/folder"))["CUDA_VISIBLE_DEVICES"] == ",".join(devices[0])


def test_a_server_gets_what_the_trainer_leaves_of_a_gpu(tmp_path):
    """The share that is planned for it: there is no other calculation."""
    (tmp_path / "m").mkdir()
    total = 80 * GIB

    def share(compute, configuration=QWEN3_8B, tuning="LoRA"):
        (tmp_path / "m/config.json").write_text(json.dumps(configuration), encoding="utf-8")
        parameters = {"batchSize": 32, "maxPromptTokens": 1024, "maxCompletionTokens": 512}
        config = config_of(tmp_path, compute, hyperparameters=parameters, tuning={"type": tuning})
        shared = gpu_memory_share(config, str(tmp_path / "m"), total)
        devices = devices_of(config.compute, total)
        if "model_type" in configuration:
            plan = plan_memory(read_shape(configuration), config.hyperparameters, config.tuning, devices)
            assert plan.memory_share == shared
        return shared

    assert 0.3 < share({"gpusPerNode": 1}) < 0.92
    assert share({"gpusPerNode": 8}, tuning="Full") < share({"gpusPerNode": 8})
    assert share({"gpusPerNode": 1, "rollouts": {"memoryShare": "0.4"}}) == 0.4
    assert share({"gpusPerNode": 1, "rollouts": {"placement": "Dedicated"}}) == 0.92
    assert share({"gpusPerNode": 1, "rollouts": {"memoryShare": "0.4"}}, {}) == 0.4
    with pytest.raises(RunError, match=r"models of type None .*; state spec\.compute\.rollouts\.memoryShare") as raised:
        share({"gpusPerNode": 1}, {})
    assert raised.value.code is ExitCode.CONFIGURATION_INVALID


def test_an_aborted_request_is_lost():
    with pytest.raises(Lost):
        read_completion(answer_to(REQUEST, finish_reason="abort"), REQUEST)


def lives(process):
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def name_of(process):
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return None


HOLDER = """\
import subprocess, sys
from rft_trainer.rollout_servers.servers import server_folder
with server_folder() as folder:
    (folder / "0.processes").mkdir()
    server = subprocess.Popen(["sleep", "600"], cwd=folder / "0.processes", start_new_session=True)
    print(server.pid, folder, flush=True)
    server.wait()
"""


def test_what_a_killed_trainer_leaves_is_ended_and_removed_by_the_next(tmp_path, monkeypatch):
    """Folders and processes of trainers that still run stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def hold():
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=environment)
        pid, folder = holder.stdout.readline().split()
        return holder, psutil.Process(int(pid)), Path(folder)

    killed, orphan, left = hold()
    running, server_process, kept = hold()
    try:
        killed.kill()
        killed.wait()
        assert lives(orphan)
        with servers.server_folder():
            assert not left.exists()
            wait_until(lambda: not lives(orphan))
            assert kept.exists()
            assert lives(server_process)
    finally:
        for each in (server_process, running):
            each.kill()


def test_processes_that_a_killed_keeper_leaves_are_ended_before_the_next_start(folder, monkeypatch):
    program = "import os, subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True).wait()"
    monkeypatch.setattr(process, "server_command", lambda settings, socket: [sys.executable, "-c", program])
    started = RolloutServer(socket_of(folder, 0), ServerSettings("/m", "float32", 40, 8, 1), lambda *arguments: None)

    def sleepers():
        return [each for each in psutil.Process().children(recursive=True) if name_of(each) == "sleep"]

    try:
        wait_until(lambda: len(sleepers()) == 1)
        (sleeper,) = sleepers()
        os.kill(started._keeper.pid, signal.SIGKILL)
        wait_until(lambda: not lives(sleeper))
        wait_until(lambda: len(sleepers()) == 1)
    finally:
        started.stop()
    assert sleepers() == []


REJECTING = """\
import http.server, socketserver, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(400)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"unexpected module")

    def address_string(self):
        return "client"

socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""


@pytest.mark.parametrize("when", ["at the start", "while it runs"])
def test_a_server_that_rejects_a_version_is_not_started_again(folder, client, monkeypatch, when):
    """It would reject it again, and a start of vLLM takes minutes."""
    program = [sys.executable, "-c", REJECTING]
    monkeypatch.setattr(process, "server_command", lambda settings, socket: [*program, str(socket)])
    started = servers.RolloutServers(folder, [ServerSettings("/m", "float32", 40, 8, 1)])
    try:
        if when == "while it runs":
            client.wait_until_ready()
        started.load(Version("policy-v1", folder, is_adapter=True, is_temporary=False))
        with pytest.raises(RuntimeError, match=r"rollout server 0 answered 400 to .*: unexpected module"):
            client.generate("policy-v1", PROMPTS, SEEDS, SAMPLING)
        assert started._servers[0]._starts == 1
    finally:
        started.stop()


TOGETHER = """\
import http.server, socketserver, sys, time
from pathlib import Path

own, *others = map(Path, sys.argv[2:])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        own.touch()
        while not all(other.exists() for other in others):
            time.sleep(0.02)
        self.answer()

    def answer(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def address_string(self):
        return "client"

socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""


@contextmanager
def two_servers(folder, monkeypatch, others_of):
    """Two servers that answer a request when some files exist; each writes one when it got its request."""
    files = [str(folder / f"{number}.got") for number in range(2)]

    def command(settings, socket):
        number = int(socket.stem.partition("-")[0])
        return [sys.executable, "-c", TOGETHER, str(socket), files[number], *others_of(number, files)]

    monkeypatch.setattr(process, "server_command", command)
    client = RolloutClient([socket_of(folder, number) for number in range(2)], lambda: False)
    started = servers.RolloutServers(folder, [ServerSettings("/m", "float32", 40, 8, 1)] * 2)
    try:
        client.wait_until_ready()
        yield started
    finally:
        started.stop()
        client.close()


def test_a_version_is_loaded_into_all_servers_at_the_same_time(folder, monkeypatch):
    """Each answers only when the other one has been asked, too."""
    with two_servers(folder, monkeypatch, lambda number, files: [files[1 - number]]) as started:
        started.load(Version("policy-v1", folder, is_adapter=True, is_temporary=False))
        assert [server._starts for server in started._servers] == [1, 1]


def test_a_server_that_does_not_load_a_version_in_time_is_named_and_started_again(folder, monkeypatch, caplog):
    with two_servers(folder, monkeypatch, lambda number, files: [str(folder / "never")] * number) as started:
        monkeypatch.setattr(servers, "LOAD_SECONDS", 2.0)
        started.load(Version("policy-v1", folder, is_adapter=True, is_temporary=False))
        assert re.search(r"rollout server 1 .*\(/v1/load_lora_adapter\); starting it again", caplog.text)
        wait_until(lambda: started._servers[1]._starts > 1)


def test_a_server_that_neither_answers_nor_ends_is_given_up_with_its_log(folder, client, monkeypatch):
    """Another start would hang in the same place, so there is none."""
    program = "import time; print('loading shard 1 of 2', flush=True); time.sleep(600)"
    monkeypatch.setattr(process, "server_command", lambda settings, socket: [sys.executable, "-c", program])
    monkeypatch.setattr(process, "START_SECONDS", 0.0)
    log = socket_of(folder, 0).with_suffix(".log")
    # The deadline passes when the log has its line, however slow the machine is.
    own = RolloutServer._wait_until_healthy

    def wait(self, private):
        wait_until(lambda: log.stat().st_size > 0)
        own(self, private)

    monkeypatch.setattr(RolloutServer, "_wait_until_healthy", wait)
    started = RolloutServer(socket_of(folder, 0), ServerSettings("/m", "float32", 40, 8, 1), lambda *arguments: None)
    try:
        with pytest.raises(RuntimeError) as raised:
            client.wait_until_ready()
    finally:
        started.stop()
    first, *rest = str(raised.value).splitlines()
    assert first == ("rollout server 0 has neither answered nor ended within 0 s of its start. The end of its log:")
    assert rest == ["loading shard 1 of 2"], "the server was started more than once"
    assert started._starts == 1
