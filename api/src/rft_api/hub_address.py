"""Addresses on the Hugging Face hub: of models, `hf://OWNER/NAME`, and of datasets, `hf://datasets/OWNER/NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "hf://"
SHAPE = "hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
PATTERN = r"([^/@\s]+/[^/@\s]+)(?:@(\S+))?"
"""What follows the scheme. A revision is a branch, a tag or a commit, and may hold slashes."""


@dataclass(frozen=True)
class HubAddress:
    """A model on the hub."""

    repository: str
    """OWNER/NAME."""
    revision: str | None = None
    """Branch, tag or commit; the main branch when absent."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


DATASETS = f"{SCHEME}datasets/"
DATASET_SHAPE = f"{DATASETS}OWNER/NAME, with @REVISION and /PATH if they are needed"
DATASET_PATTERN = r"datasets/([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?(?:/(\S*))?"
"""What follows the scheme of a dataset."""


@dataclass(frozen=True)
class DatasetAddress:
    """A file or folder of a dataset on the hub, in the form of Hugging Face's own tools."""

    repository: HubAddress
    path: str
    """The path of the file or folder in the repository; empty for all of it."""

    def __str__(self) -> str:
        repository = str(self.repository).removeprefix(SCHEME)
        return f"{DATASETS}{repository}" + (f"/{self.path}" if self.path else "")


def parse_dataset_address(text: str) -> DatasetAddress | None:
    """Return the dataset that an address names; None when it has another shape."""
    match = re.fullmatch(SCHEME + DATASET_PATTERN, text)
    if match is None:
        return None
    return DatasetAddress(HubAddress(match.group(1), match.group(2)), (match.group(3) or "").strip("/"))


def parse_hub_address(text: str) -> HubAddress | None:
    """Return the model that an address names, with or without its scheme; None when it has another shape."""
    match = re.fullmatch(PATTERN, text.removeprefix(SCHEME))
    return HubAddress(match.group(1), match.group(2)) if match else None
