"""TCP ports: free ones for programs that are started on this machine, and those that servers listen on."""

from __future__ import annotations

import errno
import random
import socket
import sys
from collections import deque

from rft_api.foreign import server_limits


class ListenError(Exception):
    """A server cannot listen on an address; the message names it."""


_RANGE = (20000, 29999)
"""Ports below those of Kubernetes' NodePorts (from 30000) and below those that Linux assigns to outgoing connections
(from 32768, /proc/sys/net/ipv4/ip_local_port_range), which might be taken before the program listens on them."""
_MOST_RESERVATIONS = 64
"""Reservations that a process has at a time: each is an open file. Programs listen on older ports, or have ended."""
_ports: set[int] = set()
"""The ports that this process has got."""
_reservations: deque[socket.socket] = deque()
"""What keeps the newest of them from other processes."""
_random = random.SystemRandom()
"""A generator of its own: programs that set the same seed would otherwise choose the same ports."""


def free_port() -> int:
    """Return a port that nothing listens on, on any address; this process gets each port once.

    A program may take half a minute until it listens, in which others look for a port, too. So on Linux, no other
    process gets the port while this one runs, unless this one gets many others after it.
    """
    while True:
        port = _random.randint(*_RANGE)
        if port in _ports:
            continue
        with socket.socket() as probe:
            # As servers do: connections that have just ended do not keep a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
                _reserve(port)
            except OSError:
                continue
        _ports.add(port)
        return port


def _reserve(port: int) -> None:
    """Take a name for a port that only one process can have. The kernel frees it however the process ends.

    Raises:
        OSError: when another process has it.
    """
    if sys.platform != "linux":  # Elsewhere there are no sockets with a name but without a file.
        return
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0rft-port-{port}")
    except OSError:
        reservation.close()
        raise
    _reservations.append(reservation)
    if len(_reservations) > _MOST_RESERVATIONS:
        _reservations.popleft().close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 is a free one.

    Raises:
        ListenError: when that is not possible.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=socket.AddressFamily(family), backlog=server_limits.BACKLOG)
    except socket.gaierror as error:
        raise ListenError(f"--host {host}: the name cannot be resolved: {error.strerror}") from None
    except (OSError, OverflowError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            text = f"--host {host}, port {port}: the port is in use; choose another --port, or 0 for a free one"
            raise ListenError(text) from None
        raise ListenError(f"--host {host}, port {port}: cannot listen there: {error}") from None


def listener_url(listener: socket.socket) -> str:
    """Return the URL of what listens on a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
