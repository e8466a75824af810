"""Names and ports of what belongs to a RewardFunction."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

REWARD_SERVER: Final = "reward-server"
"""Name of the reward server's container."""
REWARD_PORT: Final = 8080


def reward_server(function: str) -> str:
    """Deployment, Service and NetworkPolicy of a reward function."""
    return bounded(function, "reward")


def reward_configuration(function: str, digest: str) -> str:
    """ConfigMap with a reward function's code; another for other code."""
    return bounded(function, f"reward-{digest[:10]}")


def reward_token(function: str, uid: str) -> str:
    """Secret with a reward server's token; another for a function made anew under the same name."""
    return bounded(function, f"reward-token-{uid[:8]}")


def reward_url(function: str, namespace: str) -> str:
    """Base URL of a reward function's server."""
    return f"http://{reward_server(function)}.{namespace}.svc:{REWARD_PORT}"
