"""Bounds the memory that reading something foreign may take: what a small file unpacks to, nobody knows before."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft_api.foreign.files import read_file

_PAGE = resource.getpagesize()


@contextmanager
def bounded_growth(maximum_bytes: int) -> Iterator[None]:
    """Limit by how much the address space of this process may grow inside of the context.

    The kernel applies the limit to every thread of the process, and to a single operation as well. It is lifted at the
    end. What exceeds it raises MemoryError.

    Args:
        maximum_bytes: the largest growth.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(read_file(Path("/proc/self/statm"), _PAGE).split()[0]) * _PAGE + maximum_bytes
    is_lower = soft == resource.RLIM_INFINITY or limit < soft
    if is_lower:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        if is_lower:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
