"""Starts vLLM on CPUs in the precision that the processor has instructions for: `python -m rft_trainer.cpu_server ...`.

All arguments are passed to vLLM. By default, vLLM computes in bfloat16 if the model's files have this dtype.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rft_trainer.processor import has_bfloat16_instructions

SERVER = ("-m", "vllm.entrypoints.openai.api_server")


def server_arguments(arguments: Sequence[str], has_bfloat16: bool) -> list[str]:
    """Return Python's arguments that start vLLM; add `--dtype float32` if no dtype is set and bfloat16 is slow."""
    states_dtype = any(argument.partition("=")[0] == "--dtype" for argument in arguments)
    return [*SERVER, *arguments, *([] if states_dtype or has_bfloat16 else ["--dtype", "float32"])]


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, *server_arguments(sys.argv[1:], has_bfloat16_instructions())])
