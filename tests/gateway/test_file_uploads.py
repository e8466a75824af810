"""The real openai package uploads files in parts."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from support.gateway_files import data, openai_client


def begin(client: openai.OpenAI, size: int, **more: object) -> openai.types.Upload:
    return client.uploads.create(
        bytes=size, filename="train.jsonl", mime_type="text/jsonl", purpose="fine-tune", **more
    )


def add(client: openai.OpenAI, upload: openai.types.Upload, *parts: bytes) -> list[str]:
    return [client.uploads.parts.create(upload.id, data=part).id for part in parts]


def test_a_file_in_parts(client, stored):
    content = data(100, 100)
    upload = begin(client, len(content))
    assert (upload.object, upload.status, upload.bytes, upload.file) == ("upload", "pending", len(content), None)
    assert upload.expires_at == upload.created_at + 3600
    # they may come in any order, and twice: the request to complete says what counts
    parts = add(client, upload, content[4000:], content[:7], content[7:4000], content[:7])
    assert len(stored.contents()) == 4
    ended = client.uploads.complete(
        upload.id, part_ids=[parts[1], parts[2], parts[0]], md5=hashlib.md5(content).hexdigest()
    )
    assert (ended.status, ended.file.bytes, ended.file.filename) == ("completed", len(content), "train.jsonl")
    assert client.files.content(ended.file.id).read() == content
    assert client.files.retrieve(ended.file.id) == ended.file
    stored.wait_until_only_files_are_left()
    assert stored.contents() == {f"team/{ended.file.id}.jsonl": content}
    # a client that has not read the answer asks again
    assert client.uploads.complete(upload.id, part_ids=[parts[0]]).file == ended.file
    for call in (lambda: add(client, upload, b"x"), lambda: client.uploads.cancel(upload.id)):
        with pytest.raises(openai.BadRequestError, match="is completed") as raised:
            call()
        assert raised.value.code == "upload_ended"


def test_the_client_splits_a_file_itself(client, tmp_path):
    content = data(50, 1 << 18)
    (tmp_path / "large.jsonl").write_bytes(content)
    upload = client.uploads.upload_file_chunked(
        file=tmp_path / "large.jsonl", mime_type="text/jsonl", purpose="fine-tune", part_size=5 << 20,
        md5=hashlib.md5(content).hexdigest(),
    )  # fmt: skip
    assert (upload.status, upload.file.filename) == ("completed", "large.jsonl")
    assert client.files.content(upload.file.id).read() == content


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": ["part_1"]}, "part_ids"),
        ({"part_ids": [0, 0]}, "part_ids"),
        ({"part_ids": [0]}, "part_ids"),
        ({"part_ids": "part_1"}, "part_ids"),
        ({"md5": "0" * 32}, "md5"),
        ({"md5": "\u00e9"}, "md5"),
        ({"md5": 5}, "md5"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_does_not_fit_completes_nothing(client, stored, change, param):
    content = data(10)
    upload = begin(client, len(content))
    parts = add(client, upload, content[:100], content[100:])
    body = {"part_ids": parts, **change}
    if isinstance(body["part_ids"], list):
        body["part_ids"] = [parts[part] if isinstance(part, int) else part for part in body["part_ids"]]
    with pytest.raises(openai.BadRequestError) as raised:
        client.post(f"/uploads/{upload.id}/complete", body=body, cast_to=object)
    assert raised.value.param.startswith(param)
    assert stored.rows("gateway_files") == []
    assert client.uploads.complete(upload.id, part_ids=parts).status == "completed"


def test_wrong_lines_are_named_and_the_upload_stays(client, stored):
    content = data(2) + b"{no\n"
    upload = begin(client, len(content))
    (part,) = add(client, upload, content)
    with pytest.raises(openai.BadRequestError, match="line 3: is not JSON") as raised:
        client.uploads.complete(upload.id, part_ids=[part])
    assert raised.value.param == "file"
    assert stored.rows("gateway_files") == []
    right = add(client, upload, content[: len(data(2))], b"    ")
    assert client.uploads.complete(upload.id, part_ids=right).status == "completed"


def test_an_upload_that_is_cancelled_leaves_nothing(client, stored):
    upload = begin(client, 10)
    add(client, upload, b"12345", b"67890")
    assert [client.uploads.cancel(upload.id).status for _ in range(2)] == ["cancelled"] * 2
    stored.wait_until_only_files_are_left()
    assert stored.contents() == {}
    for call in (lambda: add(client, upload, b"x"), lambda: client.uploads.complete(upload.id, part_ids=["a"])):
        with pytest.raises(openai.BadRequestError, match="is cancelled"):
            call()


def test_an_upload_expires(client, stored):
    upload = begin(client, 10)
    add(client, upload, b"12345")
    stored.execute("UPDATE gateway_uploads SET expires = 1")
    with pytest.raises(openai.BadRequestError, match="is expired"):
        client.uploads.complete(upload.id, part_ids=["a"])
    other = begin(client, 10)
    client.uploads.cancel(other.id)  # has what is left over removed
    stored.wait_until_only_files_are_left()
    assert stored.contents() == {}


def test_what_is_wrong_with_an_upload_is_named(client):
    for change, param in [
        ({"bytes": 0}, "bytes"), ({"bytes": "10"}, "bytes"), ({"bytes": 10**15}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": "a\0b"}, "filename"), ({"purpose": "batch"}, "purpose"), ({"mime_type": 5}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"), ({"colour": "red"}, "colour"),
    ]:  # fmt: skip
        body = {"bytes": 10, "filename": "a", "mime_type": "a", "purpose": "fine-tune", **change}
        with pytest.raises(openai.BadRequestError) as raised:
            client.post("/uploads", body=body, cast_to=object)
        assert raised.value.param.startswith(param), change
    upload = begin(client, 10, expires_after={"anchor": "created_at", "seconds": 3600})
    with pytest.raises(openai.BadRequestError, match="data is empty"):
        add(client, upload, b"")


def test_a_file_of_an_upload_expires_when_it_was_told_to(client):
    upload = begin(client, len(data()), expires_after={"anchor": "created_at", "seconds": 7200})
    file = client.uploads.complete(upload.id, part_ids=add(client, upload, data())).file
    assert file.expires_at == file.created_at + 7200


def test_nobody_else_sees_an_upload(client, file_gateway):
    upload = begin(client, len(data()))
    parts = add(client, upload, data())
    with openai_client(file_gateway, file_gateway.add_new_key("stranger", namespace="other")) as other:
        for call in (
            lambda: add(other, upload, b"x"), lambda: other.uploads.cancel(upload.id),
            lambda: other.uploads.complete(upload.id, part_ids=parts),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError, match="No such Upload object"):
                call()
    assert client.uploads.complete(upload.id, part_ids=parts).status == "completed"


def test_whoever_completes_at_the_same_time_gets_the_same_file(client, file_gateway, stored):
    content = data(2000, 500)
    upload = begin(client, len(content))
    parts = add(client, upload, content)

    def complete(_: int) -> str:
        with openai_client(file_gateway) as other:
            return other.uploads.complete(upload.id, part_ids=parts).file.id

    with ThreadPoolExecutor(6) as pool:
        files = set(pool.map(complete, range(6)))
    assert [entry["id"] for entry in stored.rows("gateway_files")] == list(files)
    stored.wait_until_only_files_are_left()


def test_parts_at_the_same_time_do_not_pass_the_limit_together(client, stored):
    upload = begin(client, 16 << 20)

    def send(number: int) -> str | None:
        try:
            add(client, upload, bytes([number]) * (10 << 20))
        except openai.BadRequestError as error:
            return error.code
        return None

    with ThreadPoolExecutor(12) as threads:
        codes = list(threads.map(send, range(12)))
    taken = codes.count(None)
    assert set(codes) == {None, "storage_limit_exceeded"}
    assert 1 <= taken <= 6  # of 64 MiB
    assert sum(map(len, stored.contents().values())) == taken * (10 << 20)
    add(client, upload, b"x" * (64 - taken * 10 << 19))  # nothing is reserved any more
