"""Names and ports of the children of a RewardFunction."""

from __future__ import annotations

import hashlib
from typing import Final

from rft_api.object_names import reward_configuration, reward_server, reward_token

__all__ = ["REWARD_PORT", "REWARD_SERVER", "reward_configuration", "reward_server", "reward_token", "reward_url"]

REWARD_SERVER: Final = "reward-server"
"""Name of the container of a reward server."""
PACKAGE_INSTALLER: Final = "packages"
"""Name of the init container that installs the packages that reward code declares."""
REWARD_PORT: Final = 8080
_USERS: Final = range(20000, 60000)
"""Numbers of users that no image and no other pod of ours has, and that a pod's user namespace has."""


def reward_url(function: str, namespace: str) -> str:
    """Return the base URL of the server of a reward function."""
    return f"http://{reward_server(function)}.{namespace}.svc:{REWARD_PORT}"


def reward_user(namespace: str, function: str) -> int:
    """Return the number of the user of a function's reward servers, which is hardly ever that of another function.

    The kernel counts the processes and threads of a user in all pods of a node, also those of trainers. With a user of
    its own, a reward server can limit the processes of reward code.
    """
    digest = hashlib.sha256(f"{namespace}/{function}".encode()).digest()
    return _USERS[int.from_bytes(digest[:8]) % len(_USERS)]
