"""What a foreign bucket lists and sends stays in the folder, and within the sizes that it listed."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote
from xml.sax.saxutils import escape

import pytest

from rft_api import storage
from rft_api.foreign.names import check_relative_name
from rft_api.hub import HubDataset, HubModel, fetch_dataset
from rft_api.hub_address import DatasetAddress, parse_hub_address
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_loader.problems import Problem
from rft_loader.room import Room
from rft_loader.sources import Sources
from rft_loader.versions import prepare_version

MEBIBYTE = 1 << 20
WEIGHTS, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"


@dataclass
class Foreign:
    """An object of a bucket that lies."""

    body: bytes = b"x"
    listed: int | None = None
    """The size in the list; that of the body when absent."""
    said: int | None = None
    """The size in answers to HEAD and GET; that of the body when absent."""
    repeat: int = 1
    """How often the body is sent; without a said size, until the connection ends."""


@dataclass
class Bucket:
    """A server of one bucket."""

    objects: dict[str, Foreign] = field(default_factory=dict)
    sent: int = 0


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    bucket = Bucket()
    with _serving(bucket) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield bucket


@contextmanager
def _serving(bucket: Bucket) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            if "list-type=2" in self.path:
                entries = "".join(
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(o.body) if o.listed is None else o.listed}</Size>"
                    f"<ETag>x</ETag></Contents>"
                    for key, o in bucket.objects.items()
                )
                text = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
                self._send(text.encode("utf-8", "surrogatepass"))
            else:
                self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            item = bucket.objects[unquote(self.path.split("?")[0]).removeprefix("/b/")]
            self.send_response(200)
            self.send_header("ETag", '"x"')
            if item.repeat == 1 or not with_body:
                self.send_header("Content-Length", str(len(item.body) if item.said is None else item.said))
            self.end_headers()
            if with_body:
                for _ in range(item.repeat):
                    self.wfile.write(item.body)
                    bucket.sent += len(item.body)

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = [
    "../x", "a/../../x", "a/..", "..", "a/./b", "./x", "/etc/x", "//x", "a//b",
    "x" * 241, "ü" * 121, "a/" * 511 + "bcd",
    "forged\n2026-01-01 ERROR x", "a\rb", "bell\x07", "\x1b[2J", "del\x7f", "csi\x9b2J",
    "line\u2028x", "paragraph\u2029x", "txt.\u202egnp.exe", "\u2066x\u2069", "\u200fx",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused_everywhere(tmp_path, bucket, monkeypatch, name):
    with pytest.raises(ValueError, match="is not the name of a file below a folder"):
        check_relative_name(name)
    # XML cannot carry control characters, but a server's list may be anything; what matters is what comes out of it.
    page = [{"Contents": [{"Key": f"models/{name}", "Size": 1, "ETag": "x"}]}]
    store = ObjectStore()
    monkeypatch.setattr(store._client, "get_paginator", lambda operation: _Pages(page))
    with pytest.raises(StorageError, match="is not the name of a file below a folder") as raised:
        store.fetch("s3://b/models", tmp_path / "deep" / "target")
    assert raised.value.permanent
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    assert files(tmp_path) == {}


@pytest.mark.parametrize("keys", [0, 1, 1000])
def test_a_list_without_an_end_is_left(monkeypatch, bucket, keys):
    monkeypatch.setattr(storage, "MAXIMUM_OBJECTS", 5000)
    store, pages = ObjectStore(), []

    def endless():
        while True:
            pages.append(len(pages))
            yield {"Contents": [{"Key": f"m/{len(pages)}-{key}", "Size": 0, "ETag": "x"} for key in range(keys)]}

    monkeypatch.setattr(store._client, "get_paginator", lambda operation: _Pages(endless()))
    with pytest.raises(StorageError, match="more than 5,000 objects below it; name a folder") as raised:
        store.objects("s3://b/m")
    assert raised.value.permanent
    assert len(pages) <= 5001


class _Pages:
    def __init__(self, pages):
        self._pages = pages

    def paginate(self, **arguments):
        return self._pages


@pytest.mark.parametrize(
    "name", ["a\\b", "..a", "a..", "...", "a b", "ü/中.json", "x" * 240, "a\u3000b", "C:\\x", "~x"]
)
def test_names_that_are_taken(tmp_path, bucket, name):
    bucket.objects[f"models/{name}"] = Foreign(b"content")
    assert ObjectStore().fetch("s3://b/models", tmp_path / "target")
    assert files(tmp_path / "target") == {name: b"content"}


def test_an_object_that_is_a_folder_too(tmp_path, bucket):
    bucket.objects |= {"m/a": Foreign(), "m/a/b": Foreign()}
    with pytest.raises(StorageError, match="'a' below it is an object and a folder, too; rename it"):
        ObjectStore().fetch("s3://b/m", tmp_path / "target")
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "item",
    [
        Foreign(b"x" * 100, listed=10),
        Foreign(b"x" * 10, listed=100),
        Foreign(b"x" * 10, listed=0),
        Foreign(b"", listed=10),
        # More than its Content-Length says is another answer, which nobody asked for.
        Foreign(b"x" * 100, listed=100, said=10),
        # Without a length in the answer to GET, the body ends with the connection.
        Foreign(b"x" * 10, listed=10, repeat=3),
    ],
)
def test_an_object_of_another_size_than_it_was_listed_with(tmp_path, bucket, item):
    bucket.objects["m/a"] = item
    with pytest.raises(StorageError, match="s3://b/m/a changed while it was copied") as raised:
        ObjectStore().fetch("s3://b/m", tmp_path / "target")
    assert not raised.value.permanent
    assert files(tmp_path) == {}, "nothing stays, not even a part"


def test_an_endless_object_costs_what_was_listed(tmp_path, bucket):
    """A GiB is sent for an object of 1 MiB."""
    bucket.objects["m/a"] = Foreign(bytes(MEBIBYTE), listed=MEBIBYTE, said=MEBIBYTE, repeat=1024)
    store = ObjectStore()
    tracemalloc.start()
    try:
        with pytest.raises(StorageError, match="changed while it was copied"):
            store.fetch("s3://b/m", tmp_path / "target")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * MEBIBYTE
    assert bucket.sent < 64 * MEBIBYTE
    assert files(tmp_path) == {}


@pytest.mark.parametrize("name", NAMES)
def test_names_on_the_hub_that_are_refused(tmp_path, monkeypatch, name):
    siblings = [SimpleNamespace(rfilename=item, size=1, blob_id="x") for item in ("config.json", name)]
    answer = SimpleNamespace(siblings=siblings, sha="0" * 40)
    monkeypatch.setattr(HubModel, "_info", lambda model: answer)
    monkeypatch.setattr(HubDataset, "_info", lambda model: answer)
    address = parse_hub_address("hf://owner/name")
    assert address is not None
    with pytest.raises(StorageError, match="is not the name of a file below a folder") as raised:
        HubModel(address).files()
    assert str(raised.value).isprintable()
    with pytest.raises(StorageError, match="is not the name of a file below a folder"):
        fetch_dataset(DatasetAddress(address, ""), tmp_path / "deep" / "target", None)
    assert files(tmp_path) == {}


def test_what_a_store_says_is_one_line():
    error = StorageError("cannot list s3://b: x\n2026-01-01 ERROR forged\x1b[2J\u202e" + "y" * 5_000_000)
    assert str(error).isprintable()
    assert len(str(error)) < 2100


def prepare(home):
    return prepare_version("s3://b/a", Sources().open("s3://b/a"), home, Room(home), lambda folder: None)


@pytest.mark.parametrize("name", ["../../x", "/x", "a//b"])
def test_the_loader_writes_nothing_outside(tmp_path, bucket, name):
    bucket.objects |= {
        f"a/{CONFIGURATION}": Foreign(b"{}"),
        f"a/{WEIGHTS}": Foreign(b"{}"),
        f"a/{name}": Foreign(b"pwned"),
    }
    with pytest.raises(Problem, match="is not the name of a file below a folder"):
        prepare(tmp_path / "deep" / "home")
    assert files(tmp_path) == {}


def test_the_loader_takes_an_adapter_of_its_listed_size_only(tmp_path, bucket):
    bucket.objects |= {f"a/{CONFIGURATION}": Foreign(b"{}"), f"a/{WEIGHTS}": Foreign(bytes(100), listed=10)}
    home = tmp_path / "home"
    with pytest.raises(Problem, match="changed while it was copied") as raised:
        prepare(home)
    assert not raised.value.permanent
    bucket.objects[f"a/{WEIGHTS}"].listed = 100
    version, _ = prepare(home)
    assert files(version) == {CONFIGURATION: b"{}", WEIGHTS: bytes(100)}
