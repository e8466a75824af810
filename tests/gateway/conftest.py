"""What tests of the gateway share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from support.gateway import Gateway, route
from support.gateway_files import Stored, openai_client
from support.vllm_bytes import Behaviour, Counters, VllmBytes


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger, in each of the databases."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    return request.getfixturevalue("postgres")


@pytest.fixture(scope="module")
def shared_server() -> Iterator[VllmBytes]:
    with VllmBytes("m", "base") as server:
        yield server


@pytest.fixture
def server(shared_server: VllmBytes) -> Iterator[VllmBytes]:
    """A stand-in for vLLM that serves the models `m` and `base`, with nothing counted yet."""
    shared_server.behaviour = Behaviour()
    shared_server.counters = Counters()
    shared_server.bodies, shared_server.headers = [], []
    yield shared_server
    shared_server.behaviour.resume.set()


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory, shared_server: VllmBytes) -> Iterator[Gateway]:
    routes = [route("m", shared_server.url, base="base"), route("base", shared_server.url)]
    with Gateway(tmp_path_factory.mktemp("gateway"), routes) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Gateway, server: VllmBytes) -> Gateway:
    """A gateway before the stand-in, with what earlier tests of the file have left in its ledger."""
    return shared_gateway


@pytest.fixture(scope="module", params=["folder and sqlite", "s3 and postgresql"])
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Where files are kept, in both kinds of stores and databases."""
    path = tmp_path_factory.mktemp("store")
    if request.param == "folder and sqlite":
        folder, ledger = path / "files", path / "ledger.db"
        environment = {"RFT_GATEWAY_LEDGER": str(ledger)}
        return Stored(
            ("--files", str(folder)), environment, folder, folder / ".incoming", str(folder), f"sqlite:///{ledger}"
        )
    s3 = request.getfixturevalue("s3")
    address = request.getfixturevalue("postgres_server").create_database()
    bucket = s3.make_bucket(f"files-{uuid.uuid4().hex[:12]}")
    credentials = path / "credentials"
    credentials.mkdir()
    for name, value in s3.environment().items():
        (credentials / name).write_text(f"{value}\n", encoding="utf-8")
    uri, staging = f"s3://{bucket.name}/kept", path / "staging"
    arguments = ("--files", uri, "--files-credentials", str(credentials), "--files-staging", str(staging))
    database = address.replace("postgresql://", "postgresql+psycopg://")
    return Stored(arguments, {"RFT_GATEWAY_LEDGER": address}, bucket / "kept", staging, uri, database)


@pytest.fixture(scope="module")
def shared_file_gateway(tmp_path_factory: pytest.TempPathFactory, shared_store: Stored) -> Iterator[Gateway]:
    limits = ("--file-bytes", str(16 << 20), "--files-namespace-bytes", str(64 << 20))
    folder = tmp_path_factory.mktemp("gateway")
    with Gateway(folder, [], *shared_store.arguments, *limits, environment=shared_store.environment) as gateway:
        yield gateway


@pytest.fixture
def stored(shared_store: Stored, shared_file_gateway: Gateway) -> Stored:
    """Where the gateway keeps files, with nothing in it yet."""
    shared_store.clear()
    return shared_store


@pytest.fixture
def file_gateway(shared_file_gateway: Gateway, stored: Stored) -> Gateway:
    """A gateway that keeps files, and has none yet: at most 16 MiB each, and 64 MiB of a namespace."""
    return shared_file_gateway


@pytest.fixture
def client(file_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own client at a gateway that keeps files; tests of models have another one."""
    with openai_client(file_gateway) as client:
        yield client
