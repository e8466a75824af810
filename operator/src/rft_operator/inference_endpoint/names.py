"""Names, ports and folders of what belongs to an InferenceEndpoint."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

SERVER: Final = "server"
"""Name of the server's container."""
SERVER_PORT: Final = 8000
LOADER_PORT: Final = 8081
MODELS: Final = "/models"
"""Folder that the loader and the server share."""


def server(endpoint: str) -> str:
    """Deployment of an endpoint's server, and the Service of every endpoint."""
    return bounded(endpoint, "server")


def adapter_list(endpoint: str) -> str:
    """ConfigMap with the adapters that a server serves beside its base model."""
    return bounded(endpoint, "adapters")


def endpoint_url(endpoint: str, namespace: str) -> str:
    """Base URL of an endpoint's OpenAI-compatible API."""
    return f"http://{server(endpoint)}.{namespace}.svc:{SERVER_PORT}/v1"
