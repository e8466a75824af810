"""The names of the objects that the operator makes for a resource, and which names of resources they allow.

Every name that is derived is derived here. `bounded` keeps each within the length that Kubernetes allows. The first
character of a resource's name is also that of the derived names, so resources with a Service must begin with a letter:
before Kubernetes 1.36 the name of a Service is a DNS label of RFC 1035, which does; other names may begin with a digit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from rft_api.model import Json, Rule

_DNS_LABEL = 63
"""Largest number of characters in a DNS label (RFC 1123)."""
_LONGEST_JOB_NAME = _DNS_LABEL - len("-1023")
"""Largest length of a Job's name: the host name of a pod appends the index of the pod to it."""
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label of RFC 1035."""

SERVICE_MESSAGE: Final = (
    "the name must begin with a letter, because that of a Service is made from it: put a letter before the digit, as "
    "in v2 for 2"
)
"""The message for names that begin with a digit where a Service is named after them."""


def bounded(name: str, suffix: str, limit: int = _DNS_LABEL) -> str:
    """Return `NAME-SUFFIX`; where that is longer than the limit, a digest replaces the end of the name."""
    whole = f"{name}-{suffix}"
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    end = f"-{digest}-{suffix}"
    return name[: limit - len(end)].rstrip("-") + end


def is_service_name(name: str) -> bool:
    """Return whether every supported version of Kubernetes takes a name for a Service."""
    return _SERVICE_NAME.fullmatch(name) is not None


def first_letter(name: str) -> str:
    """Return the rule in CEL that a name begins with a letter. Its other characters have a pattern.

    Args:
        name: the name's place in CEL, such as `self.metadata.name`.
    """
    return f"{name}.matches('^[a-z]')"


def names_service(service: Callable[[str], str]) -> Rule:
    """Return the rule that a resource is named so that it can have a Service.

    Args:
        service: makes the name of the Service from that of the resource.
    """
    return Rule(
        cel=first_letter("self.metadata.name"),
        message=SERVICE_MESSAGE,
        holds=lambda resource: is_service_name(service(resource.metadata.name)),
        places=lambda _: [("metadata", "name")],
    )


def run_configuration(job: str) -> str:
    """Return the name of the ConfigMap with the configuration of a run."""
    return bounded(job, "run")


def trainer_service(job: str) -> str:
    """Return the name of the headless Service that gives the pods of a trainer their host names."""
    return bounded(job, "trainer")


def training_job(job: str, attempt: int) -> str:
    """Return the name of the Job of an attempt."""
    return bounded(job, f"trainer-{attempt}", _LONGEST_JOB_NAME)


def memory_plan(job: str) -> str:
    """Return the name of the Job that plans the memory of a run before its first attempt."""
    return bounded(job, "memory-plan", _LONGEST_JOB_NAME)


def base_endpoint(endpoint: str) -> str:
    """Return the name of the base endpoint of an adapter endpoint whose job names none."""
    return bounded(endpoint, "base")


def checkpoint_endpoint(endpoint: str, step: int) -> str:
    """Return the name of the endpoint of a job's checkpoint, from that of the endpoint of its tuned model."""
    return bounded(endpoint, f"step-{step}")


def reward_server(function: str) -> str:
    """Return the name of the Deployment, the Service and the NetworkPolicy of a reward function."""
    return bounded(function, "reward")


def reward_configuration(function: str, digest: str) -> str:
    """Return the name of the ConfigMap with the code of a reward function; it depends on the code."""
    return bounded(function, f"reward-{digest[:10]}")


def reward_token(function: str, uid: str) -> str:
    """Return the name of the Secret with the token of a reward server; it depends on the uid of the function."""
    return bounded(function, f"reward-token-{uid[:8]}")


def server(endpoint: str) -> str:
    """Return the name of the Deployment and the Service of an endpoint."""
    return bounded(endpoint, "server")


def adapter_list(endpoint: str) -> str:
    """Return the name of the ConfigMap with the list of the adapters that a server serves."""
    return bounded(endpoint, "adapters")


@dataclass(frozen=True)
class NamesEndpoint:
    """The rule for fields that name an InferenceEndpoint which the operator may create, and which has a Service."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(name: str) -> str:
            if not is_service_name(server(name)):
                raise PydanticCustomError("service_name", "{message}", {"message": SERVICE_MESSAGE})
            return name

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        rule = {"rule": first_letter("self"), "message": SERVICE_MESSAGE}
        return {**handler(schema), "x-kubernetes-validations": [rule]}
