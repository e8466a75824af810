"""Ports for programs: each once, whatever a program does with Python's random numbers."""

import random
import socket
import subprocess
import sys
from collections import deque
from contextlib import ExitStack

import pytest

from rft_api import ports


def test_equal_seeds_do_not_give_equal_ports(monkeypatch):
    """As tests in two processes have them after a trainer was made in each."""
    found = []
    for _ in range(2):
        monkeypatch.setattr(ports, "_ports", set())
        monkeypatch.setattr(ports, "_reservations", reservations := deque())
        random.seed(42)
        found.append([ports.free_port() for _ in range(4)])
        for reservation in reservations:
            reservation.close()
    assert found[0] != found[1]
    assert len(set(found[0])) == 4
    assert all(20000 <= port < 30000 for port in found[0])


OTHER = """
import sys
from rft_api import ports
ports._RANGE = (29950, 29999)
print(*(ports.free_port() for _ in range(10)), flush=True)
sys.stdin.read()
"""


def test_programs_that_run_at_the_same_time_get_different_ports():
    """Nobody listens yet: before, one of two programs that had got the same port ended."""
    with ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(3)
        ]
        found = [port for other in others for port in other.stdout.readline().split()]
        for other in others:
            other.communicate()
    assert len(found) == len(set(found)) == 30


def test_a_process_that_gets_many_ports_keeps_few_files_open(monkeypatch):
    monkeypatch.setattr(ports, "_ports", set())
    monkeypatch.setattr(ports, "_reservations", reservations := deque())
    found = {ports.free_port() for _ in range(100)}
    assert len(found) == 100
    assert len(reservations) == 64
    for reservation in reservations:
        reservation.close()


def test_a_port_that_is_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ports.ListenError, match=f"port {port}: the port is in use; choose another --port, or 0"):
            ports.listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 64}.invalid"])
def test_a_host_without_an_address_is_named(host):
    with pytest.raises(ports.ListenError, match=f"^--host {host}"):
        ports.listen(host, 0)
