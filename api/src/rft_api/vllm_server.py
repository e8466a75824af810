"""What vLLM servers are started with, whoever starts them: trainers, pods of endpoints, and `rft serve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from rft_api.inference_endpoint import Serving

LoRARank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
"""The ranks that vLLM has room for; an adapter of another rank gets the next one."""

SAFE_ARGUMENTS: Final = (
    "--no-trust-remote-code",  # code that comes with a model is never executed, whatever vLLM's default is
    # What a request leaves out about sampling is as in the evaluation of a tuned model, and not as the model's
    # generation_config.json says. (vLLM takes the EOS tokens from that file nevertheless.)
    "--generation-config", "vllm",
)  # fmt: skip
"""Arguments of every server."""
QUIET_ARGUMENTS: Final = ("--disable-uvicorn-access-log", "--no-enable-log-requests")
"""Arguments of servers on which another program reports."""
METERED_ARGUMENTS: Final = ("--enable-prompt-tokens-details",)
"""Arguments of servers behind a gateway: answers state how many tokens of their prompt were in the cache."""
_NO_DOMAIN: Final = "none: send media as data: URLs"
"""In the place of a domain: no URL has it, because names of hosts have no spaces. vLLM repeats it to the client."""
ENVIRONMENT: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # all files are there before the server starts
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # a redirect would lead away from the domains that media may come from
}
"""Environment variables of every server."""
LOADER_ENVIRONMENT: Final = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
"""Environment variables of servers whose adapters a loader loads and unloads."""
SHARED_CPUS: Final = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other programs compute on the same processors
    "TORCHDYNAMO_DISABLE": "1",
}
"""Environment variables of servers on CPUs that they share with other programs of the machine."""


def cpu_arguments(cache_bytes: int) -> list[str]:
    """Return the arguments of a server on CPUs.

    vLLM only compares the share of the memory with what is free; by default, it wants nearly all of the machine's.

    Args:
        cache_bytes: memory for keys and values.
    """
    return ["--enforce-eager", "--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", str(cache_bytes)]


def serving_arguments(serving: Serving) -> list[str]:
    """Return the arguments that follow from the settings of an endpoint."""
    arguments = media_arguments(serving.media_domains)
    if serving.max_model_length is not None:
        arguments += ["--max-model-len", str(serving.max_model_length)]
    if serving.max_adapters:
        arguments += ["--enable-lora", "--max-loras", str(serving.max_adapters)]
        arguments += ["--max-lora-rank", str(serving.max_adapter_rank)]
    if serving.gpus > 1:
        arguments += ["--tensor-parallel-size", str(serving.gpus)]
    if serving.precision != "Auto":
        arguments += ["--dtype", serving.precision.lower()]
    return arguments


def media_arguments(domains: Sequence[str]) -> list[str]:
    """Return the arguments of a server that fetches media from these domains only; data: URLs are always accepted.

    Without them, and with an empty list, vLLM fetches whatever URL a client names, from inside the cluster.

    Args:
        domains: names of hosts, as they are in URLs.
    """
    return ["--allowed-media-domains", *(domains or [_NO_DOMAIN])]


def room_for_rank(rank: int) -> int:
    """Return the smallest rank that vLLM has room for an adapter of this rank at.

    Raises:
        ValueError: when the rank is larger than all of them.
    """
    ranks: tuple[int, ...] = get_args(LoRARank)
    return min(size for size in ranks if size >= rank)
