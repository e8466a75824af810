"""Ports for programs: each once, whatever a program does with Python's random numbers."""

import random
import socket

import pytest

from rft_api import ports


def test_equal_seeds_do_not_give_equal_ports(monkeypatch):
    """As tests in two processes have them after a trainer was made in each."""
    found = []
    for _ in range(2):
        monkeypatch.setattr(ports, "_returned_ports", set())
        random.seed(42)
        found.append([ports.free_port() for _ in range(4)])
    assert found[0] != found[1]
    assert len(set(found[0])) == 4
    assert all(20000 <= port < 30000 for port in found[0])


def test_a_port_that_is_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ports.ListenError, match=f"port {port}: the port is in use; choose another --port, or 0"):
            ports.listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 64}.invalid"])
def test_a_host_without_an_address_is_named(host):
    with pytest.raises(ports.ListenError, match=f"^--host {host}"):
        ports.listen(host, 0)
