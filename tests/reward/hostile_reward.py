"""Reward code that does what the completion says, if that is one of the functions below; everything else scores 1."""

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

remembered = []


def lambda_handler(event, context):
    rows = []
    for sample in event:
        command, _, argument = sample["messages"][-1]["content"].partition(" ")
        action = globals().get(f"do_{command}")
        score = 1.0 if action is None else action(argument)
        rows.append({"id": sample["id"], "aggregate_reward_score": score, "metrics_list": []})
    return rows


def do_raise(argument):
    raise KeyError(argument)


def do_hang(argument):
    time.sleep(60)


def do_hang_for_good(argument):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def do_print(argument):
    print("printed:", argument)
    print("on stderr\nforged line", file=sys.stderr)
    os.write(1, b"written to 1\n")
    return 0.25


def do_print_much(argument):
    for _ in range(3000):
        print("x" * 1000)
    return 0.25


def do_fork(argument):
    for _ in range(10):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    return 0.5


def do_fork_bomb(argument):
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def do_count_forks(argument):
    children = []
    try:
        while len(children) < 1000:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)


def do_daemon(argument):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            time.sleep(60)
        os._exit(0)
    os.wait()
    return 0.5


def do_daemon_then_hang(argument):
    do_daemon(argument)
    do_hang_for_good(argument)


def do_memory(argument):
    return len(bytearray(2 << 30))


def do_memory_within(argument):
    return float(len(bytearray(128 << 20)) > 0)


def do_connect(argument):
    host, port = argument.split()
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return 0.0
    return 1.0


def do_open_socket(argument):
    socket.socket(getattr(socket, argument)).close()
    return 1.0


def do_event_loop(argument):
    import asyncio

    return asyncio.run(asyncio.sleep(0, result=1.0))


def do_count_processes(argument):
    return len(list(Path("/proc").glob("[0-9]*")))


def do_write(argument):
    try:
        Path(argument).write_text("x")
    except OSError:
        return 0.0
    return 1.0


def do_scratch(argument):
    Path("file").write_text("x")
    return float(Path("file").read_text() == "x")


def do_big_file(argument):
    try:
        with Path("big").open("wb") as file:
            file.write(b"x" * (64 << 20))
    except OSError:
        return 0.0
    finally:
        Path("big").unlink()
    return 1.0


def do_open_many(argument):
    files = []
    try:
        while len(files) < 5000:
            files.append(open("/dev/null"))  # noqa: PTH123, SIM115
    except OSError:
        pass
    return len(files)


def do_read(argument):
    try:
        return float(len(Path(argument).read_bytes()) > 0)
    except OSError:
        return 0.0


def do_environment(argument):
    return float("SECRET_OF_THE_SERVER" in os.environ)


def do_user(argument):
    return os.getuid()


def do_become_root(argument):
    try:
        os.setuid(0)
    except OSError:
        return 0.0
    return float(os.getuid() == 0)


def do_privileges(argument):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["CapEff"], 16) + int(status["CapPrm"], 16) + (status["NoNewPrivs"].strip() != "1")


def do_core(argument):
    return resource.getrlimit(resource.RLIMIT_CORE)[1]


def do_processor_left(argument):
    used = resource.getrusage(resource.RUSAGE_SELF)
    return resource.getrlimit(resource.RLIMIT_CPU)[0] - used.ru_utime - used.ru_stime


def do_processor(argument):
    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    while True:
        pass


def do_burn(argument):
    deadline = time.process_time() + float(argument)
    while time.process_time() < deadline:
        pass
    return 1.0


def do_os_exit(argument):
    os._exit(int(argument))


def do_sys_exit(argument):
    sys.exit(argument)


def do_kill_itself(argument):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def do_segfault(argument):
    ctypes.string_at(0)


def do_corrupt(argument):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\0\0\0\x10" + b"n" * 16 + b'{"answers": []}   ')
        except OSError:
            continue


def do_close_all(argument):
    os.closerange(0, 64)
    return 1.0


def do_recurse(argument):
    return do_recurse(argument) + 1


def do_thread(argument):
    def answer_later_batches():
        while True:
            time.sleep(0.05)
            do_corrupt("")

    threading.Thread(target=answer_later_batches, daemon=True).start()
    return 0.5


def do_remember(argument):
    remembered.append(argument)
    return len(remembered)


def do_stdlib(argument):
    import decimal
    import encodings.idna
    import sqlite3
    import xml.dom.minidom

    return float(all((decimal, encodings.idna, sqlite3, xml.dom.minidom)))


def do_third_party(argument):
    try:
        import orjson  # noqa: F401
        import pydantic  # noqa: F401
    except ImportError:
        return 0.0
    return 1.0
