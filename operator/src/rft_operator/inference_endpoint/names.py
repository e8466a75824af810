"""Names, ports and folders of the children of an InferenceEndpoint."""

from __future__ import annotations

from typing import Final

from rft_api.object_names import adapter_list, server

__all__ = ["LOADER_PORT", "MODELS", "SERVER", "SERVER_PORT", "adapter_list", "endpoint_url", "server"]

SERVER: Final = "server"
"""Name of the container of a server."""
SERVER_PORT: Final = 8000
LOADER_PORT: Final = 8081
MODELS: Final = "/models"
"""Folder of models and adapters, which the loader and the server share."""


def endpoint_url(endpoint: str, namespace: str) -> str:
    """Return the base URL of the OpenAI-compatible API of an endpoint."""
    return f"http://{server(endpoint)}.{namespace}.svc:{SERVER_PORT}/v1"
