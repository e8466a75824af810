"""The settings of the operator, from its command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from rft_api.bounds import Bounds
from rft_api.reward_function import Egress


@dataclass(frozen=True)
class Images:
    """The images of the pods that the operator creates."""

    trainer: str
    """Image of trainers, with rft_trainer."""
    reward: str
    """Image of reward servers, with rft_reward."""
    server_cuda: str
    """Image of servers with GPUs, with vLLM."""
    server_cpu: str
    """Image of servers without GPUs, with vLLM for CPUs."""
    loader: str
    """Image of loaders, which fetch models and adapters for a server."""


@dataclass(frozen=True)
class PackageIndex:
    """Where the packages that reward code declares are installed from."""

    url: str | None = None
    """URL of a package index (PEP 503); that of PyPI when it is None."""
    egress: tuple[Egress, ...] = (Egress(cidr="0.0.0.0/0", port=443),)
    """The network destinations of the index, which the reward servers of functions with requirements may connect to."""


@dataclass(frozen=True)
class Settings:
    """The settings of the operator, which are the same for every resource."""

    images: Images
    """Images of the pods that the operator creates."""
    namespace: str
    """Namespace of the operator, with its Lease; network policies allow connections from it."""
    metrics_namespace: str | None = None
    """Namespace of Prometheus, from which network policies allow connections; None when there is none."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that the operator watches; all when empty."""
    exclusive_gateway: str | None = None
    """Base URL of the gateway, if clients may ask the servers of endpoints through it only; None if every pod may ask
    them."""
    package_index: PackageIndex = PackageIndex()
    """Where the packages that reward code declares are installed from."""
    bounds: Bounds = field(default_factory=Bounds)
    """What the `pod` and `egress` fields of manifests may ask for."""
    gpu_hour_price: Decimal | None = None
    """What a GPU costs for an hour; None when that is not stated."""
    gateway_demand: tuple[str, ...] = ()
    """Addresses at which gateways tell what they are asked for, such as http://HOST:PORT."""
    poll_seconds: float = 15.0
    """Seconds between two requests for what cannot be watched: the progress of a run, the answers of a server."""
