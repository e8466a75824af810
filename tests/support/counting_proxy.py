"""A TCP proxy before a server: it counts what clients send, and stops passing it on at a byte that a test chooses."""

from __future__ import annotations

import contextlib
import socket
import threading

_BLOCK = 1 << 16


class CountingProxy:
    """Passes connections on to a port of this machine.

    Attributes:
        port: where it listens.
        sent: bytes that clients have sent.
        limit: number of bytes at which it holds what clients send; None passes everything on.
    """

    def __init__(self, port: int):
        self._target = port
        self.sent = 0
        self.limit: int | None = None
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def is_holding(self) -> bool:
        """Whether it has reached its limit."""
        return self.limit is not None and self.sent >= self.limit

    def close(self) -> None:
        """Listen no more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK):
                if counted:
                    with self._lock:
                        self.sent += len(data)
                    if self.is_holding:
                        break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
