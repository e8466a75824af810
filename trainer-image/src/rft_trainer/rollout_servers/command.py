"""The command line and the environment of a rollout server: every setting that changes results is stated."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_api import vllm_server
from rft_api.memory_layers import BLOCK
from rft_api.memory_servers import LOADED_ADAPTERS

BASE = "base"
"""Name of the base model at the servers; after whole weights have been loaded, of what took its place."""
SEQUENCES = 256
"""Largest number of completions that a server computes at once; others wait."""

Dtype = Literal["float32", "bfloat16", "float16"]

_OF_TRAINING = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Variables by which the trainer's processes find one another. vLLM would take them for its own."""
_SOCKET_NAME = 36
"""Characters of the names that vLLM gives to its sockets."""
_SOCKET_PATH = 107
"""Bytes of the path of a Unix socket."""


@dataclass(frozen=True)
class ServerSettings:
    """What a rollout server is started with."""

    model: str
    """Folder of the base model."""
    dtype: Dtype
    """Precision of its weights and its computation."""
    tokens: int
    """Largest number of tokens of a prompt and its completion."""
    lora_rank: int | None
    """Rank of the adapters that are loaded; None when whole weights are loaded."""
    threads: int
    """Threads of a server on CPUs."""
    cache_bytes: int | None = None
    """Memory for keys and values on CPUs; None on GPUs."""
    devices: tuple[str, ...] = ()
    """The GPUs that it computes on, each with an equal part of every weight; none on CPUs."""
    memory_share: float | None = None
    """Share of each GPU's memory for weights and cache; None on CPUs."""


def server_command(settings: ServerSettings, socket: Path) -> list[str]:
    """Return the command that starts stock vLLM behind a Unix socket.

    A socket needs no free port, and only this user can connect to it: vLLM executes what it is asked to.
    """
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--uds", str(socket),
        # The server has another working folder.
        "--model", str(Path(settings.model).absolute()), "--served-model-name", BASE,
        "--dtype", settings.dtype,
        "--max-model-len", str(settings.tokens),
        "--max-num-seqs", str(SEQUENCES),
        "--block-size", str(BLOCK),
        "--enable-prefix-caching",
        "--load-format", "safetensors",
        *vllm_server.SAFE_ARGUMENTS,
        # Log-probabilities of the distribution that is sampled from, temperature included.
        "--logprobs-mode", "processed_logprobs",
        "--seed", "0",
        "--api-server-count", "1",
        "--uvicorn-log-level", "warning", "--disable-log-stats",
        *vllm_server.QUIET_ARGUMENTS,
    ]  # fmt: skip
    if settings.devices:
        command += ["--tensor-parallel-size", str(len(settings.devices))]
        command += ["--gpu-memory-utilization", f"{settings.memory_share:.3f}", "--no-enforce-eager"]
    else:
        assert settings.cache_bytes is not None  # it is stated for servers on CPUs
        command += vllm_server.cpu_arguments(settings.cache_bytes)
        # Where many prompts wait, vLLM computes a part of one in a step and the rest in the next. It then sets back the
        # random numbers of that request, which those of CPUs cannot (torch: "CPU Generator does not use offset"), and
        # the engine ends. Its warning about this option is about models that are not of the kind that is trained here.
        command += ["--no-enable-chunked-prefill"]
    if settings.lora_rank is not None:
        command += ["--enable-lora", "--max-lora-rank", str(vllm_server.room_for_rank(settings.lora_rank))]
        # vLLM reads an adapter that it has pushed out of memory again from its files, which may be gone then.
        command += ["--max-loras", str(LOADED_ADAPTERS), "--max-cpu-loras", str(2 * LOADED_ADAPTERS)]
    return command


def server_environment(settings: ServerSettings, environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment of a rollout server, from that of the trainer.

    Args:
        settings: what the server is started with.
        environment: that of the trainer.
        folder: where the server puts its temporary files, which a killed vLLM leaves behind.
    """
    inherited = {name: value for name, value in environment.items() if name not in _OF_TRAINING}
    changes = {
        **vllm_server.ENVIRONMENT,
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Adapters, or else whole weights, are loaded while the server runs.
        **({"VLLM_SERVER_DEV_MODE": "1"} if settings.lora_rank is None else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}),
    }
    if settings.devices:
        changes["CUDA_VISIBLE_DEVICES"] = ",".join(settings.devices)
    else:
        # The trainer computes on the same processors, in turns with the server.
        changes |= {"OMP_NUM_THREADS": str(settings.threads), **vllm_server.SHARED_CPUS}
    # A longer path would have no room for the names of sockets; then vLLM uses the folder that it chooses by itself.
    if len(os.fsencode(folder)) + 1 + _SOCKET_NAME <= _SOCKET_PATH:
        changes["VLLM_RPC_BASE_PATH"] = str(folder)
        if not settings.devices:  # what is compiled for GPUs is kept in TMPDIR for the next server
            changes["TMPDIR"] = str(folder)
    return {**inherited, **changes}
