"""Reward code that misbehaves: each limit holds, the sample says why, and innocent samples are scored."""

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from support.patience import wait_until

SOURCE = (Path(__file__).parent / "hostile_reward.py").read_text()
# A sample that is scored by itself has an eighth of it at least: what answers at all has the time to.
TIMEOUT = 8
SPEC = {"timeout": f"{TIMEOUT}s", "sandbox": {"memory": "256Mi"}, "python": {"source": SOURCE}}
WARNINGS = ("system calls are not filtered", "reward code reads", "reward code can end", "reward code runs as root")


def line_of(text):
    return SOURCE[: SOURCE.index(text)].count("\n") + 1


@pytest.fixture(params=[True, False], ids=["namespaces", "no-namespaces"])
def hostile(request, server_for):
    """A server whose reward code does what the completion says; with the kernel's namespaces, and without."""
    server = server_for(SPEC, namespaces=request.param)
    server.processes = 6 if server.layer("namespaces") else 2
    server.wait_settled(server.processes)
    return server


def isolated(server):
    """Whether nothing of the server is in reach of the code; a server where something is says so in its log."""
    isolated = server.metric("rft_reward_isolated") == 1
    assert isolated != any(text in server.log() for text in WARNINGS)
    return isolated


def score_among_innocents(server, build_sample, command, innocents=5):
    """Row of the guilty sample; checks that the others of its batch got their scores."""
    samples = [build_sample(f"s{number}", "innocent") for number in range(innocents)]
    samples.insert(2, build_sample("guilty", command))
    rows = {row["id"]: row for row in server.score(samples)}
    guilty = rows.pop("guilty")
    assert {row["aggregate_reward_score"] for row in rows.values()} == {1.0}, rows
    return guilty


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("raise the-key", ["KeyError: 'the-key'", f"reward.py, line {line_of('raise KeyError')}, in do_raise"]),
        ("hang", ["more than", f"reward.py, line {line_of('time.sleep(60)')}, in do_hang", "raise spec.timeout"]),
        ("memory", ["more than 256Mi", "raise spec.sandbox.memory"]),
        ("os_exit 0", ["ended its process", "exit code 0"]),
        ("os_exit 3", ["ended its process", "exit code 3"]),
        ("sys_exit done", ["SystemExit('done')", "must return"]),
        ("kill_itself", ["was killed"]),
        ("segfault", ["SIGSEGV"]),
        ("corrupt", ["garbled"]),
        ("close_all", ["closed file descriptors"]),
        ("recurse", ["RecursionError", "in do_recurse"]),
        ("daemon_then_hang", ["more than", "raise spec.timeout"]),
    ],
)
def test_guilty_samples_say_why_and_innocent_ones_are_scored(hostile, build_sample, command, parts):
    guilty = score_among_innocents(hostile, build_sample, command)
    assert guilty["aggregate_reward_score"] is None
    assert all(part in guilty["error"] for part in parts), guilty["error"]
    hostile.wait_settled(hostile.processes)
    assert hostile.score_one("innocent")["aggregate_reward_score"] == 1.0


def test_many_samples_of_a_batch_that_hang(server_for, build_sample):
    server = server_for(SPEC)
    workers = server.metric('rft_reward_workers{state="idle"}')
    rows = server.score([build_sample(str(number), "hang") for number in range(20)])
    assert all(row["aggregate_reward_score"] is None for row in rows)
    errors = " ".join(row["error"] for row in rows)
    alone = map(float, re.findall(r"more than ([\d.]+) s \(this sample's share", errors))
    assert 0 < sum(alone) <= workers * TIMEOUT, "each worker's samples got spec.timeout together"
    assert "other samples of its batch used up the time" in errors
    assert "not scored: other samples" in rows[-1]["error"]


def test_output_is_logged_within_bounds_and_is_no_answer(hostile):
    assert hostile.score_one("print hello")["aggregate_reward_score"] == 0.25
    for text in ("printed: hello", "written to 1"):
        assert text in hostile.log()
    assert "\nforged line" not in hostile.log()
    before = len(hostile.log())
    assert hostile.score_one("print_much")["aggregate_reward_score"] == 0.25
    assert len(hostile.log()) - before < 10_000


@pytest.mark.parametrize("command", ["fork", "daemon"])
def test_processes_do_not_survive_their_batch(hostile, command):
    restarts = hostile.metric('rft_reward_worker_restarts_total{reason="leftover_processes"}')
    assert hostile.score_one(command)["aggregate_reward_score"] == 0.5
    hostile.wait_settled(hostile.processes)
    assert hostile.metric('rft_reward_worker_restarts_total{reason="leftover_processes"}') == restarts + 1


def test_a_fork_bomb_is_bounded_and_ended(server_for, build_sample):
    server = server_for(SPEC)
    isolated(server)
    count = len(server.descendants())
    assert server.score_one("count_forks")["aggregate_reward_score"] < 100
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        answer = thread.submit(score_among_innocents, server, build_sample, "fork_bomb")
        most = 0
        while not answer.done():
            most = max(most, len(server.descendants()))
            time.sleep(0.1)
    assert answer.result()["aggregate_reward_score"] is None
    assert most < 200
    server.wait_settled(count)


