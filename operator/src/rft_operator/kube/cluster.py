"""A client of the API server: the verbs that the operator uses, with objects as plain dictionaries."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient

from rft_api.foreign.files import most_values
from rft_api.foreign.sizes import format_size
from rft_api.model import Json
from rft_operator.kube import names
from rft_operator.kube.kinds import EVENT, KINDS

log = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
PAGE_OBJECTS = 100
"""Number of objects that a list request reads at once. Objects of a large page are read one by one instead."""
_LARGEST_PAGE = 8 << 20
"""Bytes of a page in JSON: 100 usual jobs have 1 MiB."""
_MOST_VALUES = 200_000
"""Values of a page. 1.5 MiB in etcd may be 500,000 values, which take 80 bytes of memory each."""
_LARGEST_OBJECT = 16 << 20
"""Bytes of a page with one object: 1.5 MiB in etcd are 9 MiB in JSON if every character is a `<`."""
_MOST_EVENTS = 1000
_EVENT_BYTES = 8 << 20
"""Events that are read about one object, and their bytes. Whoever may create events may create any number of them."""

# The API server's message when RBAC denies a request. A server that has just started knows no roles yet, so such a
# denial is not an error of the object. Status code and reason are those of an admission plugin's refusal.
_RBAC_DENIAL = re.compile(r'User ".*" cannot \w+ resource ')


class Unavailable(Exception):
    """Raised when the API server cannot be reached, or denies the operator a permission that it should have."""


class Denied(Unavailable):
    """Raised when the operator lacks a permission; where it can do without, it need not try again."""


class Refused(Exception):
    """Raised when the API server rejects an object; the message is for the user."""


class Conflict(Exception):
    """Raised when an object exists already, does not exist any more, or has another version than expected."""


class Cluster:
    """A connection to the API server.

    Every method raises Unavailable when the API server cannot be reached.

    Attributes:
        interrupted: set when the API server could not be reached. Watches may then have missed events: a watch that
            has to start again does not report what was deleted in the meantime.
    """

    def __init__(self, api_client: client.ApiClient):
        # Only its request method is used: the paths are known, so no discovery is needed.
        self._client = DynamicClient(api_client)  # type: ignore[no-untyped-call]
        self.interrupted = asyncio.Event()

    async def served(self, api_version: str) -> set[str]:
        """Return the plural names of the resources that the API server serves in a group and version."""
        try:
            response = await self._request("get", f"/apis/{api_version}")
        except ApiException as error:
            if error.status == 404:
                return set()
            raise
        return {resource["name"] for resource in response["resources"]}

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """Return an object, or None when it does not exist."""
        try:
            return await self._request("get", _path(kind, namespace, name))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    async def events(self, namespace: str, uid: str) -> list[Json]:
        """Return the events about the object with this uid: those that are read first, where they are very many."""
        events: list[Json] = []
        size = 0
        async for page, page_size in self._pages(_path(EVENT.name, namespace), field_selector=f"regarding.uid={uid}"):
            events += page["items"]
            size += page_size
            if page["metadata"].get("continue") and (len(events) >= _MOST_EVENTS or size >= _EVENT_BYTES):
                log.warning(
                    "%d events about the object with uid %s in namespace %s are read, and it has more",
                    len(events), uid, namespace,
                )  # fmt: skip
                break
        return events

    async def list(
        self, kind: str, namespace: str | None, selector: str | None = None
    ) -> AsyncIterator[tuple[list[Json], int]]:
        """Yield the objects of a kind, page by page, with the resource version at which all pages were read.

        Args:
            kind: the kind.
            namespace: the namespace; None for all namespaces, and for kinds without one.
            selector: the label selector; None for that of the watched objects.
        """
        selector = selector or KINDS[kind].selector
        async for page, _ in self._pages(_path(kind, namespace), label_selector=selector):
            items = [{"apiVersion": page["apiVersion"], "kind": kind, **item} for item in page["items"]]
            yield items, int(page["metadata"]["resourceVersion"])

    async def create(self, obj: Json) -> Json:
        """Create an object and return it as stored.

        Raises:
            Conflict: when an object of that name exists.
            Refused: when the API server rejects the object.
        """
        return await self._write("post", _path(obj["kind"], obj["metadata"]["namespace"]), obj)

    async def apply(self, obj: Json, subresource: str = "") -> Json:
        """Apply an object with server-side apply and return it as stored.

        Fields that others have changed are taken over by the operator's field manager.

        Raises:
            Conflict: when the object has another uid than expected.
            Refused: when the API server rejects the object.
        """
        path = _path(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"], subresource)
        return await self._write("patch", path, obj, content_type="application/apply-patch+yaml", force_conflicts=True)

    async def replace(self, obj: Json) -> Json:
        """Replace an object that still has the resource version of `obj`, and return it as stored.

        Raises:
            Conflict: when the object has another resource version.
        """
        return await self._write("put", _path(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]), obj)

    async def delete(self, kind: str, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> bool:
        """Delete the object with this uid, and in the background its children; return whether it existed.

        Args:
            kind: the kind.
            namespace: the namespace.
            name: the name.
            uid: the uid; another object of the same name is not deleted.
            grace_seconds: seconds that a pod has to end; None for what its spec says.
        """
        options: Json = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
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

    async def _pages(self, path: str, **selectors: str | None) -> AsyncIterator[tuple[Json, int]]:
        """Yield the pages of a list, each with its bytes. All objects are in them, however large they are."""
        token, single_pages = "", 0
        while True:
            limit = 1 if single_pages else PAGE_OBJECTS
            content = await self._read(
                path, _LARGEST_PAGE if limit > 1 else _LARGEST_OBJECT, limit=limit, _continue=token or None, **selectors
            )
            if limit > 1 and (content is None or most_values(content) > _MOST_VALUES):
                single_pages = PAGE_OBJECTS
                continue
            if content is None:
                raise Unavailable(f"{path}: an object has more than {format_size(_LARGEST_OBJECT)}")
            page: Json = json.loads(content)
            single_pages = max(0, single_pages - 1)
            yield page, len(content)
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def _read(self, path: str, maximum: int, **options: Any) -> bytes | None:
        """Return what the API server answers; None when it is more than `maximum` bytes."""
        with self._explained():
            answer: aiohttp.ClientResponse = await self._client.request(
                "get", path, serialize=False, _request_timeout=REQUEST_SECONDS, **options
            )
            content = bytearray()
            try:
                async for data in answer.content.iter_any():
                    content += data
                    if len(content) > maximum:
                        return None
            finally:
                answer.release()  # closes the connection if something is left of the answer
        return bytes(content)

    async def _request(self, method: str, path: str, **options: Any) -> Json:
        with self._explained():
            response: Json = await self._client.request(
                method, path, serializer=lambda _, data: data, _request_timeout=REQUEST_SECONDS, **options
            )
        return response

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise Unavailable and Denied for what is wrong with the API server or our permissions."""
        try:
            yield
        except ApiException as error:
            if error.status in (400, 403, 404, 409, 422) and not _RBAC_DENIAL.search(_message(error)):
                raise
            if error.status == 403:
                raise Denied(f"HTTP 403: {_message(error)}") from None
            raise Unavailable(f"HTTP {error.status}: {_message(error)}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.interrupted.set()
            raise Unavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from None


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    """Connect with the kubeconfig that KUBECONFIG names, or with the service account of this pod."""
    configuration = client.Configuration()
    warnings.filterwarnings("ignore", "kube_config_path not provided")  # a pod has none
    await config.load_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    # Otherwise aiohttp looks up the environment's proxies in a thread for every request.
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
