"""Uploads that go on where they were interrupted, to a real S3 server; and never store what a file is no longer."""

from __future__ import annotations

import hashlib
import random
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest

from rft_api.file_digests import file_digest
from rft_api.progress import ignore_bytes
from rft_api.resumable_upload import PART_BYTES, Target, part_size, upload_file
from rft_api.storage_error import StorageError

PARTS = 5


class Client:
    """boto3's client, which remembers the parts that are sent, and may be interrupted at one."""

    def __init__(self, client: Any, interrupted_at: int | None = None):
        self._client = client
        self.interrupted_at = interrupted_at
        self.parts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upload_part(self, **arguments: Any) -> Any:
        if arguments["PartNumber"] == self.interrupted_at:
            raise KeyboardInterrupt
        self.parts.append(arguments["PartNumber"])
        return self._client.upload_part(**arguments)


@pytest.fixture
def bucket(s3) -> Path:
    return s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def s3_client(s3) -> Any:
    return boto3.client(
        "s3", endpoint_url=s3.url, aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )  # fmt: skip


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(random.Random(0).randbytes(PART_BYTES * (PARTS - 1) + 12345))
    return file


def upload(client: Client, bucket: Path, file: Path, digest: str | None = None) -> list[int]:
    sizes: list[int] = []
    target = Target(client, bucket.name, "folder/weights")
    upload_file(target, file, digest or file_digest(file, ignore_bytes), sizes.append)
    return sizes


def stored(bucket: Path) -> Path:
    return bucket / "folder" / "weights"


def test_a_large_file_goes_in_parts_that_are_counted(bucket, s3_client, large):
    client = Client(s3_client)
    assert sum(upload(client, bucket, large)) == large.stat().st_size
    assert sorted(client.parts) == [1, 2, 3, 4, 5]
    assert stored(bucket).read_bytes() == large.read_bytes()


def test_an_interrupted_upload_goes_on_and_its_object_appears_only_at_the_end(bucket, s3_client, large):
    with pytest.raises(KeyboardInterrupt):
        upload(Client(s3_client, interrupted_at=4), bucket, large)
    assert not stored(bucket).exists()
    client = Client(s3_client)
    assert sum(upload(client, bucket, large)) == large.stat().st_size
    assert set(client.parts) <= {4, 5}
    assert stored(bucket).read_bytes() == large.read_bytes()
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket.name)


def test_a_part_with_other_contents_is_sent_again(bucket, s3_client, large):
    place = {"Bucket": bucket.name, "Key": "folder/weights"}
    begun = s3_client.create_multipart_upload(**place)["UploadId"]
    s3_client.upload_part(**place, UploadId=begun, PartNumber=1, Body=bytes(PART_BYTES))
    s3_client.upload_part(**place, UploadId=begun, PartNumber=2, Body=large.read_bytes()[PART_BYTES : 2 * PART_BYTES])
    client = Client(s3_client)
    upload(client, bucket, large)
    assert sorted(client.parts) == [1, 3, 4, 5]
    assert stored(bucket).read_bytes() == large.read_bytes()


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES])
def test_a_small_file_goes_in_one_request(bucket, s3_client, tmp_path, size):
    file = tmp_path / "small"
    file.write_bytes(b"x" * size)
    client = Client(s3_client)
    assert sum(upload(client, bucket, file)) == size
    assert client.parts == []
    assert stored(bucket).read_bytes() == b"x" * size


def test_a_file_that_has_changed_is_not_stored(bucket, s3_client, tmp_path, large):
    small = tmp_path / "small"
    small.write_bytes(b"now")
    before = "sha256:" + hashlib.sha256(b"before").hexdigest()
    for file in (small, large):
        with pytest.raises(StorageError, match="changed while it was uploaded"):
            upload(Client(s3_client), bucket, file, before)
    assert not stored(bucket).exists()
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket.name)


def test_no_file_has_more_parts_than_a_store_takes():
    for size in (1, PART_BYTES, PART_BYTES * 10_000, PART_BYTES * 10_000 + 1, 5 << 40):
        assert -(-size // part_size(size)) <= 10_000
        assert part_size(size) % PART_BYTES == 0
