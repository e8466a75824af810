"""The real openai package keeps files at the gateway: in a folder and on a real S3 server, in SQLite and PostgreSQL."""

from __future__ import annotations

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from support.gateway import Gateway
from support.gateway_files import data, jsonl, openai_client, row, sha256
from support.patience import PATIENCE_SECONDS, wait_until

from rft_api.gateway_key import Limits

ANSWER = {"role": "assistant", "content": "2"}
QUESTION = {"role": "user", "content": "1+1"}


def create(client: openai.OpenAI, content: bytes, name: str = "train.jsonl", **more: object) -> openai.types.FileObject:
    return client.files.create(file=(name, content), purpose="fine-tune", **more)


def test_a_file_from_its_making_to_its_end(client, stored):
    content, before = data(1000, 100), int(time.time())
    file = create(client, content)
    assert (file.object, file.filename, file.purpose, file.status) == ("file", "train.jsonl", "fine-tune", "processed")
    assert (file.bytes, file.expires_at, file.sha256) == (len(content), None, sha256(content))
    assert before <= file.created_at <= time.time()
    assert client.files.retrieve(file.id) == file
    assert [each.id for each in client.files.list()] == [file.id]
    answer = client.files.content(file.id)
    assert (answer.read(), answer.response.headers["content-length"]) == (content, str(len(content)))
    (entry,) = stored.rows("gateway_files")
    assert (entry["namespace"], entry["key"], entry["uri"]) == ("team", "key", f"{stored.uri}/team/{file.id}.jsonl")
    assert stored.contents() == {f"team/{file.id}.jsonl": content}
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(file.id)
    assert list(client.files.list()) == []
    stored.wait_until_only_files_are_left()
    assert stored.contents() == {}


def test_rows_may_be_for_reinforcement_or_for_imitation(client):
    rows = [row(1), {"messages": [QUESTION, ANSWER]}, {"messages": [{"role": "system", "content": "s"}, QUESTION]}]
    assert create(client, jsonl(rows)).status == "processed"
    assert create(client, b"\xef\xbb\xbf" + jsonl(rows).replace(b"\n", b"\r\n") + b"\n\n").status == "processed"


def test_pages_of_a_list(client):
    files = [create(client, data(1), f"{number}.jsonl").id for number in range(5)]
    assert [file.id for file in client.files.list()] == files[::-1]
    assert [file.id for file in client.files.list(order="asc", limit=2)] == files  # the client turns the pages
    page = client.files.list(order="asc", limit=2)
    assert ([file.id for file in page.data], page.has_more) == (files[:2], True)
    page = client.files.list(order="asc", limit=2, after=files[2])
    assert ([file.id for file in page.data], page.has_more) == (files[3:], False)
    assert [file.id for file in client.files.list(after=files[1])] == files[:1]
    assert len(list(client.files.list(purpose="fine-tune"))) == 5
    assert list(client.files.list(purpose="batch")) == []
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-1"}):
        with pytest.raises(openai.BadRequestError) as raised:
            client.files.list(**wrong)
        assert raised.value.param == next(iter(wrong))
    with pytest.raises(openai.BadRequestError) as raised:
        client.files.list(extra_query={"colour": "red"})
    assert raised.value.param == "colour"


@pytest.mark.parametrize("purpose", ["batch", "assistants", "vision", "user_data", "evals"])
def test_other_purposes_are_refused(client, purpose):
    with pytest.raises(openai.BadRequestError, match="purpose must be fine-tune") as raised:
        client.files.create(file=("a.jsonl", data()), purpose=purpose)
    assert (raised.value.param, raised.value.type) == ("purpose", "invalid_request_error")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (data(2) + b"{no\n", "line 3: is not JSON: Expecting property name"),
        (data(2) + jsonl([[1]]), "line 3: must be a JSON object with messages, not list"),
        (jsonl([row(1), {"prompt": "a", "completion": "b"}]), "line 2: messages is missing; rft data convert"),
        (jsonl([{"messages": [{"role": "robot", "content": "x"}]}]), "line 1: messages[0].role must be one of"),
        (jsonl([{"messages": [QUESTION, {"role": "system", "content": "x"}]}]), "line 1: the last message must be the"),
        (jsonl([row(1), {**row(2), "tools": [{"type": "function"}]}]), "line 2: tools: definitions of tools"),
        (data(1) + b'{"messages": "\xff"}\n', "line 2: is not UTF-8 (byte 15 of the line)"),
        (data(1) + b'{"a": 1, "a": 2}\n', "line 2: a is in the object twice"),
        (b"{bad\n" * 9, "line 1: is not JSON: Expecting property name enclosed in double quotes"),
        (b"", "is empty; expected one JSON object per line"),
        (b"\n \n", "is empty; expected one JSON object per line"),
        (b"[" + data(1).strip() + b"]", "is a JSON array; write one object per line: jq -c '.[]'"),
        (b'{\n "messages": []\n}\n', "has objects over several lines; write one object per line"),
        (b"question,answer\n1,2\n", "is a table of texts (CSV)"),
        (gzip.compress(data()), "is compressed with gzip; unpack it"),
        (b"PK\x03\x04zip", "is compressed with zip"),
        (b"PAR1\0\0\0\0", "is a table (Parquet or Arrow)"),
        (bytes(range(1, 256)) * 100, "line 1: is not JSON"),
        ("".join(map(chr, range(40, 90))).encode("utf-16"), "is UTF-16, not UTF-8"),
        (data(1) + b'{"messages": "' + b"x" * (8 << 20) + b'"}\n' + data(1), "line 2: has more than 8 MiB"),
        (b'{"a": [' + b"1," * 300_000 + b"1]}\n", "line 1: has more than 200,000 values"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: is not JSON: it is nested too deeply"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_its_line(client, stored, content, message):
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, content)
    error = raised.value
    assert message in error.message
    assert (error.param, error.code, error.type) == ("file", "invalid_file", "invalid_request_error")
    assert len(error.message) < 3000
    assert (stored.rows("gateway_files"), stored.contents()) == ([], {})
    wait_until(lambda: not stored.incoming())


