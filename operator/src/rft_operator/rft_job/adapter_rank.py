"""Defaults that rft_api.render fills in and that serving depends on."""

from __future__ import annotations

from rft_api.render import DEFAULT_LORA_RANK
from rft_api.rft_job import RFTJob


def adapter_rank(job: RFTJob) -> int | None:
    """Rank of the adapter that a job trains; none when it trains a whole model."""
    if job.spec.tuning.type == "Full":
        return None
    return job.spec.tuning.rank or DEFAULT_LORA_RANK
