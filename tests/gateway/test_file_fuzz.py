"""Calls of the API of files that nobody would write: each is answered, and none with an error of the gateway."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
from support.gateway_files import data, openai_client

CALLS = 300
TEXTS = [
    "",
    "a",
    "fine-tune",
    "\0",
    "é",
    "file",
    "../../etc/passwd",
    "x" * 5000,
    "file-" + "0" * 32,
    "' OR 1=1 --",
    "\ud800",
]
VALUES: list[Any] = [None, 0, -1, 1e308, 10**19, True, [], {}, [[]], {"anchor": "created_at", "seconds": 3600}, *TEXTS]


def fuzzed_path(chance: random.Random, names: list[str]) -> str:
    parts = [chance.choice(["files", "uploads", "files", "uploads", "file"])]
    for _ in range(chance.randrange(3)):
        parts.append(chance.choice([*names, "content", "parts", "complete", "cancel", "%ff", "%00", "..", "", "é"]))
    query = chance.choice(
        ["", "", "?limit=5", "?limit=%00", "?after=%ff", "?order=asc&order=desc", "?purpose=%00", "?="]
    )
    return "/v1/" + "/".join(parts) + query


def fuzzed_form(chance: random.Random) -> tuple[bytes, str]:
    boundary = chance.choice(["b", "b" * 70, "-", "b" * 200])
    body = bytearray()
    for _ in range(chance.randrange(5)):
        name = chance.choice(
            ["file", "data", "purpose", "expires_after[anchor]", "expires_after[seconds]", "x", "\xff", ""]
        )
        head = chance.choice([
            f'content-disposition: form-data; name="{name}"; filename="a.jsonl"',
            f'content-disposition: form-data; name="{name}"',
            f'content-disposition: form-data; name="{name}"\r\ncontent-transfer-encoding: base64',
            f'content-disposition: form-data; name="{name}"\r\ncontent-length: 5',
            'content-disposition: form-data; name="_charset_"',
            "content-type: multipart/mixed; boundary=c", "x", "", "content-disposition: \0", f"x: {'y' * 9000}",
        ])  # fmt: skip
        value = chance.choice(
            [data(2), b"fine-tune", b"created_at", b"3600", b"", b"\xff" * 9, b"--b--", b"x" * 10_000]
        )
        end = chance.choice([b"\r\n", b"\r\n", b"\n", b""])
        body += b"--" + boundary.encode() + b"\r\n" + head.encode("latin-1") + b"\r\n\r\n" + value + end
    body += chance.choice([b"--" + boundary.encode() + b"--\r\n", b"--" + boundary.encode() + b"--", b"", b"junk"])
    if chance.random() < 0.2:
        del body[chance.randrange(len(body) + 1) :]
    kind = chance.choice(
        [f"multipart/form-data; boundary={boundary}"] * 6 + ["multipart/form-data", "multipart/mixed; boundary=b"]
    )
    return bytes(body), kind


def fuzzed_document(chance: random.Random) -> bytes:
    names = ["bytes", "filename", "mime_type", "purpose", "expires_after", "part_ids", "md5", "x"]
    document = {name: chance.choice(VALUES) for name in chance.sample(names, chance.randrange(len(names)))}
    return chance.choice([json.dumps(document).encode()] * 5 + [b"", b"[]", b"{", b"\xff", b"null", b"[" * 5000])


def test_fuzzed_calls_are_answered(file_gateway, stored):
    chance = random.Random(7)
    with openai_client(file_gateway) as client:
        file = client.files.create(file=("a.jsonl", data()), purpose="fine-tune")
        upload = client.uploads.create(bytes=len(data()), filename="a", mime_type="a", purpose="fine-tune")
    names = [
        file.id,
        upload.id,
        file.id,
        upload.id,
        *(text for text in TEXTS[:-1] if len(text) < 100 and text.isprintable()),
    ]
    statuses = []
    with file_gateway.client() as raw:
        for call in range(CALLS):
            method = chance.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "PATCH"])
            path = fuzzed_path(chance, names)
            content, kind = chance.choice([
                lambda: fuzzed_form(chance), lambda: (fuzzed_document(chance), "application/json"),
                lambda: (chance.randbytes(chance.randrange(3000)), "application/octet-stream"), lambda: (b"", "a"),
            ])()  # fmt: skip
            try:
                answer = raw.request(method, path, content=content, headers={"content-type": kind})
            except (httpx.InvalidURL, httpx.LocalProtocolError):
                continue
            assert answer.status_code < 500, (call, method, path, content[:500], answer.text)
            if answer.status_code >= 400 and method != "HEAD":
                assert answer.json()["error"]["message"], (call, method, path)
            statuses.append(answer.status_code)
    assert len(statuses) > CALLS * 0.9
    assert {200, 400, 404, 405} <= set(statuses)
    assert "Traceback" not in file_gateway.log
    assert "Error at" not in file_gateway.log
    # nothing is half there
    files = {entry["uri"].removeprefix(f"{stored.uri}/") for entry in stored.rows("gateway_files")}
    parts = {entry["uri"].removeprefix(f"{stored.uri}/") for entry in stored.rows("gateway_upload_parts")}
    with openai_client(file_gateway) as client:
        client.uploads.cancel(client.uploads.create(bytes=9, filename="a", mime_type="a", purpose="fine-tune").id)
    assert {name for name in stored.contents() if name in files | parts} == files | parts
