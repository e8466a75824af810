"""Folders inside the pods that the operator creates."""

from __future__ import annotations

from typing import Final

MOUNTS: Final = "/mnt/rft"
"""Folder below which claims and ConfigMaps of users are mounted."""
SCRATCH: Final = "/scratch"
"""Writable folder that lives as long as the pod; HOME and TMPDIR point to it."""
CONFIGURATION: Final = "/etc/rft"
"""Folder of the configuration that the operator has written."""
TOKENS: Final = "/var/run/rft/rewards"
"""Folder of the tokens of reward servers; a trainer's pod has one folder in it per RewardFunction."""
PACKAGES: Final = "/packages"
"""Folder below which the packages that reward code declares are installed."""
