"""Answers the requests of OpenAI's fine-tuning API."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web
from multidict import CIMultiDictProxy, MultiDict, MultiMapping

from rft_api.model import Json
from rft_api.object_labels import FINE_TUNING_CANCELLED
from rft_gateway.errors import ApiError, model_not_found
from rft_gateway.files.catalog import FileCatalog
from rft_gateway.files.store import SCHEME
from rft_gateway.fine_tuning.checkpoints import describe_checkpoints
from rft_gateway.fine_tuning.defaults import Defaults
from rft_gateway.fine_tuning.event_streams import EventStreams, StreamLimits
from rft_gateway.fine_tuning.events import describe_events
from rft_gateway.fine_tuning.grader_names import check_names
from rft_gateway.fine_tuning.grader_runs import GraderRuns
from rft_gateway.fine_tuning.graders import make_function, request_text
from rft_gateway.fine_tuning.job import ENDED, Job, job_in_deletion
from rft_gateway.fine_tuning.listing import NewestJobs, asks_for_stream, make_page, read_paging, take_page
from rft_gateway.fine_tuning.outputs import Outputs
from rft_gateway.fine_tuning.request import read_request, read_run, read_validation, stated
from rft_gateway.fine_tuning.result_files import (
    content_response,
    describe_file,
    no_deletion,
    no_result,
    parse_path,
    read_result,
)
from rft_gateway.fine_tuning.translation import GRADER, DataFile, make_objects
from rft_gateway.keys import Key, opens

if TYPE_CHECKING:  # the client of Kubernetes takes a second to import, which is for nothing on one machine
    from rft_gateway.fine_tuning.store import ClusterJobs

PATH: Final = "/v1/fine_tuning/jobs"
VALIDATE: Final = "/v1/fine_tuning/alpha/graders/validate"
RUN: Final = "/v1/fine_tuning/alpha/graders/run"
IDEMPOTENCY: Final = "idempotency-key"
"""Header with a text by which a request that is sent again is known."""
_DEFAULT_JOBS, _DEFAULT_EVENTS, _DEFAULT_CHECKPOINTS = 20, 20, 10
_LONGEST_NAME = 253
_FIELD = "grader"
"""Where a request to validate a grader has it; and the name of its RewardFunction, which nobody gets to see."""
_logger = logging.getLogger(__name__)

Answer = Callable[[Key, str, MultiMapping[str]], Coroutine[None, None, Json]]
AnswerToBody = Callable[[Key, Json, str, CIMultiDictProxy[str]], Coroutine[None, None, Json]]
"""Answers a request with a body, of which it gets the key, the body, the id and the headers."""


class FineTuning:
    """The operations on jobs.

    Args:
        store: the place of the jobs.
        files: the files that were uploaded; None when the gateway keeps none.
        stop: is set when the gateway is about to end, which ends streams of events.
    """

    def __init__(self, store: ClusterJobs, files: FileCatalog | None, stop: asyncio.Event):
        self._store = store
        self._files = files
        self._runs = GraderRuns(store.grader_servers())
        self._outputs = Outputs(store.result_credentials)
        self._streams = EventStreams(stop, StreamLimits())
        self._operations: dict[tuple[str, str], Answer] = {
            ("GET", ""): self._retrieve,
            ("GET", "events"): self._events,
            ("GET", "checkpoints"): self._checkpoints,
            ("POST", "cancel"): self._cancel,
            ("POST", "pause"): self._pause,
            ("POST", "resume"): self._resume,
        }

    def answers(self, path: str) -> bool:
        """Return whether a path belongs to this API."""
        return path in (PATH, VALIDATE, RUN) or path.startswith(f"{PATH}/") or parse_path(path) is not None

    async def sweep(self, namespaces: Sequence[str]) -> None:
        """Delete what runs of graders have left, until the task is cancelled; everywhere if no namespace is named."""
        await self._runs.sweep(namespaces)

    def waits(self, path: str) -> bool:
        """Return whether a request for a path may wait for long, and so holds up no others of its namespace."""
        return path == RUN

    def find_with_body(self, method: str, path: str) -> AnswerToBody | None:
        """Return what answers a request with a body; None for any other one, which `find` knows.

        Raises:
            ApiError: 405 when such an operation has another method.
        """
        if path in (VALIDATE, RUN):
            if method != "POST":
                raise _not_allowed(method, path, "POST")
            answer = self._validate if path == VALIDATE else self._run
            return lambda key, document, *_: answer(key, document)
        return self.create if (method, path.rstrip("/")) == ("POST", PATH) else None

    def find(
        self, method: str, path: str
    ) -> Callable[[Key, MultiMapping[str]], Coroutine[None, None, Json | web.Response]]:
        """Return what answers a request for a path below `PATH`, but for those that `find_with_body` knows, or for a
        result file.

        Raises:
            ApiError: 404 when there is no such operation, 405 when there is one with another method.
        """
        if (result := parse_path(path)) is not None:
            return partial(self._result_file, method, path, *result)
        name, operation = _parts(path)
        if not name:
            if method != "GET":
                raise _not_allowed(method, path, "GET, POST")
            return self._list
        answer = self._operations.get((method, operation))
        if answer is None:
            allowed = [each for each, suffix in self._operations if suffix == operation]
            if allowed:
                raise _not_allowed(method, path, ", ".join(allowed))
            raise ApiError(404, f"Invalid URL ({method[:20]} {path[:200]})", code="unknown_url")
        return lambda key, query: answer(key, name[:_LONGEST_NAME], query)

    def streams(self, request: web.BaseRequest) -> bool:
        """Return whether a request asks for the events of a job as a stream.

        Raises:
            ApiError: 400 when it does so with parameters that do not go together.
        """
        name, operation = _parts(request.path)
        return bool(name) and (request.method, operation) == ("GET", "events") and asks_for_stream(request.query)

    async def stream(
        self, request: web.BaseRequest, find_key: Callable[[], Key], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Send the events of a job until it has ended.

        Args:
            request: one that `streams` knows.
            find_key: returns the key of whoever asks, as it is now; raises the ApiError of one that opens nothing.
            headers: those of the answer.

        Raises:
            ApiError: when the client gets an error instead of a stream.
            ClientLeft: when it has left.
        """
        name, _ = _parts(request.path)
        return await self._streams.send(
            request, find_key().namespace, lambda: self._find(find_key(), name[:_LONGEST_NAME]), headers
        )

    async def create(self, key: Key, document: Json, request_id: str, headers: CIMultiDictProxy[str]) -> Json:
        """Create a job, and return it.

        Args:
            key: the key of whoever asks.
            document: the body of the request.
            request_id: the id of the request, of which the name of the job is made.
            headers: the headers of the request.

        Raises:
            ApiError: when it cannot be created.
        """
        request = read_request(document)
        if not opens(key, request.model):
            raise model_not_found(request.model[:_LONGEST_NAME])
        defaults = await self._store.defaults(key.namespace)
        base = await self._store.base(key.namespace, _object_name(request.model))
        if request.reinforcement is not None:
            await check_names(request.reinforcement.grader, GRADER, key, defaults, self._store)
        training = await self._data(key, "training_file", request.training_file, defaults)
        validation = None
        if request.validation_file is not None:
            validation = await self._data(key, "validation_file", request.validation_file, defaults)
        name = _job_name(key, document, headers.get(IDEMPOTENCY) or request_id)
        # The code of a grader is parsed for the packages that it imports.
        make = partial(make_objects, request, document, (key.namespace, name), defaults, base, (training, validation))
        return await self._describe(key, await self._store.create(await asyncio.to_thread(make)))

    async def _validate(self, key: Key, document: Json) -> Json:
        """Return a grader that could be a job's; ApiError says why it could not."""
        request = read_validation(document)
        request_text(document, _FIELD)
        defaults = await self._store.defaults(key.namespace)
        await check_names(request.grader, _FIELD, key, defaults, self._store)
        await asyncio.to_thread(make_function, request.grader, (key.namespace, _FIELD), defaults, _FIELD)
        return {"grader": stated(document["grader"])}

    async def _run(self, key: Key, document: Json) -> Json:
        """Return the score of a sample; ApiError says why there is none."""
        request = read_run(document)
        defaults = await self._store.defaults(key.namespace)
        await check_names(request.grader, _FIELD, key, defaults, self._store)
        return await self._runs.run(key.namespace, request, defaults)

    async def _data(self, key: Key, field: str, name: str, defaults: Defaults) -> DataFile:
        """Return the file that a request names: one that was uploaded, or an address that its namespace admits.

        Raises:
            ApiError: 400 when there is none, or its content is in no place that pods can read.
        """
        if defaults.admits_data(name):
            return DataFile(name, name)
        record = await self._files.file(key.namespace, name) if self._files is not None else None
        if record is None:
            message = (
                f"{field}: is neither the id of a file of the namespace, nor an address that it admits (data in its "
                f"ConfigMap): {name[:100]}"
            )
            raise ApiError(400, message, param=field, code="file_not_found")
        if not record.uri.startswith(SCHEME):
            message = (
                f"{field}: the gateway keeps its files in a folder, which pods cannot read; its --files has to be on S3"
            )
            raise ApiError(400, message, param=field, code="file_not_found")
        return DataFile(record.id, record.uri, record.sha256)

    async def _list(self, key: Key, query: MultiMapping[str]) -> Json:
        paging = read_paging(query, _DEFAULT_JOBS, of_jobs=True)
        after = None if paging.after is None else await self._find(key, paging.after, "after")
        newest = NewestJobs(paging.limit, after)
        async for document in self._store.jobs(key.namespace):
            try:
                job = Job(document)
            except ValueError as problem:
                _logger.warning("RFTJob %s/%s: %s", key.namespace, document["metadata"]["name"], problem)
                continue
            if opens(key, job.base) and paging.admits(job):
                newest.add(job)
        return make_page(await self._outputs.describe(key.namespace, newest.newest_first()), newest.has_more)

    async def _retrieve(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        return (await self._outputs.describe(key.namespace, [await self._find(key, name)]))[0]

    async def _events(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        parameters = MultiDict(query)
        parameters.popall("stream", None)  # false, or there would be a stream
        paging, job = read_paging(parameters, _DEFAULT_EVENTS), await self._find(key, name)
        steps, problem = None, ""
        try:
            steps = await self._outputs.steps(key.namespace, job)
        except ApiError as error:
            if paging.after is not None:  # which may be one of them
                raise
            problem = error.message
        return take_page(await asyncio.to_thread(describe_events, job, steps or (), problem), paging)

    async def _checkpoints(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        return take_page(describe_checkpoints(await self._find(key, name)), read_paging(query, _DEFAULT_CHECKPOINTS))

    async def _cancel(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        await self._find_open(key, name)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        changes = {"metadata": {"annotations": {FINE_TUNING_CANCELLED: now}}, "spec": {"suspend": True}}
        return await self._describe(key, await self._store.change(key.namespace, name, changes))

    async def _pause(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        await self._find_open(key, name)
        return await self._describe(key, await self._store.change(key.namespace, name, {"spec": {"suspend": True}}))

    async def _resume(self, key: Key, name: str, query: MultiMapping[str]) -> Json:
        await self._find_open(key, name)
        return await self._describe(key, await self._store.change(key.namespace, name, {"spec": {"suspend": False}}))

    async def _describe(self, key: Key, document: Json) -> Json:
        return (await self._outputs.describe(key.namespace, [_read(document)]))[0]

    async def _result_file(
        self, method: str, path: str, name: str, is_content: bool, key: Key, query: MultiMapping[str]
    ) -> Json | web.Response:
        if method != "GET" and (is_content or method != "DELETE"):
            raise _not_allowed(method, path, "GET" if is_content else "GET, DELETE")
        name = name[:_LONGEST_NAME]
        try:
            job = await self._find(key, name)
        except ApiError as error:
            raise (no_result(name) if error.code == "job_not_found" else error) from None
        steps = await read_result(self._outputs, key.namespace, job)
        if method == "DELETE":
            raise no_deletion(name)
        return await asyncio.to_thread(content_response if is_content else describe_file, job, steps)

    async def _find_open(self, key: Key, name: str) -> Job:
        """Return a job that has not ended.

        Raises:
            ApiError: 404 when there is none, 400 when it has ended, 409 when it is in deletion.
        """
        job = await self._find(key, name)
        if job.state in ENDED:
            message = f"Job {name} has already ended: it is {job.state}. Create another one."
            raise ApiError(400, message, param="fine_tuning_job_id", code="job_ended")
        if job.is_in_deletion:
            raise job_in_deletion(name)
        return job

    async def _find(self, key: Key, name: str, param: str = "fine_tuning_job_id") -> Job:
        message = f"There is no fine-tuning job {name[:100]}, or this key does not open its model."
        missing = ApiError(404, message, param=param, code="job_not_found")
        document = await self._store.get(key.namespace, _object_name(name, missing))
        job = _read(document) if document is not None else None
        if job is None or not opens(key, job.base):
            raise missing
        return job


def _parts(path: str) -> tuple[str, str]:
    """Return the name of a job and what is asked of it; empty where a path has none."""
    name, _, operation = path.removeprefix(PATH).removeprefix("/").partition("/")
    return name, operation


def _job_name(key: Key, document: Json, once: str) -> str:
    """Return the name of a job: the same for the same request with the same idempotency key."""
    parts = (key.namespace, key.name, once, repr(document))
    return f"ftjob-{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def _object_name(name: str, missing: ApiError | None = None) -> str:
    """Return a name that an object can have, and so be a part of a path at the API server.

    Raises:
        ApiError: 404 for any other one.
    """
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-."
    if not name or name[0] in "-." or len(name) > _LONGEST_NAME or any(letter not in allowed for letter in name):
        raise missing or model_not_found(name[:_LONGEST_NAME])
    return name


def _read(document: Json) -> Job:
    try:
        return Job(document)
    except ValueError as problem:
        name = document["metadata"]["name"]
        message = f"The status of RFTJob {name} is that of another version of rft-operator: {problem}"
        raise ApiError(500, message, code="unknown_status", headers={"x-should-retry": "false"}) from None


def _not_allowed(method: str, path: str, allowed: str) -> ApiError:
    message = f"Not allowed to {method[:20]} on {path[:200]}."
    return ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
