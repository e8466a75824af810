"""Which checkpoints a run writes and keeps, as its manifest states it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import Integer


class Checkpoints(Model):
    """The checkpoints of a run. The weights of the three best validations are kept in any case."""

    interval: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Number of optimizer steps between two checkpoints from which the run can resume. The last step, and a run that is
    told to stop, always write one. By default one is written at each validation."""
    keep: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Number of checkpoints from which the run can resume that are kept: the newest ones. They hold the state of the
    optimizer, which with tuning type Full is several times as large as the weights."""