def test_only_the_first_wrong_lines_are_named(client):
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, b"{bad\n" * 100_000)
    assert [f"line {number}: " in raised.value.message for number in range(1, 8)] == [True] * 5 + [False] * 2


def test_a_file_expires_when_it_was_told_to(client, stored):
    file = create(client, data(), expires_after={"anchor": "created_at", "seconds": 3600})
    other = create(client, data())
    assert (file.expires_at, other.expires_at) == (file.created_at + 3600, None)
    stored.execute(f"UPDATE gateway_files SET expires = 1 WHERE id = '{file.id}'")
    assert [each.id for each in client.files.list()] == [other.id]
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    client.files.delete(create(client, data()).id)  # has what is left over removed
    stored.wait_until_only_files_are_left()
    assert list(stored.contents()) == [f"team/{other.id}.jsonl"]


@pytest.mark.parametrize("seconds", [3599, 2_592_001, -1, "1e9", "٣٦٠٠"])
def test_a_wrong_time_to_expire_is_refused(client, seconds):
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, data(), expires_after={"anchor": "created_at", "seconds": seconds})
    assert raised.value.param == "expires_after"
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, data(), expires_after={"anchor": "last_active_at", "seconds": 3600})
    assert raised.value.param == "expires_after"


def test_nobody_else_sees_a_file(client, file_gateway):
    file = create(client, data())
    stranger = file_gateway.add_new_key("stranger", namespace="other")
    colleague = file_gateway.add_new_key("colleague")
    with openai_client(file_gateway, stranger) as other:
        assert list(other.files.list()) == []
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError) as raised:
                call(file.id)
            with pytest.raises(openai.NotFoundError) as unknown:
                call("file-" + "0" * 32)
            assert raised.value.message.replace(file.id, "") == unknown.value.message.replace("file-" + "0" * 32, "")
    with openai_client(file_gateway, colleague) as other:
        assert other.files.content(file.id).read() == data()


def test_without_a_key_nothing_happens(file_gateway, stored):
    with openai_client(file_gateway, "rft-wrong") as client:
        for call in (
            lambda: create(client, data()), client.files.list, lambda: client.files.retrieve("file-1"),
            lambda: client.files.content("file-1"), lambda: client.files.delete("file-1"),
            lambda: client.uploads.create(bytes=1, filename="a", mime_type="a", purpose="fine-tune"),
            lambda: client.uploads.parts.create("upload_1", data=b"a"), lambda: client.uploads.cancel("upload_1"),
            lambda: client.uploads.complete("upload_1", part_ids=["a"]),
        ):  # fmt: skip
            with pytest.raises(openai.AuthenticationError):
                call()
    assert (stored.rows("gateway_files"), stored.rows("gateway_uploads"), stored.contents()) == ([], [], {})


def test_requests_count_for_the_limits_of_their_key(file_gateway):
    token = file_gateway.add_new_key("limited", limits=Limits(requests_per_minute=3))
    with openai_client(file_gateway, token) as client:
        file = create(client, data())
        raw = client.files.with_raw_response.retrieve(file.id)
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        assert raw.headers["x-request-id"]
        assert client.files.content(file.id).response.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError):
            client.files.list()


