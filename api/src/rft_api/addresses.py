"""The addresses that jobs and endpoints state: of models, data, outputs and adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rft_api.data_formats import FORMATS
from rft_api.hub_address import DATASETS, SCHEME
from rft_api.inference_endpoint import ADAPTER_ADDRESS, InferenceEndpoint
from rft_api.model import Location
from rft_api.rft_job import RFTJob


@dataclass(frozen=True)
class Address:
    """An address and its place in the document."""

    location: Location
    role: Literal["model", "data", "output", "adapter"]
    uri: str
    many: bool = False
    """Whether the address may be that of a folder, or of a prefix, with many files."""

    @property
    def scheme(self) -> str:
        """The scheme, which precedes `://`; empty for a path."""
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", self.uri)
        return match.group(1) if match else ""

    @property
    def config_map_key(self) -> tuple[str, str]:
        """Name and key of a `configmap://NAME/KEY`; the key is empty when the address lacks it."""
        name, _, key = self.uri.removeprefix("configmap://").partition("/")
        return name, key


def job_addresses(job: RFTJob) -> list[Address]:
    """Return all addresses of a job."""
    return [
        Address(("spec", "model", "uri"), "model", job.spec.model.uri),
        *(
            Address(
                ("spec", *item.location, "uri"),
                "data",
                item.source.uri,
                many=FORMATS[item.source.format].files is not None,
            )
            for item in job.spec.sources()
        ),
        Address(("spec", "output", "uri"), "output", job.spec.output.uri),
    ]


def endpoint_address(endpoint: InferenceEndpoint) -> Address:
    """Return the address of an endpoint: of its model, or of its adapter."""
    if endpoint.spec.adapter is not None:
        return Address(ADAPTER_ADDRESS, "adapter", endpoint.spec.adapter.uri)
    assert endpoint.spec.model is not None  # it has one of the two
    return Address(("spec", "model", "uri"), "model", endpoint.spec.model.uri)


def is_stored(uri: str) -> bool:
    """Return whether an address is in an object store, not on a file system."""
    return uri.startswith("s3://")


def is_remote(uri: str) -> bool:
    """Return whether data must be copied before it can be read: from an object store, or from the Hugging Face hub."""
    return is_stored(uri) or uri.startswith(SCHEME)


def locate_on_hub(uri: str) -> str:
    """Return what the trainer opens for an hf:// address: OWNER/NAME of a model, or the address of a dataset."""
    return uri if uri.startswith(DATASETS) else uri.removeprefix(SCHEME)
