"""What a job's addresses mean on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_api.addresses import Address, job_addresses
from rft_api.files import atomic_write
from rft_api.rft_job import RFTJob

INPUTS = ".inputs"
"""Folder inside the output where texts of ConfigMaps become files."""


@dataclass(frozen=True)
class Places:
    """Turns a job's addresses into what the trainer opens on this machine."""

    folder: Path
    """Relative paths start here: the folder of the job's manifest."""
    output: Path
    """The run's folder."""
    config_maps: Mapping[str, Mapping[str, str]]
    """The ConfigMaps among the manifests."""

    def locate(self, uri: str) -> str:
        """A path, OWNER/NAME of a model on the Hugging Face hub, or an s3:// address, which the trainer fetches."""
        address = Address((), "data", uri)
        if address.scheme == "s3":
            return uri
        if address.scheme == "hf":
            return uri.removeprefix("hf://")
        if address.scheme == "configmap":
            return str(self._input(address))
        return str((self.folder / Path(uri).expanduser()).resolve())

    def write_inputs(self, job: RFTJob) -> None:
        """Writes the files that the job's configmap:// addresses stand for."""
        for address in job_addresses(job):
            if address.scheme == "configmap":
                atomic_write(self._input(address), self._text(address))

    def _text(self, address: Address) -> str:
        name, key = address.config_map_key
        return self.config_maps[name][key]

    def _input(self, address: Address) -> Path:
        # The digest makes other contents another path, so that a run does not go on with data it did not start with.
        name, key = address.config_map_key
        digest = hashlib.sha256(self._text(address).encode()).hexdigest()[:12]
        return self.output / INPUTS / f"{name}-{digest}" / key.replace("/", "_")
