"""The frames of the messages between the server and a worker: a header of fixed size, then JSON."""

from __future__ import annotations

import struct

REQUEST_HEADER = struct.Struct("!I16sd")
"""Header of a request: number of bytes of JSON, nonce of the batch, and time limit of the batch in seconds."""

REPLY_HEADER = struct.Struct("!I16s")
"""Header of a reply: number of bytes of JSON, and nonce of the batch."""

NONCE_BYTES = 16

PIPE_LOST = 121
"""Exit code of a worker whose pipes were closed by its own code."""
