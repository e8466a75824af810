"""Limits how many names of components a run records, because the code of a reward chooses them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import get_args

import pyarrow.parquet as pq

from rft_api.component_names import MOST_RECORDED_NAMES
from rft_api.run_folder import COMPONENT_COLUMN_PREFIX, RunFolder, Stage
from rft_trainer.metrics_log import read_steps, read_validations
from rft_trainer.rollouts import ScoredCompletion

log = logging.getLogger(__name__)


class ComponentLimit:
    """The names of a run's components: the first `MOST_RECORDED_NAMES`, in the order of the completions.

    Args:
        names: those that earlier starts of the run have recorded.
    """

    def __init__(self, names: Iterable[str] = ()):
        self._names = set(names)
        self._is_said = False

    def apply(self, rows: Sequence[ScoredCompletion]) -> int:
        """Remove the components of further names from completions, and say so once in the log.

        Returns:
            How many components of these completions are left out; those beyond the limit of a completion count, too.
        """
        for row in rows:
            for name in [name for name in row.components if name not in self._names]:
                if len(self._names) < MOST_RECORDED_NAMES:
                    self._names.add(name)
                else:
                    del row.components[name]
                    row.components_left_out += 1
        left_out = sum(row.components_left_out for row in rows)
        if left_out and not self._is_said:
            self._is_said = True
            log.warning(
                "the reward names more than %d components: others are left out of metrics, files and tables, now %d "
                "values of %d completions. The rewards themselves are not changed. Give components fixed names.",
                MOST_RECORDED_NAMES, left_out, len(rows),
            )  # fmt: skip
        return left_out


def recorded_names(folder: RunFolder) -> set[str]:
    """Return the names of components that a run has recorded so far, in its metrics and evaluations."""
    names = {name for step in read_steps(folder) for name in step.components}
    names |= {name for validation in read_validations(folder) for name in validation.components}
    for stage in get_args(Stage):
        file = folder.evaluation(stage)
        if file.exists():
            columns = pq.read_schema(file).names
            names |= {c.removeprefix(COMPONENT_COLUMN_PREFIX) for c in columns if c.startswith(COMPONENT_COLUMN_PREFIX)}
    return names
