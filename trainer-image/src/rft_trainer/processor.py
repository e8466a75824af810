"""Tells whether this machine's processor has instructions for bfloat16."""

from __future__ import annotations

import os
from pathlib import Path

# Linux's names of the instruction sets: AVX-512 and AMX of x86, and that of Arm.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Values of ONEDNN_MAX_CPU_ISA with which oneDNN does not use these instructions (oneDNN, "CPU dispatcher control").
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


def has_bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's processor multiplies matrices in bfloat16 natively.

    Without these instructions (only AVX2, or the first AVX-512) bfloat16 is emulated, and several times slower than
    float32. With ONEDNN_MAX_CPU_ISA=AVX2 the answer is always no.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BFLOAT16:
        return False
    names = ("flags", "Features")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    flags = {flag for line in lines if line.startswith(names) for flag in line.partition(":")[2].split()}
    return bool(flags & _BFLOAT16_FLAGS)
