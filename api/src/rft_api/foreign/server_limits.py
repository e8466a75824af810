"""Limits of the servers of this project: one set of settings for all that listen, each with its reason.

Whoever reaches the port may send what it likes, without a token. So a client costs a bounded amount of memory and a
bounded time, whatever it does, and the requests of others are answered beside it.
"""

from __future__ import annotations

from typing import Final

HEAD_BYTES: Final = 64 << 10
"""Largest head of a request: the first line and all headers. Clients of this project send less than 1 KiB, and the
proxies of clusters pass on at most 60 KiB (Envoy) or 32 KiB (nginx)."""
HEAD_FIELDS: Final = 100
"""Largest number of headers, as Apache and Python's http.client have it: each is an object of its own when it has been
read, so that many small ones take 30 times as much memory as they have bytes."""
HEAD_SECONDS: Final = 10.0
"""Time for the head, from its first byte or from the connection: one packet, or a few, that are resent at most once."""
BODY_BYTES: Final = 64 << 20
"""Largest body: 8,192 completions of 2,000 tokens, as text."""
BODY_VALUES: Final = 2_000_000
"""Largest number of values of a body in JSON: 244 for each of 8,192 samples. A value takes some 60 bytes of memory when
it is parsed, and as little as 2 bytes of the body."""
BODIES_BYTES: Final = 4 * BODY_BYTES
"""Bytes of all bodies that are read or scored at the same time, or `CONNECTIONS` of the largest would be 32 GiB. A
process of a trainer has some 10 MiB on the way. What is beyond is answered 503 and sent again. A body whose texts are
parsed takes up to four times its size."""
SMALL_CHUNKS: Final = 4096
CHUNK_BYTES: Final = 64
"""Largest number of chunks of a body, beside one for each 64 bytes: to parse one takes as long as hundreds of bytes.
Clients send chunks of kilobytes."""
DROPPED_BYTES: Final = 1 << 20
"""What is read of a body after its request was refused, for clients that send everything before they read the answer.
Without a limit, a few clients without a token keep a server busy with bodies that nobody needs."""
DROPPED_CHUNK_BYTES: Final = 4096
"""What a chunk counts for beside its bytes there, because parsing one takes as long as some kilobytes of a body."""
BODY_SECONDS: Final = 60.0
"""Time for the body, from the end of the head: the largest body at 1 MiB a second."""
ANSWER_SECONDS: Final = 60.0
"""Time in which the client has to take the answer after it was made: as for the body."""
KEEP_ALIVE_SECONDS: Final = 120
"""Time for which a connection is kept for the next request. A trainer generates for a minute or two between two."""
CONNECTIONS: Final = 512
"""Largest number of connections. Each holds at most about twice `HEAD_BYTES` before its request is admitted, together
64 MiB, and this leaves half of the 1,024 files that a process may usually open. Beyond it, the connection that has
waited longest without a request is closed, of the client that has most of them."""
WAITING_CONNECTIONS: Final = 16384
"""Largest number of connections to a gateway that wait for a request: clients of thousands of streams keep theirs for
the next ones. Each takes some 10 KiB. Beyond it, those are closed that have waited longest. Those that are answered are
not limited."""
UNKNOWN_BYTES: Final = 64 << 20
"""Bytes of all requests to a gateway whose key is not known yet: 60,000 heads of clients, or 1,024 of the largest.
Beyond it, the connection is closed whose request is the oldest; heads of clients come in one packet, and their key is
known at once."""
PIPELINED_REQUESTS: Final = 16
"""Largest number of requests that a client may send on a connection before it has read the answer to the first. Few
clients do so at all, and one packet has room for thousands."""
PAGE_SECONDS: Final = 0.5
PAGE_SHARE: Final = 0.1
"""Processor time in which a reward server makes pages of metrics one after another, and the share of the time that it
takes for them from then on. A page takes milliseconds, and 512 connections with 16 requests each ask for 8,192."""
BACKLOG: Final = 1024
"""Connections that wait in the kernel until the server accepts them: a burst of twice as many as it keeps."""

# The small servers (`small_server`) have one request per connection, without a body, and a few short answers.
SMALL_CONNECTIONS: Final = 64
"""Largest number of connections of a small server: Prometheus, the operator and the kubelet have one each. Each holds
at most `HEAD_BYTES`, together 4 MiB."""
SMALL_SECONDS: Final = 10.0
"""Time of a whole connection to a small server, until its client has taken the answer: Prometheus' own limit."""
SMALL_FRESH_SECONDS: Final = 0.1
"""Least time for which an answer of a small server is sent again."""
SMALL_FRESH_RATIO: Final = 50.0
"""An answer is also sent again for this many times the processor time that making it took. However many ask, and
however large the page, the process so spends at most one fiftieth of its time on each."""
