"""Freed memory is used again instead of mapped anew, and no more of it is held."""

import subprocess
import sys

from rft_trainer import memory

# Late, after torch has started, as in the trainer.
PROBE = """
import resource, torch
from rft_trainer.memory import keep_freed_memory

def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in range(20, 40):
        torch.ones(size << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use()
mapped, peak = use(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert keep_freed_memory()
use()
print(mapped, use(), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024)
"""


def test_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    mapped, kept, grown = map(int, done.stdout.split())
    print(f"page faults {mapped} -> {kept}, peak memory +{grown} MiB")
    assert kept <= mapped / 10
    assert grown < 200


def test_other_allocators_are_left_alone(monkeypatch, caplog):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    with caplog.at_level("INFO"):
        assert not memory.keep_freed_memory()
    assert "not glibc" in caplog.text
