"""Names, ports and folders of the children of an InferenceEndpoint."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

SERVER: Final = "server"
"""Name of the container of a server."""
SERVER_PORT: Final = 8000
LOADER_PORT: Final = 8081
MODELS: Final = "/models"
"""Folder of models and adapters, which the loader and the server share."""


def server(endpoint: str) -> str:
    """Return the name of the Deployment and the Service of an endpoint."""
    return bounded(endpoint, "server")


def adapter_list(endpoint: str) -> str:
    """Return the name of the ConfigMap with the list of the adapters that a server serves."""
    return bounded(endpoint, "adapters")


def endpoint_url(endpoint: str, namespace: str) -> str:
    """Return the base URL of the OpenAI-compatible API of an endpoint."""
    return f"http://{server(endpoint)}.{namespace}.svc:{SERVER_PORT}/v1"
