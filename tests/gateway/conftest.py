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


@pytest.fixture(params=["folder and sqlite", "s3 and postgresql"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Stored:
    """Where files are kept, in both kinds of stores and databases."""
    if request.param == "folder and sqlite":
        folder = tmp_path / "files"
        return Stored(
            ("--files", str(folder)), {}, folder, folder / ".incoming", str(folder), f"sqlite:///{tmp_path}/ledger.db"
        )
    s3, address = request.getfixturevalue("s3"), request.getfixturevalue("postgres")
    bucket = s3.make_bucket(f"files-{uuid.uuid4().hex[:12]}")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name, value in s3.environment().items():
        (credentials / name).write_text(f"{value}\n", encoding="utf-8")
    uri, staging = f"s3://{bucket.name}/kept", tmp_path / "staging"
    arguments = ("--files", uri, "--files-credentials", str(credentials), "--files-staging", str(staging))
    database = address.replace("postgresql://", "postgresql+psycopg://")
    return Stored(arguments, {"RFT_GATEWAY_LEDGER": address}, bucket / "kept", staging, uri, database)


@pytest.fixture
def file_gateway(tmp_path: Path, stored: Stored) -> Iterator[Gateway]:
    """A gateway that keeps files."""
    limits = ("--file-bytes", str(64 << 20), "--files-namespace-bytes", str(256 << 20))
    with Gateway(tmp_path, [], *stored.arguments, *limits, environment=stored.environment) as gateway:
        yield gateway


@pytest.fixture
def client(file_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own client at a gateway that keeps files; files of tests may have another one."""
    with openai_client(file_gateway) as client:
        yield client
