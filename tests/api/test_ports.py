"""Ports for programs: each once, whatever a program does with Python's random numbers."""

import random

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
