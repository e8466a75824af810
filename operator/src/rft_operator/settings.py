"""What the operator is told at its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Images:
    """The images of the pods that the operator makes."""

    trainer: str
    """rft_trainer."""
    reward: str
    """rft_reward."""
    server_cuda: str
    """vLLM for GPUs."""
    server_cpu: str
    """vLLM for CPUs."""
    loader: str
    """Fetches models and adapters beside a server."""


@dataclass(frozen=True)
class Settings:
    """The operator's settings, the same for every object."""

    images: Images
    """Images of the pods."""
    namespace: str
    """Namespace that the operator runs in: network policies let its probes in, its lease lies there."""
    metrics_namespace: str | None = None
    """Namespace of Prometheus, which network policies let in; none when absent."""
    namespaces: tuple[str, ...] = ()
    """Namespaces whose objects are looked after; all when empty."""
    poll_seconds: float = 15.0
    """Time between two looks at what Kubernetes does not announce: a run's progress, a server's answers."""
