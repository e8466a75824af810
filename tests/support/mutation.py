"""Changes real inputs a little, as somebody does who looks for the place where a parser breaks; the same each time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PIECES = (
    b"", b"-1", b"1e308", b"1e999", b"NaN", b"Infinity", b'"', b"'", b"[", b"]", b"{", b"}", b"\\u0000", b"\\ud800",
    b"null", b"true", b"9" * 30, b"9" * 5000, b"\xff", b"\x00", b"\xe2\x80\xae", b"0", b",", b":", b"[" * 300,
    b"&a ", b"*a", b"!!python/object ", b"<<: ", b"---", b"~", b"|", b"\t", b"#",
    b"!!bool ", b"!!int ", b"!!timestamp ", b"0x" + b"f" * 5000, b":59" * 50,
)  # fmt: skip
"""What parsers of JSON and YAML stumble over."""


MOST_SECONDS = 2.0
"""Time of the processor that one input may take: other programs of the machine do not count."""


@contextmanager
def bounded() -> Iterator[None]:
    """Assert that an input is read in a bounded time, which is that of the processor."""
    started = time.process_time()
    yield
    seconds = time.process_time() - started
    assert seconds < MOST_SECONDS, f"one input took {seconds:.1f} s"


def mutated(generator: random.Random, content: bytes, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Return the content with up to four places changed, removed or repeated."""
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(content) + 1)
        end = min(len(content), start + generator.choice((0, 1, 1, 2, 8, 40)))
        new = generator.choice((generator.choice(pieces), generator.randbytes(2), content[start:end] * 2))
        content = content[:start] + new + content[end:]
    return content
