"""A TCP proxy that loses connections."""

from __future__ import annotations

import asyncio
import threading

from rft_api.ports import free_port


class Proxy(threading.Thread):
    """Passes connections on to a port of this machine, for as long as the context."""

    def __init__(self, target: int):
        super().__init__(daemon=True)
        self.port = free_port()
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.cuts = 0

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())

    def __enter__(self) -> Proxy:
        self.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join()

    def cut(self) -> None:
        """Closes all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self, seconds: float) -> None:
        """Passes nothing on for a while; returns at once."""
        self._loop.call_soon_threadsafe(self._flowing.clear)
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._flowing.set)

    def _cut(self) -> None:
        self.cuts += len(self._connections)
        for connection in self._connections:
            connection.cancel()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self._listening.set()
        await self._ended.wait()
        server.close()
        connections = list(self._connections)
        self._cut()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        writers = [writer]
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(there_writer)
            pumps = [
                asyncio.ensure_future(self._pump(*ends)) for ends in ((reader, there_writer), (there_reader, writer))
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
