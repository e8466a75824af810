"""Which checkpoints a run writes and keeps, as its manifest states it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import Integer


class Checkpoints(Model):
    """The checkpoints of a run. The weights of the three best validations are kept in any case."""

    interval: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Number of optimizer steps between two checkpoints from which the run can resume. A checkpoint is always written
    after the last step, and when the run is told to stop. By default a checkpoint is written at each validation."""
    keep: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Number of checkpoints that are kept so that the run can resume from them. The newest ones are kept. They contain
    the state of the optimizer, which is several times as large as the weights with tuning type Full."""
