"""Makes the objects of the cluster that the API creates, and refuses a request whose objects would not be valid."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from rft_api.foreign.text import one_line
from rft_api.manifests import describe_invalid
from rft_api.model import Json
from rft_api.object_labels import MANAGED_BY
from rft_api.resource import API_VERSION
from rft_gateway.errors import ApiError

MANAGER: Final = "rft-gateway"
"""Value of the label app.kubernetes.io/managed-by of what the API has made."""


def make_object(kind: str, place: tuple[str, str], annotations: Json, spec: Json) -> Json:
    """Return an object of a kind.

    Args:
        kind: the kind.
        place: its namespace and name.
        annotations: its annotations; none if they are empty.
        spec: its spec.
    """
    namespace, name = place
    metadata: Json = {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def validate(model: type[Any], document: Json, param: str | None) -> Any:
    """Return an object as its model.

    Args:
        model: the model of its kind.
        document: the object.
        param: the field of the request that it was made of.

    Raises:
        ApiError: 400 when it is not valid.
    """
    try:
        return model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as invalid:
        problem = describe_invalid(document, invalid)
        message = f"the {document['kind']} of this request would not be valid: {problem}"
        raise ApiError(400, one_line(message, 4000), param=param, code="invalid_job") from None
