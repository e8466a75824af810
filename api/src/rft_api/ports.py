"""TCP ports for programs that are started on this machine."""

from __future__ import annotations

import random
import socket

_RANGE = (20000, 29999)
"""Ports below those of Kubernetes' NodePorts (from 30000) and below those that Linux assigns to outgoing connections
(from 32768, /proc/sys/net/ipv4/ip_local_port_range), which might be taken before the program listens on them."""
_returned_ports: set[int] = set()
_random = random.SystemRandom()
"""A generator of its own: programs that set the same seed would otherwise choose the same ports."""


def free_port() -> int:
    """A port that nothing listens on, on any address; this process gets each port once."""
    while True:
        port = _random.randint(*_RANGE)
        if port in _returned_ports:
            continue
        with socket.socket() as probe:
            # As servers do: connections that have just ended do not keep a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _returned_ports.add(port)
        return port
