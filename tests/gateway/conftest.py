"""What tests of the gateway share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import Gateway, route
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
