"""The frames between the server and a worker: a fixed header, then JSON."""

from __future__ import annotations

import struct

REQUEST_HEADER = struct.Struct("!I16sd")
"""Bytes of JSON that follow; the batch's nonce; seconds that the batch may take."""

REPLY_HEADER = struct.Struct("!I16s")
"""Bytes of JSON that follow; the nonce of the batch that is answered."""

NONCE_BYTES = 16
MAXIMUM_REPLY_BYTES = 64 * 1024 * 1024
"""Longest answer that the server reads from a worker."""

PIPE_LOST = 121
"""Exit code of a worker whose pipes were closed from within."""
