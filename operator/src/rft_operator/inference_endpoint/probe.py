"""Ask servers whether they answer for a model, and loaders whether they have loaded an adapter."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from rft_api.adapter_protocol import ADAPTERS_PATH, AdapterReport, AdapterReports
from rft_api.foreign.http import ForeignAnswerError
from rft_api.foreign.text import one_line
from rft_api.inference_endpoint import InferenceEndpoint
from rft_operator.inference_endpoint.names import LOADER_PORT, SERVER_PORT
from rft_operator.inference_endpoint.world import ServerAnswer
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import KEPT_CHARACTERS, PodClient

ANSWER_SECONDS = 30.0
"""Timeout of a request for one token."""


async def ask_servers(
    client: PodClient, pods: Iterable[PodView], endpoint: InferenceEndpoint, was_ready: bool
) -> dict[str, ServerAnswer]:
    """Ask the ready pods of a server for the model of an endpoint.

    Args:
        client: the client.
        pods: the pods of the server.
        endpoint: the endpoint.
        was_ready: whether the endpoint was Ready before. Then the model need only be listed; otherwise it must answer.

    Returns:
        The answers by the names of the pods.
    """
    ready_pods = asked_pods(pods)
    answers = await client.ask_all(ready_pods, lambda pod: _ask_server(client, pod, endpoint, was_ready))
    return dict(zip((pod.name for pod in ready_pods), answers, strict=True))


def asked_pods(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods that are ready."""
    return [pod for pod in pods if pod.ip and pod.ready and not pod.deleting]


async def _ask_server(client: PodClient, pod: PodView, endpoint: InferenceEndpoint, was_ready: bool) -> ServerAnswer:
    name, report = endpoint.metadata.name, None
    if endpoint.spec.adapter is not None:
        report = await _ask_loader(client, pod, name)
        if report is None or report.state != "Loaded":
            return ServerAnswer("the adapter is not loaded", report)
    problem = await (_check_listed(client, pod, name) if was_ready else _check_completion(client, pod, name))
    return ServerAnswer(problem, report)


async def _ask_loader(client: PodClient, pod: PodView, name: str) -> AdapterReport | None:
    answer = await client.get(pod, LOADER_PORT, ADAPTERS_PATH)
    try:
        reports = [] if answer is None else AdapterReports.model_validate_json(answer.body).adapters
    except ValidationError:
        return None
    report = next((report for report in reports if report.name == name), None)
    return None if report is None else report.model_copy(update={"message": one_line(report.message, KEPT_CHARACTERS)})


async def _check_listed(client: PodClient, pod: PodView, name: str) -> str | None:
    answer = await client.get(pod, SERVER_PORT, "/v1/models")
    try:
        listed = [model["id"] for model in answer.json()["data"]] if answer is not None else []
    except (ValueError, KeyError, TypeError):
        listed = []
    return None if name in listed else f"the server does not list {name}"


async def _check_completion(client: PodClient, pod: PodView, name: str) -> str | None:
    body = {"model": name, "prompt": "Hello", "max_tokens": 1}
    try:
        answer = await client.post(pod, SERVER_PORT, "/v1/completions", body, ANSWER_SECONDS)
    except ForeignAnswerError as error:
        return f"the server {error}"
    return None if answer.status == 200 else f"HTTP {answer.status}: {one_line(answer.text(), KEPT_CHARACTERS)}"
