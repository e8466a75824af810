"""A client of the API server: lists, watches and annotates, with objects as plain dictionaries."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from kubernetes.aio import client, config

from rft_api.foreign.files import most_values
from rft_api.foreign.sizes import format_size
from rft_api.foreign.text import one_line
from rft_api.model import Json

PAGE_OBJECTS = 50
"""Objects that are listed at once. An object has at most 1.5 MiB in etcd."""
WATCH_SECONDS = 30
"""Time after which a watch begins anew where it ended. A connection that is dead without a sign is noticed then."""
_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 30.0
_LARGEST_PAGE = 32 << 20
"""Bytes of a page in JSON. Objects of a larger one are read one by one: 1.5 MiB in etcd may be 3 MiB in JSON, because
every `<` becomes six characters."""
_MOST_VALUES = 200_000
"""Values of a page: fifty EndpointSlices of 200 pods have as many. Objects of a page with more are read one by one, and
one that alone has more is left out: 1.5 MiB may be 400,000 values, which take 100 bytes of memory each."""
_LARGEST_ERROR = 1 << 20
_LARGEST_OBJECT = 8 << 20
_NOT_FOUND = 404
_JSON = "application/json"
_LONGEST_METADATA = 4096
_FIRST_METADATA = re.compile(rb'^\s*\{"kind":"\w+","apiVersion":"[\w./]+","metadata":(\{[^{}]*\})')
_LAST_METADATA = re.compile(rb'"metadata":(\{[^{}]*\})\}\s*$')
_FIELD_MANAGER = "rft-gateway"


class ClusterError(Exception):
    """There is no configuration of a cluster; the message says what is missing."""


class Unavailable(Exception):
    """The API server cannot be reached, or refuses a request; the message says why."""


class TooLarge(Unavailable):
    """An answer is larger than what is read."""


class Refused(Unavailable):
    """The API server has answered with an error.

    Args:
        status: the status code of HTTP.
        message: what it says.
    """

    def __init__(self, status: int, message: str):
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


class Expired(Exception):
    """A watch cannot go on where it ended: everything has to be listed again."""


@dataclass(frozen=True)
class Resource:
    """Objects of one kind."""

    kind: str
    """Name of the kind, as in a manifest."""
    api_version: str
    """Group and version: `discovery.k8s.io/v1`; `v1` for the core group."""
    plural: str
    """Name in paths."""
    selector: str = ""
    """Label selector; all objects of the kind if it is empty."""

    def title(self, namespace: str | None) -> str:
        """Return what the objects are called in messages."""
        labels = f" with {self.selector}" if self.selector else ""
        return f"{self.plural}{labels}{f' in {namespace}' if namespace else ''}"

    def path(self, namespace: str | None, name: str = "") -> str:
        """Return the path of an object, or of all objects of a namespace or, without one, of the cluster."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True)
class Page:
    """Some of the objects of a list."""

    items: list[Json]
    version: str
    """The version at which all pages were read."""
    token: str
    """Where the next page begins; empty behind the last one."""
    is_readable: bool = True
    """Whether it has its objects: one that is nested too deeply, as custom resources may be, or has too many values,
    hides the whole page."""