def test_a_file_may_have_any_size_up_to_its_limit(client, file_gateway, stored, tmp_path):
    large = data(15, 1 << 20)
    assert client.files.content(create(client, large).id).read() == large
    with pytest.raises(openai.APIStatusError, match="file is larger than 16 MiB") as raised:
        create(client, b"x" * (18 << 20))
    assert (raised.value.status_code, raised.value.param, raised.value.code) == (413, "file", "file_too_large")

    def pieces():
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(17):
            yield b"x" * (1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with file_gateway.client() as raw:  # in chunks, so that nobody knows the size before
        answer = raw.post("/v1/files", content=pieces(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert len(stored.rows("gateway_files")) == 1


def test_a_namespace_has_a_room_of_its_own(client, file_gateway):
    large = data(15, 1 << 20)
    files = [create(client, large).id for _ in range(4)]
    with pytest.raises(openai.BadRequestError, match="The files of this namespace have") as raised:
        create(client, large)
    assert raised.value.code == "storage_limit_exceeded"
    with pytest.raises(openai.BadRequestError, match="The files of this namespace have"):
        client.uploads.create(bytes=15 << 20, filename="a", mime_type="a", purpose="fine-tune")
    with openai_client(file_gateway, file_gateway.add_new_key("other", namespace="other")) as other:
        assert create(other, large).status == "processed"
    client.files.delete(files[0])
    assert create(client, large).status == "processed"


def test_many_at_once_are_all_kept(file_gateway, stored):
    contents = [data(200 + number, 500) for number in range(12)]

    def keep(content: bytes) -> str:
        with openai_client(file_gateway) as client:
            return create(client, content).id

    with ThreadPoolExecutor(12) as pool:
        files = list(pool.map(keep, contents))
    with openai_client(file_gateway) as client:
        assert [client.files.content(file).read() for file in files] == contents
    stored.wait_until_only_files_are_left()


def test_content_that_is_gone_is_said(client, stored):
    file = create(client, data())
    (stored.folder / "team" / f"{file.id}.jsonl").unlink()
    with pytest.raises(openai.NotFoundError, match="Upload the file again") as raised:
        client.files.content(file.id)
    assert raised.value.code == "file_content_missing"
    assert client.files.retrieve(file.id).id == file.id


def test_a_client_that_leaves_leaves_nothing(file_gateway, stored):
    content = data(10)
    with file_gateway.connect() as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {file_gateway.token}\r\n"
            f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {1 << 20}\r\n\r\n"
            '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )
        connection.sendall(head.encode() + content)
        wait_until(stored.incoming)
    wait_until(lambda: not stored.incoming())
    assert (stored.rows("gateway_files"), stored.contents()) == ([], {})


def test_clients_that_wait_for_a_sign_get_one(file_gateway):
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + data() + b"\r\n--b--\r\n"
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {file_gateway.token}\r\nexpect: 100-continue\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with file_gateway.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        answer = b""
        while more := connection.recv(1 << 16):
            answer += more
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_others_are_answered_while_a_file_is_checked(client, file_gateway):
    done = threading.Event()

    def ask() -> int:
        count = 0
        with file_gateway.client() as other:
            while not done.is_set():
                assert other.get("/v1/models").is_success
                count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            create(client, data(60_000, 100))
        finally:
            done.set()
        assert asked.result() > 10


def test_a_gateway_without_files_says_which_setting_turns_them_on(tmp_path: Path):
    with Gateway(tmp_path, []) as gateway, openai_client(gateway) as client:
        for call in (client.files.list, lambda: create(client, data()), lambda: client.uploads.cancel("upload_1")):
            with pytest.raises(
                openai.NotFoundError, match=r"gateway\.files\.uri in the chart, or with --files"
            ) as raised:
                call()
            assert raised.value.code == "files_disabled"
    folder = tmp_path / "file"
    folder.write_text("no folder", encoding="utf-8")
    code, log = Gateway(tmp_path, [], "--files", str(folder)).run()
    assert (code, f"--files: {folder}" in log) == (10, True)


def test_unknown_operations_are_refused(file_gateway):
    with file_gateway.client() as client:
        for method, path, status in [
            ("PUT", "/v1/files", 405), ("POST", "/v1/files/file-1", 405), ("DELETE", "/v1/files/file-1/content", 405),
            ("GET", "/v1/uploads", 405), ("GET", "/v1/uploads/a/parts", 405), ("POST", "/v1/uploads/a/b", 404),
            ("GET", "/v1/files/a/b/c", 404), ("GET", "/v1/files/", 404), ("GET", "/v1/files/%ff%00", 404),
        ]:  # fmt: skip
            assert client.request(method, path).status_code == status, (method, path)


def test_files_come_back_after_a_restart(client, file_gateway, stored):
    file = create(client, data())
    upload = client.uploads.create(bytes=len(data()), filename="a", mime_type="a", purpose="fine-tune")
    part = client.uploads.parts.create(upload.id, data=data())
    assert file_gateway.stop() == 0
    file_gateway.start()
    with openai_client(file_gateway) as again:
        assert again.files.content(file.id).read() == data()
        assert again.uploads.complete(upload.id, part_ids=[part.id]).file.bytes == len(data())


def test_a_wrong_store_is_answered_with_503(tmp_path: Path, s3):
    environment = {**s3.environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    arguments = ("--files", "s3://nothing/here", "--files-staging", str(tmp_path / "staging"))
    with Gateway(tmp_path, [], *arguments, environment=environment) as gateway, openai_client(gateway) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            create(client, data())
        assert (raised.value.status_code, raised.value.code) == (503, "files_unavailable")
        assert list(client.files.list()) == []
        assert "cannot write s3://nothing/here" in gateway.log
        assert httpx.get(f"{gateway.url}/healthz", trust_env=False, timeout=PATIENCE_SECONDS).is_success
