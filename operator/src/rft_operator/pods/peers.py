"""Who may connect to pods, and to which port, as network policies of several resources say it."""

from __future__ import annotations

from rft_api.model import Json
from rft_operator.settings import Settings


def namespace_peer(namespace: str) -> Json:
    """Return the peer of a network policy that stands for all pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def system_peers(settings: Settings) -> list[Json]:
    """Return the peers that reach every pod with metrics: the operator's namespace, and that of Prometheus."""
    namespaces = (settings.namespace, settings.metrics_namespace)
    return [namespace_peer(namespace) for namespace in namespaces if namespace is not None]


def tcp_port(number: int) -> Json:
    """Return the port of a network policy."""
    return {"protocol": "TCP", "port": number}
