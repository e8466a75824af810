"""Addresses of a spec: which ones a pod can open, the volumes that they need, and the paths that the pod opens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from rft_api import hub_address
from rft_api.addresses import job_addresses as located_addresses
from rft_api.addresses import locate_on_hub
from rft_api.model import Json, format_location
from rft_api.rft_job import RFTJob
from rft_operator.pods import paths

Role = Literal["model", "data", "output", "adapter"]

_SCHEMES: dict[Role, tuple[str, ...]] = {
    "model": ("hf", "s3", "pvc"),
    "data": ("s3", "configmap", "pvc", "hf"),
    "output": ("s3", "pvc"),
    "adapter": ("s3", "pvc"),
}
_SHAPES = {
    "hf": (hub_address.PATTERN, hub_address.SHAPE),
    "s3": (r"[^/\s]+/\S+", "s3://BUCKET/KEY"),
    "pvc": (r"[a-z0-9][-a-z0-9.]*(/.*)?", "pvc://CLAIM/PATH"),
    "configmap": (r"[a-z0-9][-a-z0-9.]*/[-._a-zA-Z0-9]+", "configmap://NAME/KEY"),
}

_DATASET = (hub_address.DATASET_PATTERN, hub_address.DATASET_SHAPE)


class AddressProblem(ValueError):
    """Raised for an address that a pod cannot open."""


@dataclass(frozen=True)
class Address:
    """An address of a spec, with its place."""

    path: str
    """Place of the address, such as `spec.model.uri`."""
    role: Role
    """What the address leads to."""
    uri: str
    """The address itself."""

    def split(self) -> tuple[str, str]:
        """Split the address into its scheme and the rest.

        Raises:
            AddressProblem: when a pod cannot open the address.
        """
        scheme, separator, rest = self.uri.partition("://")
        usable = ", ".join(f"{name}://" for name in _SCHEMES[self.role])
        if not separator:
            raise AddressProblem(f"{self.path}: {self.uri} is a path, which only local runs can open; use {usable}")
        if scheme not in _SCHEMES[self.role]:
            raise AddressProblem(f"{self.path}: {scheme}:// is not supported here; use {usable}")
        pattern, shape = _DATASET if scheme == "hf" and self.role == "data" else _SHAPES[scheme]
        if not re.fullmatch(pattern, rest) or ".." in rest.split("/"):
            raise AddressProblem(f"{self.path}: {self.uri} must look like {shape}")
        return scheme, rest


def job_addresses(job: RFTJob) -> list[Address]:
    """Return all addresses of a job."""
    return [Address(format_location(item.location), item.role, item.uri) for item in located_addresses(job)]


def check_addresses(job: RFTJob) -> None:
    """Check that a pod can open all addresses of a job.

    Raises:
        AddressProblem: for the first address that a pod cannot open.
    """
    for address in job_addresses(job):
        address.split()


@dataclass
class Mounts:
    """The volumes that a pod needs for addresses; each claim and each ConfigMap is mounted once."""

    claims: dict[str, bool] = field(default_factory=dict)
    """Names of claims, with whether the pod writes to them."""
    config_maps: set[str] = field(default_factory=set)
    """Names of ConfigMaps."""

    @classmethod
    def of(cls, addresses: Iterable[Address]) -> Mounts:
        """Return the mounts that these addresses need.

        Raises:
            AddressProblem: for the first address that a pod cannot open.
        """
        mounts = cls()
        for address in addresses:
            scheme, rest = address.split()
            name = rest.partition("/")[0]
            if scheme == "pvc":
                mounts.claims[name] = mounts.claims.get(name, False) or address.role == "output"
            elif scheme == "configmap":
                mounts.config_maps.add(name)
        return mounts

    def volumes(self) -> list[Json]:
        """Return the volumes of the pod."""
        return [
            *(
                {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": name}}
                for i, name in enumerate(sorted(self.claims))
            ),
            *({"name": f"data-{i}", "configMap": {"name": name}} for i, name in enumerate(sorted(self.config_maps))),
        ]

    def volume_mounts(self) -> list[Json]:
        """Return the mounts of the volumes in a container."""
        return [
            *(
                {"name": f"claim-{i}", "mountPath": f"{paths.MOUNTS}/pvc/{name}", "readOnly": not written}
                for i, (name, written) in enumerate(sorted(self.claims.items()))
            ),
            *(
                {"name": f"data-{i}", "mountPath": f"{paths.MOUNTS}/configmap/{name}", "readOnly": True}
                for i, name in enumerate(sorted(self.config_maps))
            ),
        ]


def locate(uri: str) -> str:
    """Return what a pod opens for an address: a path in a volume, or the address for a library that fetches it."""
    scheme, _, rest = uri.partition("://")
    if scheme in ("pvc", "configmap"):
        return f"{paths.MOUNTS}/{scheme}/{rest}".rstrip("/")
    return locate_on_hub(uri)
