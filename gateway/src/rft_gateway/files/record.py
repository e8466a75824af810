"""What is known of a file, of an upload and of its parts, and how OpenAI's API states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Declaration:
    """What a client has said of a file, and who it is."""

    id: str
    namespace: str
    """The namespace of the key that has made it; no other one sees it."""
    key: str
    """Name of that key."""
    filename: str
    purpose: str
    bytes: int
    """Size in bytes; of an upload, the size that all parts have together."""


@dataclass(frozen=True)
class FileRecord(_Declaration):
    """A file whose content is stored and was found to be right."""

    sha256: str
    """Digest of the content, in hexadecimal digits."""
    uri: str
    """Where the content is: an absolute path, or s3://BUCKET/KEY."""
    created: int
    """Milliseconds since 1970."""
    expires: int | None = None
    """Milliseconds since 1970; None for a file that stays."""

    def document(self) -> dict[str, Any]:
        """Return OpenAI's File object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created // 1000,
            "expires_at": None if self.expires is None else self.expires // 1000,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class Upload(_Declaration):
    """A file that comes in parts."""

    created: int
    """Milliseconds since 1970."""
    expires: int
    """When it expires, if it was not completed."""
    expires_after: int | None
    """Seconds after which its file expires; None for a file that stays."""
    status: str = "pending"
    """pending, completed, cancelled or expired."""
    file: str | None = None
    """Id of the file that it has become."""

    def document(self, file: FileRecord | None = None) -> dict[str, Any]:
        """Return OpenAI's Upload object, with its file if there is one."""
        return {
            "id": self.id,
            "object": "upload",
            "bytes": self.bytes,
            "created_at": self.created // 1000,
            "expires_at": self.expires // 1000,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": self.status,
            "file": None if file is None else file.document(),
        }


@dataclass(frozen=True)
class Part:
    """A part of an upload."""

    id: str
    upload: str
    bytes: int
    uri: str
    created: int

    def document(self) -> dict[str, Any]:
        """Return OpenAI's UploadPart object."""
        created = self.created // 1000
        return {"id": self.id, "object": "upload.part", "created_at": created, "upload_id": self.upload}
