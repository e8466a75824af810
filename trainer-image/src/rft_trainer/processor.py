"""What this machine's processor has instructions for."""

from __future__ import annotations

import os
from pathlib import Path

# As Linux names them: AVX-512 and AMX of x86, and those of Arm.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Values of ONEDNN_MAX_CPU_ISA that leave such instructions unused (oneDNN, "CPU dispatcher control").
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


def has_bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's processor multiplies matrices in bfloat16 natively.

    Without such instructions (AVX2 only, and the first AVX-512) bfloat16 is emulated, and several times slower than
    float32. With ONEDNN_MAX_CPU_ISA=AVX2 a processor counts as one without.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BFLOAT16:
        return False
    names = ("flags", "Features")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    flags = {flag for line in lines if line.startswith(names) for flag in line.partition(":")[2].split()}
    return bool(flags & _BFLOAT16_FLAGS)
