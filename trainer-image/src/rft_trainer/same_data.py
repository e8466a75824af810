"""Checks that all processes of a run have read the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from rft_api.exit_codes import ExitCode, RunError
from rft_api.prompts import Conversation, Prompt
from rft_trainer.distributed import gather


def check_same_data(rows: Iterable[Prompt | Conversation]) -> None:
    """Compare the rows that this process has read with those of all other processes; all of them must call this.

    Each machine copies its inputs itself. If they change meanwhile, such as the branch of a dataset on the hub,
    machines would train on different rows, and the shares of an evaluation would be of different prompts.

    Raises:
        RunError: DATA_INVALID, on every process, when the rows of processes differ.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True, default=str).encode())
    digests = gather(digest.hexdigest())
    different = [str(process) for process, other in enumerate(digests) if other != digests[0]]
    if different:
        raise RunError(
            ExitCode.DATA_INVALID,
            f"processes have read different data: those of {', '.join(different)} differ from that of process 0. "
            f"What is at the addresses of the data has changed while machines copied it; start the run again. A commit "
            f"in hf://datasets/OWNER/NAME@COMMIT never changes.",
        )
