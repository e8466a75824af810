"""A gateway that is killed while files come: nothing is half there, and what is left over is removed."""

from __future__ import annotations

import threading
import time

import openai
from support.gateway import Gateway
from support.gateway_files import data, openai_client, sha256
from support.patience import wait_until

KILLS = 5
CLIENTS = 3


def test_a_kill_in_the_middle_of_a_file_leaves_nothing(file_gateway, stored):
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {file_gateway.token}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {10 << 20}\r\n\r\n"
        '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with file_gateway.connect() as connection:
        connection.sendall(head.encode() + data(4000, 1000))
        wait_until(lambda: any(path.stat().st_size for path in stored.incoming()))
        file_gateway.kill()
    assert len(stored.incoming()) == 1
    file_gateway.start()
    stored.wait_until_only_files_are_left()
    assert stored.contents() == {}
    with openai_client(file_gateway) as client:
        assert list(client.files.list()) == []


def test_what_is_on_its_way_stays_where_a_gateway_lives(file_gateway, stored, tmp_path):
    """Another gateway that starts beside it takes nothing for abandoned."""
    body = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n' + (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + data() + b"\r\n--b--\r\n"
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {file_gateway.token}\r\nconnection: close\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with file_gateway.connect() as connection:
        connection.sendall(head.encode() + body[:-40])
        wait_until(stored.incoming)
        with Gateway(tmp_path / "other", [], *stored.arguments, environment=stored.environment) as other:
            with openai_client(other) as client:  # has what is left over removed
                file = client.files.create(file=("a", data()), purpose="fine-tune")
                client.files.delete(file.id)
            wait_until(lambda: not stored.rows("gateway_file_leftovers") and len(stored.incoming()) == 1)
        connection.sendall(body[-40:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert len(stored.rows("gateway_files")) == 1


class Senders:
    """Clients that create files, some in parts, again and again."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.kept: dict[str, bytes] = {}
        self.stop = threading.Event()

    def send(self, number: int) -> None:
        """Creates files until it is told to stop."""
        count = 0
        while not self.stop.is_set():
            count += 1
            content = data(100 * number + count, 2000)
            try:
                with openai_client(self.gateway) as client:
                    file = self.create(client, content, in_parts=count % 2 == 0)
                    self.kept[file] = content
            except (openai.APIConnectionError, openai.InternalServerError):
                time.sleep(0.02)  # it has been killed

    def create(self, client: openai.OpenAI, content: bytes, in_parts: bool) -> str:
        if not in_parts:
            return client.files.create(file=("a.jsonl", content), purpose="fine-tune").id
        upload = client.uploads.create(bytes=len(content), filename="a", mime_type="a", purpose="fine-tune")
        half = len(content) // 2
        parts = [client.uploads.parts.create(upload.id, data=part).id for part in (content[:half], content[half:])]
        return client.uploads.complete(upload.id, part_ids=parts).file.id


def test_every_file_that_was_answered_is_there_and_nothing_else(file_gateway, stored):
    senders = Senders(file_gateway)
    threads = [threading.Thread(target=senders.send, args=(number,)) for number in range(1, CLIENTS + 1)]
    for thread in threads:
        thread.start()
    try:
        for kill in range(KILLS):
            due = len(senders.kept) + 3 + kill
            wait_until(lambda due=due: len(senders.kept) >= due, lambda: file_gateway.log, pause=0.001)
            file_gateway.kill()
            file_gateway.start()
    finally:
        senders.stop.set()
        for thread in threads:
            thread.join()
    # what was being stored counts as left over after an hour, and an upload expires after as long
    stored.execute("UPDATE gateway_file_leftovers SET due = 0")
    stored.execute("UPDATE gateway_uploads SET expires = 1")
    file_gateway.kill()
    file_gateway.start()
    stored.wait_until_only_files_are_left()
    contents = stored.contents()
    assert senders.kept.keys() <= {entry["id"] for entry in stored.rows("gateway_files")}
    for entry in stored.rows("gateway_files"):
        content = contents[f"team/{entry['id']}.jsonl"]
        assert (entry["bytes"], entry["sha256"]) == (len(content), sha256(content))
        assert senders.kept.get(entry["id"], content) == content
