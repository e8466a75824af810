"""Turns the addresses of a spec into volumes of a pod and into what the pod opens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from rft_api import hub_address
from rft_api.addresses import job_addresses as located_addresses
from rft_api.model import Json, format_location
from rft_api.rft_job import RFTJob
from rft_operator.pods import paths

Role = Literal["model", "data", "output", "adapter"]

_SCHEMES: dict[Role, tuple[str, ...]] = {
    "model": ("hf", "s3", "pvc"),
    "data": ("s3", "configmap", "pvc"),
    "output": ("s3", "pvc"),
    "adapter": ("s3", "pvc"),
}
_SHAPES = {
    "hf": (hub_address.PATTERN, hub_address.SHAPE),
    "s3": (r"[^/\s]+/\S+", "s3://BUCKET/KEY"),
    "pvc": (r"[a-z0-9][-a-z0-9.]*(/.*)?", "pvc://CLAIM/PATH"),
    "configmap": (r"[a-z0-9][-a-z0-9.]*/[-._a-zA-Z0-9]+", "configmap://NAME/KEY"),
}


class AddressProblem(ValueError):
    """An address that a pod cannot open."""


@dataclass(frozen=True)
class Address:
    """An address of a spec and where it stands there."""

    path: str
    """Such as `spec.model.uri`."""
    role: Role
    """What is there."""
    uri: str
    """The address."""

    def split(self) -> tuple[str, str]:
        """Scheme and the rest.

        Raises:
            AddressProblem: when a pod cannot open it.
        """
        scheme, separator, rest = self.uri.partition("://")
        usable = ", ".join(f"{name}://" for name in _SCHEMES[self.role])
        if not separator:
            raise AddressProblem(f"{self.path}: {self.uri} is a path, which only local runs can open; use {usable}")
        if scheme not in _SCHEMES[self.role]:
            raise AddressProblem(f"{self.path}: {scheme}:// is not supported here; use {usable}")
        pattern, shape = _SHAPES[scheme]
        if not re.fullmatch(pattern, rest) or ".." in rest.split("/"):
            raise AddressProblem(f"{self.path}: {self.uri} must look like {shape}")
        return scheme, rest


def job_addresses(job: RFTJob) -> list[Address]:
    """Every address of a job."""
    return [Address(format_location(found.location), found.role, found.uri) for found in located_addresses(job)]


def check_addresses(job: RFTJob) -> None:
    """Looks for an address that a pod cannot open.

    Raises:
        AddressProblem: with the first.
    """
    for address in job_addresses(job):
        address.split()


@dataclass
class Mounts:
    """Volumes of a pod for the addresses that need one, each claim and ConfigMap mounted once."""

    claims: dict[str, bool] = field(default_factory=dict)
    """Claims, and whether something is written to them."""
    config_maps: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, addresses: Iterable[Address]) -> Mounts:
        """The mounts that these addresses need.

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
        """The pod's volumes."""
        return [
            *(
                {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": name}}
                for i, name in enumerate(sorted(self.claims))
            ),
            *({"name": f"data-{i}", "configMap": {"name": name}} for i, name in enumerate(sorted(self.config_maps))),
        ]

    def volume_mounts(self) -> list[Json]:
        """The container's mounts of them."""
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
    """What a pod opens for an address: a path below its mounts, or the address itself where a library fetches it."""
    scheme, _, rest = uri.partition("://")
    if scheme in ("pvc", "configmap"):
        return f"{paths.MOUNTS}/{scheme}/{rest}".rstrip("/")
    return uri.removeprefix("hf://")
