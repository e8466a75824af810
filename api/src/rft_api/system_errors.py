"""Kinds of errors of the operating system, by who can mend them."""

from __future__ import annotations

import errno

NOT_WRITABLE = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the quota is used up; make room or raise it",
    errno.EFBIG: "a file would be larger than the file system or a limit (ulimit -f) allows",
    errno.EROFS: "the file system is mounted read-only",
    errno.ELOOP: "a symbolic link is in the place of a file; remove it",
    errno.EMLINK: "a hard link is in the place of a file; put a copy in its place",
}
"""Errors of writing, with what to do."""
UNAVAILABLE = {
    errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
}  # fmt: skip
"""Errors of a disk, or of a file system that another machine serves, which may pass."""


def may_pass(error: OSError) -> bool:
    """Return whether the same access to a file may succeed later, though nobody changes the file or its address."""
    return error.errno in UNAVAILABLE