def test_background_threads_cannot_answer_other_batches(hostile):
    """Nor spoil them: they get another worker, in the end a fresh one."""
    workers = 2
    assert hostile.metric('rft_reward_workers{state="idle"}') == workers
    replaced = hostile.metric('rft_reward_worker_restarts_total{reason="garbled"}')
    for _ in range(workers):  # idle workers take turns
        assert hostile.score_one("thread")["aggregate_reward_score"] == 0.5
    time.sleep(0.5)  # for both to be spoilt when the next sample comes

    def are_replaced() -> bool:
        if hostile.metric('rft_reward_worker_restarts_total{reason="garbled"}') >= replaced + workers:
            return True
        assert hostile.score_one("innocent")["aggregate_reward_score"] == 1.0
        return False

    wait_until(are_replaced)


def test_no_network(hostile):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert hostile.score_one(f"connect 127.0.0.1 {port}")["aggregate_reward_score"] == 0.0


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
def test_a_socket_is_an_error_at_its_line(hostile, build_sample, family):
    guilty = score_among_innocents(hostile, build_sample, f"open_socket {family}")
    assert "PermissionError" in guilty["error"]
    assert f"reward.py, line {line_of('socket.socket(getattr')}, in do_open_socket" in guilty["error"]


def test_event_loops_work_without_sockets(hostile):
    assert hostile.score_one("event_loop")["aggregate_reward_score"] == 1.0


def test_other_processes_cannot_be_seen_or_a_warning(hostile):
    seen = hostile.score_one("count_processes")["aggregate_reward_score"]
    # Itself and the namespace's init; without namespaces, Landlock closes the list.
    assert seen == (2.0 if hostile.layer("namespaces") else 0.0) or not isolated(hostile)


def test_only_the_scratch_folder_can_be_written_or_a_warning(hostile, tmp_path):
    tmp_path.chmod(0o777)
    own_tmp = hostile.layer("namespaces")  # a /tmp of the worker's own, which nobody else sees
    for folder in ("/tmp", "/dev/shm", "/var/tmp", str(tmp_path)):
        file = Path(folder) / "written-by-reward-code"
        try:
            wrote = hostile.score_one(f"write {file}")["aggregate_reward_score"]
            assert wrote == float(own_tmp and folder == "/tmp") or not isolated(hostile)
            assert not file.exists() or not isolated(hostile)
        finally:
            file.unlink(missing_ok=True)
    assert hostile.score_one("scratch")["aggregate_reward_score"] == 1.0


def test_the_token_cannot_be_read_or_a_warning(hostile):
    assert hostile.score_one(f"read {hostile.token_file}")["aggregate_reward_score"] == 0.0 or not isolated(hostile)


@pytest.mark.parametrize("file", ["environ", "mem", "fd/0", "maps"])
def test_the_server_process_cannot_be_read(hostile, file):
    assert hostile.score_one(f"read /proc/{hostile.process.pid}/{file}")["aggregate_reward_score"] == 0.0


@pytest.mark.parametrize(
    ("command", "least", "most"),
    [
        ("environment", 0, 0),
        ("become_root", 0, 0),
        ("privileges", 0, 0),
        ("user", 1, 1 << 31),
        ("core", 0, 0),
        ("big_file", 0, 0),
        ("open_many", 50, 128),
        ("memory_within", 1, 1),
        ("stdlib", 1, 1),
        ("third_party", 0, 0),
    ],
)
def test_limits(hostile, command, least, most):
    assert least <= hostile.score_one(command)["aggregate_reward_score"] <= most


@pytest.mark.parametrize("namespaces", [True, False])
def test_processor_time_has_a_limit(server_for, namespaces):
    # On a busy machine a second of processor time takes longer than that by the clock.
    server = server_for({**SPEC, "timeout": "60s"}, namespaces=namespaces)
    assert "processor time" in server.score_one("processor")["error"]


def test_processor_time_is_granted_anew_for_each_batch(start_server):
    sandbox = {"memory": "256Mi", "processes": 1}
    server = start_server({"timeout": "30s", "sandbox": sandbox, "python": {"source": SOURCE}}).wait_ready()
    for _ in range(4):
        assert server.score_one("burn 0.5")["aggregate_reward_score"] == 1.0
    assert 30.9 < server.score_one("processor_left")["aggregate_reward_score"] <= 32  # the timeout and up to two


def test_state_persists_in_a_worker(start_server):
    server = start_server({"sandbox": {"processes": 1}, "python": {"source": SOURCE}}).wait_ready()
    assert [server.score_one("remember")["aggregate_reward_score"] for _ in range(3)] == [1.0, 2.0, 3.0]


def test_an_idle_worker_that_dies_is_replaced(start_server):
    server = start_server({"sandbox": {"processes": 1}, "python": {"source": SOURCE}}).wait_ready()
    first = set(server.descendants())
    for process in first:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not first & set(server.descendants()))  # a process that is killed ends a moment later
    server.wait_settled(len(first))
    assert server.score_one("innocent")["aggregate_reward_score"] == 1.0


def test_workers_end_with_a_server_that_is_killed(start_server):
    server = start_server({"python": {"source": SOURCE}}).wait_ready()
    workers = server.descendants()
    assert workers
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{process}/exe").exists() for process in workers))
