"""A tiny base model and adapters for it, made once."""

import shutil
import uuid

import pytest
from support.loader import PretendedServer, write_adapter
from support.tiny import write_model

from rft_api.storage import ObjectStore


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes."""
    return write_model(tmp_path_factory.mktemp("model") / "base", hidden=128, tied=False)


@pytest.fixture(scope="session")
def originals(tmp_path_factory, base):
    """Adapters `one` and `two` of the same shape, and `wide` with rank 16."""
    folder = tmp_path_factory.mktemp("adapters")
    modules = ("q_proj", "v_proj", "down_proj")
    write_adapter(folder / "one", base, seed=1, modules=modules)
    write_adapter(folder / "two", base, seed=2, modules=modules)
    write_adapter(folder / "wide", base, rank=16)
    return folder


@pytest.fixture
def adapters(tmp_path, originals):
    """Copies of them that a test may break."""
    return shutil.copytree(originals, tmp_path / "given")


class Bucket:
    """A bucket of the real server; what is put into it has ETags, as from any client."""

    def __init__(self, s3, monkeypatch):
        self.environment = s3.environment()
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        self.folder = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
        self.uri = f"s3://{self.folder.name}"
        self._store = ObjectStore()

    def put(self, folder, key):
        """Stores a folder's files; returns their address."""
        for path in folder.iterdir():
            self._store.upload(path, f"{self.uri}/{key}/{path.name}")
        return f"{self.uri}/{key}"


@pytest.fixture
def bucket(s3, monkeypatch):
    return Bucket(s3, monkeypatch)


@pytest.fixture
def server():
    server = PretendedServer()
    yield server
    server.stop()
