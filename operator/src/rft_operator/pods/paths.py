"""Folders inside the pods that the operator makes."""

from __future__ import annotations

from typing import Final

MOUNTS: Final = "/mnt/rft"
"""Folder below which user's volumes are mounted."""
SCRATCH: Final = "/scratch"
"""Writable folder that goes with the pod; holds HOME and TMPDIR."""
CONFIGURATION: Final = "/etc/rft"
"""Folder of the configuration that the operator wrote."""
TOKENS: Final = "/var/run/rft/rewards"
"""Folder of the reward servers' tokens, one folder a reward function."""
