"""Reads the metrics of jobs where their output is on S3, with credentials that their namespace gives for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from rft_api.foreign.sizes import format_size
from rft_api.model import Json
from rft_api.storage_error import StorageError
from rft_gateway.errors import ApiError, overloaded
from rft_gateway.fine_tuning.job import ENDED, Job
from rft_gateway.fine_tuning.run_metrics import MOST_BYTES, MetricsReader, StepMetrics
from rft_gateway.own_threads import in_own_thread
from rft_gateway.shares import Shares

RESULT_FILE: Final = "file-results-"
"""What the id of a result file begins with; the name of its job follows."""
READ_SECONDS: Final = 20.0
"""Seconds in which a store has to give the metrics of a run."""
_THREADS = 8
"""Outputs that are read at the same time. What a namespace reads may not be more than what is still free."""
_KEPT = 16
"""Runs whose metrics are kept, so that the pages of a list read them once. Those of 10,000 steps take 4 MiB."""
_PIECE = 256 << 10
_logger = logging.getLogger(__name__)

Variables = Mapping[str, str]
"""AWS_ACCESS_KEY_ID and so on."""
FindCredentials = Callable[[str], Awaitable[Mapping[str, Variables]]]
"""Returns the credentials of a namespace with which gateways may read outputs, by the names of their Secrets."""


@dataclass(frozen=True)
class _Output:
    """An output that has been read."""

    variables: Variables
    store: Any
    etag: str = ""
    steps: list[StepMetrics] = field(default_factory=list)


class Outputs:
    """The outputs of jobs.

    Args:
        find_credentials: finds the credentials of a namespace.
    """

    def __init__(self, find_credentials: FindCredentials):
        self._find_credentials = find_credentials
        self._threads = Shares(_THREADS)
        self._kept: OrderedDict[tuple[str, str, str], _Output] = OrderedDict()
        """By namespace, Secret and address."""

    async def describe(self, namespace: str, jobs: Sequence[Job]) -> list[Json]:
        """Return OpenAI's objects of jobs of a namespace. Those that have ended have a result file, if the gateway may
        read their metrics."""
        with_result = {job.name: _secret(job) for job in jobs if has_result(job)}
        secrets = await self._find_credentials(namespace) if with_result else {}
        documents = [job.describe() for job in jobs]
        for document in documents:
            if with_result.get(document["id"]) in secrets:
                document["result_files"] = [f"{RESULT_FILE}{document['id']}"]
        return documents

    async def steps(self, namespace: str, job: Job) -> list[StepMetrics] | None:
        """Return the metrics of the steps of a job, as far as its output has them; None when the gateway may not read
        them.

        Raises:
            ApiError: 503 when they cannot be read at the moment.
        """
        if not _is_on_s3(job):
            return None
        variables = (await self._find_credentials(namespace)).get(_secret(job))
        if variables is None:
            return None
        if not self._threads.have_room(namespace, 1):
            raise overloaded("Too many outputs of jobs are read at the same time.")
        self._threads.add(namespace, 1)
        uri = f"{str(job.spec['output']['uri']).rstrip('/')}/metrics.jsonl"
        place = (namespace, _secret(job), uri)
        kept = self._kept.pop(place, None)  # while it is used, nobody else has it
        reading = asyncio.create_task(in_own_thread(partial(_read, uri, variables, kept), "output"))
        reading.add_done_callback(partial(self._end, namespace))
        try:
            async with asyncio.timeout(READ_SECONDS):
                output = await asyncio.shield(reading)
        except (StorageError, TimeoutError) as error:
            _logger.warning("metrics of RFTJob %s/%s: %s", namespace, job.name, str(error) or "no answer in time")
            # What answers at the address is chosen by the tenant, who is told nothing of it.
            message = (
                f"The metrics of the steps cannot be read from {uri} with the Secret {_secret(job)}. It has to open "
                "this address for s3:GetObject and s3:ListBucket, and the gateway has to reach the store."
            )
            raise ApiError(503, message, code="output_unavailable", headers={"retry-after": "2"}) from None
        self._kept[place] = output
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return output.steps

    def _end(self, namespace: str, reading: asyncio.Task[list[StepMetrics]]) -> None:
        self._threads.add(namespace, -1)
        if not reading.cancelled():
            reading.exception()  # nobody may wait for it any more


def has_result(job: Job) -> bool:
    """Return whether a job has ended, and has metrics of steps where gateways can read."""
    progress = job.status.progress
    return job.state in ENDED and _is_on_s3(job) and progress is not None and bool(progress.step)


def _read(uri: str, variables: Variables, kept: _Output | None) -> _Output:
    """Return an output with its metrics, which are read if they are not those that were read last; in a thread.

    Raises:
        StorageError: when they cannot be read.
    """
    from rft_api.storage import ObjectStore  # slow to import, and needed only for this

    end = time.monotonic() + READ_SECONDS
    if kept is None or kept.variables != variables:
        kept = _Output(variables, ObjectStore(variables, attempts=2))
    found = next((item for item in kept.store.objects(uri) if not item.name), None)
    if found is None:
        return _Output(variables, kept.store)
    if found.etag and found.etag == kept.etag:
        return kept
    if found.size > MOST_BYTES:
        raise StorageError(f"{uri} has {format_size(found.size)}, of {format_size(MOST_BYTES)} at most")
    reader, left = MetricsReader(), found.size
    with kept.store.reading(uri) as read:
        while left and (piece := read(min(left, _PIECE))):
            left -= len(piece)
            reader.take(piece)
            if time.monotonic() > end:
                raise StorageError(f"{uri} takes more than {READ_SECONDS:.0f} s")
    return _Output(variables, kept.store, found.etag, reader.steps())


def _is_on_s3(job: Job) -> bool:
    return str(job.spec["output"]["uri"]).startswith("s3://")


def _secret(job: Job) -> str:
    return str((job.spec.get("credentials") or {}).get("secretName", ""))
