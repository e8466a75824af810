"""The certificate of the port for clients, which is read again when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from aiohttp import web

from rft_api.foreign import server_limits
from rft_api.foreign.files import read_file

PAUSE_SECONDS = 5.0
"""Time between two looks at the files."""
_LARGEST_FILE = 1 << 20
_logger = logging.getLogger(__name__)


class TlsSite(web.SockSite):
    """A port for clients that connect with TLS. aiohttp knows of a connection only when its handshake has ended."""

    async def start(self) -> None:
        """Listen; who has not ended its handshake in the time for a head is closed."""
        await super(web.SockSite, self).start()
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=server_limits.HEAD_SECONDS,
        )


class CertificateError(Exception):
    """The files are no certificate with its key; the message names them."""


class Certificate:
    """A certificate with its key.

    Args:
        certificate: file with the chain, in PEM.
        key: file with the key, in PEM.

    Raises:
        CertificateError: when they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path):
        self._files = certificate, key
        self._problem = ""
        self._content, self._current = self._load()
        self.context = self._load()[1]
        """For the port. Each connection gets the certificate that is the present one when it begins."""
        self.context.sni_callback = self._choose

    def refresh(self) -> None:
        """Read the files, if they have changed. While they are wrong, the last certificate stays; the log says so."""
        try:
            if self._read() != self._content:
                self._content, self._current = self._load()
                _logger.info("the certificate has been read again")
            self._problem = ""
        except CertificateError as error:
            if str(error) != self._problem:
                _logger.warning("%s; going on with the certificate as it was", error)
            self._problem = str(error)

    async def follow(self) -> None:
        """Refresh until the task is cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            self.refresh()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _load(self) -> tuple[list[bytes], ssl.SSLContext]:
        content = self._read()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(*self._files, password=_refuse_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            certificate, key = self._files
            reason = getattr(error, "reason", None) or error
            raise CertificateError(f"--tls-certificate {certificate}, --tls-key {key}: {reason}") from None
        return content, context

    def _read(self) -> list[bytes]:
        try:
            return [read_file(file, _LARGEST_FILE) for file in self._files]
        except (OSError, ValueError) as error:
            raise CertificateError(f"--tls-certificate, --tls-key: {error}") from None


def _refuse_password() -> str:
    """Refuse a key that is encrypted; without this function, the password would be read from the terminal."""
    raise ValueError("the key is encrypted; store it without a password")
