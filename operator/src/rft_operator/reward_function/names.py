"""Names and ports of the children of a RewardFunction."""

from __future__ import annotations

from typing import Final

from rft_api.object_names import reward_configuration, reward_server, reward_token

__all__ = ["REWARD_PORT", "REWARD_SERVER", "reward_configuration", "reward_server", "reward_token", "reward_url"]

REWARD_SERVER: Final = "reward-server"
"""Name of the container of a reward server."""
PACKAGE_INSTALLER: Final = "packages"
"""Name of the init container that installs the packages that reward code declares."""
REWARD_PORT: Final = 8080


def reward_url(function: str, namespace: str) -> str:
    """Return the base URL of the server of a reward function."""
    return f"http://{reward_server(function)}.{namespace}.svc:{REWARD_PORT}"
