"""The store of files: what is removed leaves nothing, and credentials may be replaced while a gateway runs."""

from __future__ import annotations

import uuid
from pathlib import Path

import boto3
import pytest
from support.gateway_files import sha256

from rft_api.storage_error import StorageError
from rft_gateway.files.store import FileStore


def write_credentials(folder: Path, variables: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in variables.items():
        (folder / name).write_text(value, encoding="utf-8")
    return folder


def test_an_interrupted_upload_to_s3_leaves_nothing(s3, tmp_path):
    bucket = s3.make_bucket(f"store-{uuid.uuid4().hex[:12]}").name
    store = FileStore(f"s3://{bucket}/a/", write_credentials(tmp_path / "credentials", s3.environment()))
    variables = s3.environment()
    client = boto3.Session(
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    ).client("s3", endpoint_url=s3.url)
    upload = client.create_multipart_upload(Bucket=bucket, Key="a/b/c.jsonl")["UploadId"]
    place = {"Bucket": bucket, "Key": "a/b/c.jsonl", "UploadId": upload}
    client.upload_part(**place, PartNumber=1, Body=b"x" * (5 << 20))
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    store.remove(store.address("b/c.jsonl"))
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_credentials_are_read_again(s3, tmp_path):
    bucket = s3.make_bucket(f"store-{uuid.uuid4().hex[:12]}")
    folder = write_credentials(tmp_path / "credentials", {**s3.environment(), "AWS_SECRET_ACCESS_KEY": "wrong"})
    store = FileStore(f"s3://{bucket.name}", folder)
    path, uri = tmp_path / "a", store.address("a.jsonl")
    path.write_bytes(b"content")
    with pytest.raises(StorageError):
        store.put(path, uri, sha256(b"content"))
    write_credentials(folder, s3.environment())
    store.put(path, uri, sha256(b"content"))
    with store.reading(uri) as read:
        assert read(100) == b"content"
    (folder / "AWS_ACCESS_KEY_ID").unlink()
    with pytest.raises(StorageError, match="there is no such file, so there are no credentials"):
        store.put(path, uri, sha256(b"content"))


def test_what_is_not_there_is_permanently_missing(tmp_path):
    store = FileStore(str(tmp_path))
    with pytest.raises(StorageError) as raised, store.reading(store.address("a")):
        pass
    assert raised.value.permanent
    store.remove(store.address("a"))
