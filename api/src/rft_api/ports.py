"""TCP ports for programs that are started on this machine."""

from __future__ import annotations

import random
import socket

_RANGE = (20000, 29999)
"""Below the ports of Kubernetes' nodes (from 30000), and below those that Linux gives to outgoing connections (from
32768, /proc/sys/net/ipv4/ip_local_port_range): one of these might be taken before the program listens on it."""
_given: set[int] = set()
_random = random.SystemRandom()
"""Seeds that programs set for their own reasons would give them all the same ports."""


def free_port() -> int:
    """A port that nothing listens on, on any address; never the same again in this process."""
    while True:
        port = _random.randint(*_RANGE)
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do: connections that have just ended do not keep a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _given.add(port)
        return port
