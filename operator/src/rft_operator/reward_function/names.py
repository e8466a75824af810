"""Names and ports of the children of a RewardFunction."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

REWARD_SERVER: Final = "reward-server"
"""Name of the container of a reward server."""
REWARD_PORT: Final = 8080


def reward_server(function: str) -> str:
    """Return the name of the Deployment, the Service and the NetworkPolicy of a reward function."""
    return bounded(function, "reward")


def reward_configuration(function: str, digest: str) -> str:
    """Return the name of the ConfigMap with the code of a reward function; it depends on the code."""
    return bounded(function, f"reward-{digest[:10]}")


def reward_token(function: str, uid: str) -> str:
    """Return the name of the Secret with the token of a reward server; it depends on the uid of the function."""
    return bounded(function, f"reward-token-{uid[:8]}")


def reward_url(function: str, namespace: str) -> str:
    """Return the base URL of the server of a reward function."""
    return f"http://{reward_server(function)}.{namespace}.svc:{REWARD_PORT}"
