"""Where jobs are: what the fine-tuning API needs of it, and the cluster as such a place."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from pydantic import ValidationError

from rft_api.foreign.text import one_line
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json
from rft_api.resource import API_VERSION
from rft_api.violations import violations
from rft_gateway.cluster.api_server import ApiServer, Refused, Resource
from rft_gateway.cluster.objects import ENDPOINTS, RESULT_CREDENTIALS, read_credentials
from rft_gateway.errors import ApiError, model_not_found
from rft_gateway.fine_tuning.cluster_errors import CONFLICT, explained
from rft_gateway.fine_tuning.defaults import CONFIG_MAP, Defaults, DefaultsError, read_defaults
from rft_gateway.fine_tuning.grader_servers import FUNCTIONS, GraderServers
from rft_gateway.fine_tuning.job import job_in_deletion
from rft_gateway.fine_tuning.translation import JobObjects

JOBS = Resource("RFTJob", API_VERSION, "rftjobs")
CONFIG_MAPS = Resource("ConfigMap", "v1", "configmaps")
_logger = logging.getLogger(__name__)


class ClusterJobs:
    """The RFTJobs of a cluster. Every method raises ApiError: 503 when the API server is away or cannot do it now, 409
    when something else happens to an object at the same time, 403 when the API server does not allow it, 400 when it
    takes an object for invalid.

    Args:
        server: the API server.
    """

    def __init__(self, server: ApiServer):
        self._server = server

    async def defaults(self, namespace: str) -> Defaults:
        """Return what a namespace gives its jobs.

        Raises:
            ApiError: 403 when it has no ConfigMap for them, 503 when this is wrong.
        """
        with explained():
            config_map = await self._server.get(CONFIG_MAPS, namespace, CONFIG_MAP)
        if config_map is None:
            message = (
                f"Fine-tuning is not enabled in namespace {namespace}: it has no ConfigMap {CONFIG_MAP}. Whoever "
                "administrates the namespace has to create it."
            )
            raise ApiError(403, message, type="permission_error", code="fine_tuning_not_enabled")
        try:
            return read_defaults(config_map)
        except DefaultsError as error:
            message = f"Whoever administrates the namespace has to correct this: {error}"
            # OpenAI's clients obey this header: to ask again does not help.
            headers = {"x-should-retry": "false"}
            raise ApiError(503, message, code="fine_tuning_misconfigured", headers=headers) from None

    async def base(self, namespace: str, name: str) -> InferenceEndpoint:
        """Return an endpoint, whose model is to be tuned.

        Raises:
            ApiError: 404 when there is none.
        """
        with explained():
            endpoint = await self._server.get(ENDPOINTS, namespace, name)
        if endpoint is None:
            raise model_not_found(name)
        endpoint.pop("status", None)
        try:
            return InferenceEndpoint.model_validate(endpoint, by_alias=True, by_name=False)
        except ValidationError as invalid:
            problem = next(violations(invalid, endpoint, InferenceEndpoint))
            message = one_line(f"model: InferenceEndpoint {name} is of another version of rft-operator: {problem}")
            raise ApiError(400, message, param="model", code="model_not_tunable") from None

    async def has_endpoint(self, namespace: str, name: str) -> bool:
        """Return whether there is an InferenceEndpoint."""
        with explained():
            return await self._server.get(ENDPOINTS, namespace, name) is not None

    async def has_function(self, namespace: str, name: str) -> bool:
        """Return whether there is a RewardFunction."""
        with explained():
            return await self._server.get(FUNCTIONS, namespace, name) is not None

    def grader_servers(self) -> GraderServers:
        """Return where graders are run."""
        return GraderServers(self._server)

    async def result_credentials(self, namespace: str) -> dict[str, dict[str, str]]:
        """Return the credentials of a namespace with which gateways may read outputs, by the names of their Secrets."""
        credentials = {}
        with explained():
            async for page in self._server.list(RESULT_CREDENTIALS, namespace):
                for item in page.items:
                    name = str(item["metadata"]["name"])
                    try:
                        credentials[name] = read_credentials(item)
                    except ValueError as problem:
                        _logger.warning("Secret %s/%s: %s", namespace, name, problem)
        return credentials

    async def create(self, objects: JobObjects) -> Json:
        """Create the objects of a job, and return the RFTJob; those that exist already stay as they are. One that
        somebody has deleted, and that is not gone yet, would take the job with it: that is a conflict.

        The RewardFunction is first, and belongs to the job at the end: a gateway that is killed between the two leaves
        a RewardFunction without a job, and never a job without its reward.
        """
        namespace, name = objects.job["metadata"]["namespace"], objects.job["metadata"]["name"]
        with explained():
            if objects.reward_function is not None:
                await self._create(FUNCTIONS, objects.reward_function)
            job = await self._create(JOBS, objects.job)
            if objects.reward_function is not None:
                owner = {"apiVersion": API_VERSION, "kind": "RFTJob", "name": name, "uid": job["metadata"]["uid"]}
                await self._server.patch(FUNCTIONS, namespace, name, {"metadata": {"ownerReferences": [owner]}})
        return job

    async def get(self, namespace: str, name: str) -> Json | None:
        """Return an RFTJob, or None when there is none."""
        with explained():
            return await self._server.get(JOBS, namespace, name)

    async def jobs(self, namespace: str) -> AsyncIterator[Json]:
        """Yield the RFTJobs of a namespace, in the order of their names."""
        with explained():
            async for page in self._server.list(JOBS, namespace):
                for item in page.items:
                    yield item

    async def change(self, namespace: str, name: str, changes: Json) -> Json:
        """Change the fields of an RFTJob that a merge patch has, and return the RFTJob."""
        with explained():
            return await self._server.patch(JOBS, namespace, name, changes)

    async def _create(self, resource: Resource, document: Json) -> Json:
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        try:
            return await self._server.create(resource, namespace, document)
        except Refused as refused:
            existing = await self._server.get(resource, namespace, name) if refused.status == CONFLICT else None
            if existing is None:
                raise
            if "deletionTimestamp" in existing["metadata"]:
                raise job_in_deletion(name) from None
            return existing
