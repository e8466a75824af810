"""Addresses in a job (model, data, output) and what they mean on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_api.rft_job import RFTJob

INPUTS = ".inputs"
"""Folder inside the output where texts of ConfigMaps become files."""

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class Address:
    """An address and where the job states it."""

    location: Location
    role: Literal["model", "data", "output"]
    uri: str

    @property
    def scheme(self) -> str:
        """What stands before `://`; empty for a path."""
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", self.uri)
        return match.group(1) if match else ""

    @property
    def config_map_key(self) -> tuple[str, str]:
        """Name and key of a `configmap://NAME/KEY`; the key is empty when the address lacks it."""
        name, _, key = self.uri.removeprefix("configmap://").partition("/")
        return name, key


def job_addresses(job: RFTJob) -> list[Address]:
    """Every address of a job."""
    data, warmup = job.spec.data, job.spec.warmup
    found = [Address(("spec", "model", "uri"), "model", job.spec.model.uri)]
    for field, sources in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for index, source in enumerate(sources or []):
            found.append(Address(("spec", "data", field, index, "uri"), "data", source.uri))
    for index, conversations in enumerate(warmup.data if warmup else []):
        found.append(Address(("spec", "warmup", "data", index, "uri"), "data", conversations.uri))
    return [*found, Address(("spec", "output", "uri"), "output", job.spec.output.uri)]


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
                path = self._input(address)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._text(address), encoding="utf-8")

    def _text(self, address: Address) -> str:
        name, key = address.config_map_key
        return self.config_maps[name][key]

    def _input(self, address: Address) -> Path:
        # The digest makes other contents another path, so that a run does not go on with data it did not start with.
        name, key = address.config_map_key
        digest = hashlib.sha256(self._text(address).encode()).hexdigest()[:12]
        return self.output / INPUTS / f"{name}-{digest}" / key.replace("/", "_")
