"""Resolve the addresses of a job on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_api.addresses import Address, job_addresses, locate_on_hub
from rft_api.files import atomic_write
from rft_api.rft_job import RFTJob

INPUTS = ".inputs"
"""Name of the folder in the output folder to which texts of ConfigMaps are written as files."""


@dataclass(frozen=True)
class Places:
    """The folders and ConfigMaps with which the addresses of a job become paths that the trainer can open."""

    folder: Path
    """The folder of the job's manifest, to which paths are relative."""
    output: Path
    """The folder of the run."""
    config_maps: Mapping[str, Mapping[str, str]]
    """The texts of the ConfigMaps among the manifests, by name and key."""

    def locate(self, uri: str) -> str:
        """Return what the trainer opens: a path, OWNER/NAME of a model on the hub, or the address of what it copies."""
        address = Address((), "data", uri)
        if address.scheme == "s3":
            return uri
        if address.scheme == "hf":
            return locate_on_hub(uri)
        if address.scheme == "configmap":
            return str(self._input(address))
        return str((self.folder / Path(uri).expanduser()).resolve())

    def write_inputs(self, job: RFTJob) -> None:
        """Write the texts of the job's configmap:// addresses to files."""
        for address in job_addresses(job):
            if address.scheme == "configmap":
                atomic_write(self._input(address), self._text(address))

    def _text(self, address: Address) -> str:
        """Return the text of a configmap:// address."""
        name, key = address.config_map_key
        return self.config_maps[name][key]

    def _input(self, address: Address) -> Path:
        # The path contains a digest of the text, so that a run is not resumed with data other than it started with.
        name, key = address.config_map_key
        digest = hashlib.sha256(self._text(address).encode()).hexdigest()[:12]
        return self.output / INPUTS / f"{name}-{digest}" / key.replace("/", "_")