class ApiServer:
    """A connection to the API server. Every method raises Unavailable when it does not do what was asked."""

    def __init__(self, api_client: client.ApiClient):
        self._client = api_client

    async def list(self, resource: Resource, namespace: str | None) -> AsyncIterator[Page]:
        """Yield the objects, page by page.

        Raises:
            Expired: when reading the pages has taken too long.
        """
        token, single_pages = "", 0
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
        while True:
            limit = 1 if single_pages else PAGE_OBJECTS
            query = {"labelSelector": resource.selector, "limit": str(limit), "continue": token}
            page: Page | None = None
            try:
                async with self._request("GET", resource.path(namespace), query, timeout) as answer:
                    page = _read_page(resource, await _read(answer, _LARGEST_PAGE))
            except TooLarge:
                if limit == 1:
                    raise
            if page is None or (not page.is_readable and limit > 1):
                single_pages = PAGE_OBJECTS  # its objects are read one by one, to leave out the one that is wrong
                continue
            single_pages = max(0, single_pages - 1)
            yield page
            token = page.token
            if not token:
                return

    async def watch(self, resource: Resource, namespace: str | None, version: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield the events after a version, for `WATCH_SECONDS`: what has happened, and the object.

        Raises:
            Expired: when the API server does not know the events after this version any more, or one cannot be read.
        """
        query = {
            "labelSelector": resource.selector, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }  # fmt: skip
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=WATCH_SECONDS + _CONNECT_SECONDS)
        async with self._request("GET", resource.path(namespace), query, timeout) as answer:
            async for line in answer.content:
                event = _parse(line)
                if event is None:
                    raise Expired  # nobody knows which object it is about
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise Expired
                    raise Unavailable(one_line(str(event["object"].get("message"))))
                yield event["type"], event["object"]

    async def annotate(self, resource: Resource, namespace: str, name: str, annotations: dict[str, str]) -> None:
        """Set annotations of an object."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with self._request(
            "PATCH", resource.path(namespace, name), {"fieldManager": _FIELD_MANAGER}, timeout,
            body={"metadata": {"annotations": annotations}}, content_type="application/merge-patch+json",
        ):  # fmt: skip
            pass

    async def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return an object, or None when there is none."""
        try:
            return await self._ask("GET", resource.path(namespace, name), {})
        except Refused as refused:
            if refused.status == _NOT_FOUND:
                return None
            raise

    async def create(self, resource: Resource, namespace: str, document: Json) -> Json:
        """Create an object, and return it as it is stored. Refused has the status 409 when there is one already."""
        return await self._ask("POST", resource.path(namespace), {"fieldManager": _FIELD_MANAGER}, document)

    async def patch(self, resource: Resource, namespace: str, name: str, changes: Json) -> Json:
        """Change the fields of an object that a merge patch has, and return the object."""
        query = {"fieldManager": _FIELD_MANAGER}
        return await self._ask("PATCH", resource.path(namespace, name), query, changes, "application/merge-patch+json")

    async def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object, if there is one."""
        try:
            await self._ask("DELETE", resource.path(namespace, name), {})
        except Refused as refused:
            if refused.status != _NOT_FOUND:
                raise

    async def _ask(
        self, method: str, path: str, query: dict[str, str], body: Json | None = None, content_type: str = _JSON
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with self._request(method, path, query, timeout, body, content_type) as answer:
            document = _parse(await _read(answer, _LARGEST_OBJECT))
        if document is None:
            raise Unavailable("the object is nested too deeply to be read")
        return document

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        timeout: aiohttp.ClientTimeout,
        body: Json | None = None,
        content_type: str = _JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        parameters = [(name, value) for name, value in query.items() if value]
        try:
            request = await self._client.param_serialize(
                method, path, query_params=parameters, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer: aiohttp.ClientResponse = (await self._client.call_api(*request, _request_timeout=timeout)).response
            try:
                if answer.status == 410:
                    raise Expired
                if answer.status >= 300:
                    raise Refused(answer.status, _message(await _read(answer, _LARGEST_ERROR)))
                yield answer
            finally:
                answer.release()  # closes the connection if something is left of the answer
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, client.ApiException) as error:
            # ValueError and KeyError: it is not the API server that answers, or it has broken off in the middle.
            raise Unavailable(one_line(f"{type(error).__name__}: {error}")) from None


@asynccontextmanager
async def connect() -> AsyncIterator[ApiServer]:
    """Connect with the kubeconfig that KUBECONFIG names, or with the service account of this pod.

    Raises:
        ClusterError: when there is neither.
    """
    configuration = client.Configuration()
    warnings.filterwarnings("ignore", "kube_config_path not provided")  # a pod has none
    try:
        await config.load_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        message = f"--kubernetes: there is no configuration of a cluster: {one_line(str(error))}"
        raise ClusterError(f"{message} Run the gateway in a pod, or set KUBECONFIG.") from None
    # Otherwise aiohttp looks up the environment's proxies in a thread for every request.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.connection_pool_maxsize = 0  # without a limit: each watch has a connection
    async with client.ApiClient(configuration) as api_client:
        yield ApiServer(api_client)


async def _read(answer: aiohttp.ClientResponse, maximum: int) -> bytes:
    content = bytearray()
    async for data in answer.content.iter_any():
        content += data
        if len(content) > maximum:
            raise TooLarge(f"answers with more than {format_size(maximum)}")
    return bytes(content)


def _parse(content: bytes) -> Json | None:
    """Return what the API server has written; None if an object in it is nested more deeply than programs read."""
    if not content.rstrip().endswith(b"}"):
        raise ValueError("has broken off")
    try:
        document: Json = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return document


def _read_page(resource: Resource, content: bytes) -> Page:
    page = _parse(content) if most_values(content) <= _MOST_VALUES else None
    is_readable = page is not None
    if page is None:
        # The metadata of a list is its first field, or of custom resources its last one, and is found without parsing
        # what is behind or before it.
        match = _FIRST_METADATA.search(content[:_LONGEST_METADATA])
        match = match or _LAST_METADATA.search(content[-_LONGEST_METADATA:])
        page = {"items": [], "metadata": orjson.loads(match[1] if match else b"{}")}
    items = [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
    return Page(items, str(page["metadata"]["resourceVersion"]), page["metadata"].get("continue", ""), is_readable)


def _message(body: bytes) -> str:
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return one_line(body.decode("utf-8", "replace"))
    return one_line(str(document.get("message") if isinstance(document, dict) else document))
