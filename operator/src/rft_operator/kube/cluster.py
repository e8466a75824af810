"""The API server as the operator uses it: a few verbs on a few kinds, with plain dictionaries in and out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient

from rft_api.model import Json
from rft_operator.kube import names
from rft_operator.kube.kinds import KINDS

REQUEST_SECONDS = 30.0
PAGE = 100
"""Objects that are read at once."""

# An API server that has just started knows no roles yet.
_WITHOUT_RIGHT = re.compile(r'User ".*" cannot \w+ resource ')


class Unavailable(Exception):
    """The API server cannot be asked now, or does not let the operator do what it may do."""


class Refused(Exception):
    """The API server does not take an object as it is; the message is for the user."""


class Conflict(Exception):
    """An object exists already, is gone, or is not the version that was expected."""


class Cluster:
    """A connection to the API server.

    Every method raises Unavailable when the API server cannot be asked.

    Attributes:
        interrupted: set when it could not be reached. Watches may have lost something then: those that find too much
            gone begin anew, without a word of what was deleted meanwhile.
    """

    def __init__(self, api_client: client.ApiClient):
        # Only its request method is used: paths are known, nothing has to be discovered.
        self._client = DynamicClient(api_client)  # type: ignore[no-untyped-call]
        self.interrupted = asyncio.Event()

    async def served(self, api_version: str) -> set[str]:
        """Plural names of the resources that the API server knows of a group and version."""
        try:
            found = await self._request("get", f"/apis/{api_version}")
        except ApiException as error:
            if error.status == 404:
                return set()
            raise
        return {resource["name"] for resource in found["resources"]}

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """An object, or none."""
        try:
            return await self._request("get", _path(kind, namespace, name))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str | None) -> AsyncIterator[tuple[list[Json], int]]:
        """All objects of a kind that are watched, a page at a time, with the version that all pages were read at.

        Without a namespace, those of all namespaces.
        """
        token = ""
        while True:
            page = await self._request(
                "get", _path(kind, namespace), label_selector=KINDS[kind].selector, limit=PAGE, _continue=token or None
            )
            items = [{"apiVersion": page["apiVersion"], "kind": kind, **item} for item in page["items"]]
            yield items, int(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def create(self, obj: Json) -> Json:
        """Creates an object.

        Raises:
            Conflict: when one of that name exists.
            Refused: when the API server finds it wrong.
        """
        return await self._write("post", _path(obj["kind"], obj["metadata"]["namespace"]), obj)

    async def apply(self, obj: Json, subresource: str = "") -> Json:
        """Server-side apply as the one field manager, taking over fields that others have changed.

        Raises:
            Conflict: when the object is not the one with this uid any more.
            Refused: when the API server finds it wrong.
        """
        path = _path(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"], subresource)
        return await self._write("patch", path, obj, content_type="application/apply-patch+yaml", force_conflicts=True)

    async def replace(self, obj: Json) -> Json:
        """Replaces an object if it is still at the version that `obj` has.

        Raises:
            Conflict: when it is not.
        """
        return await self._write("put", _path(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]), obj)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        """Deletes the object with this uid, and what hangs on it; returns whether it was there."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("delete", _path(kind, namespace, name), body=options)
        except ApiException as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    async def _write(self, method: str, path: str, obj: Json, **options: Any) -> Json:
        try:
            return await self._request(method, path, body=obj, field_manager=names.FIELD_MANAGER, **options)
        except ApiException as error:
            if error.status in (404, 409):
                raise Conflict(_message(error)) from None
            if error.status in (400, 403, 422):
                raise Refused(_message(error)) from None
            raise

    async def _request(self, method: str, path: str, **options: Any) -> Json:
        try:
            answer: Json = await self._client.request(
                method, path, serializer=lambda _, data: data, _request_timeout=REQUEST_SECONDS, **options
            )
        except ApiException as error:
            if error.status in (400, 403, 404, 409, 422) and not _WITHOUT_RIGHT.search(_message(error)):
                raise
            raise Unavailable(f"HTTP {error.status}: {_message(error)}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.interrupted.set()
            raise Unavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        return answer


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    """Connects as KUBECONFIG says, or as the pod that this runs in."""
    configuration = client.Configuration()
    await config.load_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    # Proxies of the environment are looked up in a thread, for every request.
    configuration.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(configuration) as api_client:
        yield Cluster(api_client)


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    row = KINDS[kind]
    parts = [row.root, *(["namespaces", namespace] if namespace else []), row.plural, name, subresource]
    return "/".join(part for part in parts if part)


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
