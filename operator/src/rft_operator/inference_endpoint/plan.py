"""Plan an InferenceEndpoint: its server or its adapter list entry, and whether the model answers.

An endpoint with a server of its own:

| server pods | reason of the condition Ready |
|---|---|
| no replicas | ScaledToZero |
| one is ready and answers under the name of the model | Ready |
| one is ready but does not answer | NotAnswering |
| fail again and again | ServerFailing; ModelInvalid when the model cannot be fetched or read |
| cannot start | Unschedulable, ImagePullFailed, ContainerBlocked |
| do not exist, because Kubernetes does not create them | PodsMissing |
| wait for another container, such as the loader, that ends again and again | SidecarFailing |
| start, because a request has woken the endpoint | Waking |
| otherwise | Starting |

An endpoint with an adapter on the server of another endpoint:

| base endpoint | loaders in its ready pods | reason of the condition Ready |
|---|---|---|
| missing | | BaseMissing |
| cannot serve adapters, or not from this address | | ConfigurationInvalid |
| no replicas | | ScaledToZero |
| its pods start, because a request has woken it | | Waking |
| no pod is ready | | BaseNotReady |
| ready | one has rejected the adapter | AdapterRejected |
| ready | all have loaded it, and all servers answer under its name | Ready |
| ready | all have loaded it, but a server does not answer | NotAnswering |
| ready | otherwise | AdapterLoading |
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from rft_api.bounds import POD_PLACES, pod_violations
from rft_api.conditions import ConditionType, Reason
from rft_api.config_map_size import CONFIG_MAP_BYTES
from rft_api.exit_codes import ExitCode
from rft_api.gateway_demand import WAKE_ANNOTATION
from rft_api.inference_endpoint import (
    AutoscaleStatus,
    ColdStart,
    InferenceEndpoint,
    InferenceEndpointStatus,
    find_adapter_violation,
    serving_of,
)
from rft_api.quantities import duration_seconds
from rft_api.termination import parse_failure
from rft_operator.inference_endpoint import names
from rft_operator.inference_endpoint.network_policy import build_server_policy
from rft_operator.inference_endpoint.objects import (
    adapter_address,
    build_adapter_list,
    build_endpoint_service,
    build_server_deployment,
)
from rft_operator.inference_endpoint.scaling import Scaling, Situation, scale
from rft_operator.inference_endpoint.world import InferenceEndpointWorld
from rft_operator.kube import kinds
from rft_operator.kube.plan import Deletion, DesiredObject, Event, Plan
from rft_operator.pods.addresses import AddressProblem, locate
from rft_operator.pods.late import awaited_pods, blocked_pod, seconds_to_look
from rft_operator.pods.pod_view import PodView, describe_unready_sidecars, first_problem, first_sidecar_failure
from rft_operator.settings import Settings
from rft_operator.status.conditions import Finding, build_conditions, find_condition
from rft_operator.status.events import plan_events

READY_POLL_SECONDS = 60.0
"""Seconds between two requests to a server that answers."""


def plan_inference_endpoint(world: InferenceEndpointWorld, settings: Settings) -> Plan:
    """Plan an InferenceEndpoint."""
    endpoint = world.endpoint
    metadata = endpoint.metadata
    before = endpoint.status or InferenceEndpointStatus()
    scaling = _scale(world)
    objects, problem = _objects(world, scaling, settings)
    if problem is not None:
        finding = Finding(ConditionType.READY, "False", Reason.CONFIGURATION_INVALID, problem)
    elif endpoint.spec.model is not None:
        finding = _own_finding(world, _replicas(endpoint, scaling))
    else:
        finding = _adapter_finding(world)
    findings = [finding, *([_scaling_finding(world, scaling)] if scaling is not None else [])]
    conditions = build_conditions(findings, before.conditions, metadata.generation or 0, world.now)
    # What cannot be applied is not the number of pods that there are to be.
    autoscale = scaling.status if scaling is not None and problem is None else before.autoscale
    own = endpoint.spec.model is not None
    selector = ",".join(f"{key}={value}" for key, value in kinds.INFERENCE_ENDPOINT.child_labels(metadata.name).items())
    status = InferenceEndpointStatus(
        conditions=conditions,
        url=settings.exclusive_gateway or names.endpoint_url(metadata.name, metadata.namespace),
        model_name=metadata.name,
        replicas=len(_ready(world.pods)) if own else None,
        selector=selector if own else None,
        autoscale=autoscale if scaling is not None else None,
    )
    return Plan(
        desired=objects,
        deletions=_deletions(world, settings),
        status=status.to_json_object(),
        events=[*plan_events(before.conditions, conditions), *_scaling_events(before.autoscale, autoscale, scaling)],
        requeue_seconds=_requeue(world, settings, finding, scaling),
    )


def _scale(world: InferenceEndpointWorld) -> Scaling | None:
    """Decide on the number of server pods; None for an endpoint without autoscale."""
    spec, status = world.endpoint.spec, world.endpoint.status
    if spec.autoscale is None:
        return None
    before = status.autoscale if status is not None else None
    deployed = world.deployment.desired if world.deployment is not None else 0
    return scale(
        Situation(
            autoscale=spec.autoscale,
            cold_start=timedelta(seconds=duration_seconds((spec.cold_start or ColdStart()).timeout)),
            demand=world.demand,
            # The operator may have ended between the writes of the Deployment and of the status.
            pods=max(deployed, before.replicas if before is not None else 0),
            is_ready=bool(_ready(world.pods)),
            wake=world.endpoint.metadata.annotations.get(WAKE_ANNOTATION),
            before=before,
            now=world.now,
        )
    )


def _replicas(endpoint: InferenceEndpoint, scaling: Scaling | None) -> int:
    return endpoint.spec.replicas if scaling is None else scaling.replicas


def _scaling_finding(world: InferenceEndpointWorld, scaling: Scaling) -> Finding:
    kind = ConditionType.SCALING_ACTIVE
    if world.demand is None:
        text = (
            "spec.autoscale needs the gateway of the chart (gateway.enabled), and there is none; until then the number "
            f"of server pods is {scaling.replicas}"
        )
        return Finding(kind, "False", Reason.GATEWAY_MISSING, text)
    if world.demand.problem is not None:
        return Finding(kind, "False", Reason.DEMAND_INCOMPLETE, f"no server pod ends: {world.demand.problem}")
    return Finding(kind, "True", Reason.DEMAND_COMPLETE)


def _scaling_events(
    before: AutoscaleStatus | None, after: AutoscaleStatus | None, scaling: Scaling | None
) -> list[Event]:
    if scaling is None or before is None or after is None or before.replicas == after.replicas:
        return []
    return [Event("Normal", "Scaled", f"server pods: {before.replicas} to {after.replicas}: {scaling.why}")]


def _objects(
    world: InferenceEndpointWorld, scaling: Scaling | None, settings: Settings
) -> tuple[list[DesiredObject], str | None]:
    endpoint = world.endpoint
    try:
        if endpoint.spec.model is None:
            address = adapter_address(endpoint)
            assert address is not None  # the schema has exactly one of model and adapter
            address.split()
            service = DesiredObject(build_endpoint_service(endpoint), "it leads to the pods of the base endpoint")
            return [service], None if world.base is None else find_adapter_problem(endpoint, world.base)
        location = POD_PLACES["InferenceEndpoint"]
        exceeding = next(pod_violations(serving_of(endpoint).pod, settings.bounds, location), None)
        if exceeding is not None:
            return [], str(exceeding)
        # The status of an adapter that cannot be served here says why.
        adapters = [adapter for adapter in world.adapters if find_adapter_problem(adapter, endpoint) is None]
        listed = build_adapter_list(endpoint, adapters)
        size = sum(len(text.encode()) for text in listed["data"].values())
        if size > CONFIG_MAP_BYTES:
            return [], (
                f"the list of the {len(adapters)} InferenceEndpoints with this baseEndpoint has {size:,} bytes, and a "
                f"ConfigMap of Kubernetes {CONFIG_MAP_BYTES:,} at most: move some to another base endpoint"
            )
        replicas = _replicas(endpoint, scaling)
        why = "it runs the server" + (f", with replicas: {replicas} ({scaling.why})" if scaling is not None else "")
        objects = [
            DesiredObject(listed, "the loader reads which adapters to serve from it"),
            DesiredObject(build_server_deployment(endpoint, replicas, settings), why),
            DesiredObject(build_endpoint_service(endpoint), "it leads to the server's pods"),
        ]
        if settings.exclusive_gateway:
            policy = build_server_policy(endpoint, settings)
            objects.append(DesiredObject(policy, "it leaves the server's door to the gateway"))
        return objects if serving_of(endpoint).max_adapters else objects[1:], None
    except AddressProblem as error:
        return [], str(error)


def _deletions(world: InferenceEndpointWorld, settings: Settings) -> list[Deletion]:
    if settings.exclusive_gateway or world.policy_uid is None:
        return []
    name, why = names.server(world.endpoint.metadata.name), "the server may be asked by others than the gateway"
    return [Deletion(kinds.NETWORK_POLICY, name, world.policy_uid, why)]


def find_adapter_problem(adapter: InferenceEndpoint, base: InferenceEndpoint) -> str | None:
    """Return why a base endpoint cannot serve an adapter; None when it can."""
    address = adapter_address(adapter)
    assert address is not None  # an endpoint with a base has an adapter
    try:
        address.split()
    except AddressProblem as error:
        return str(error)
    violation = find_adapter_violation(adapter, base)
    return None if violation is None else str(violation)


def _own_finding(world: InferenceEndpointWorld, replicas: int) -> Finding:
    kind, autoscale = ConditionType.READY, world.endpoint.spec.autoscale
    if not replicas:
        text = "nobody asks for its models; a request to a gateway wakes it" if autoscale is not None else ""
        return Finding(kind, "False", Reason.SCALED_TO_ZERO, text)
    has_woken = autoscale is not None and not autoscale.minimum and world.demand is not None
    starting = Reason.WAKING if has_woken else Reason.STARTING
    if world.deployment is None:
        return Finding(kind, "False", starting, "the server is being created")
    ready = _ready(world.pods)
    problems = [answer.problem for pod in ready if (answer := world.answers.get(pod.name)) is not None]
    if any(problem is None for problem in problems):
        return Finding(kind, "True", Reason.READY)
    if problems:
        return Finding(kind, "False", Reason.NOT_ANSWERING, str(problems[0]))
    waiting = sorted((pod for pod in world.pods if not pod.ready and not pod.deleting), key=lambda pod: pod.name)
    for pod in waiting:
        if pod.terminated and pod.termination is not None:
            text = f"pod {pod.name}: {parse_failure(pod.termination.message).message}"
            invalid = pod.termination.exit_code == ExitCode.MODEL_INVALID
            return Finding(kind, "False", Reason.MODEL_INVALID if invalid else Reason.SERVER_FAILING, text)
    problem = first_problem(waiting)
    if problem is None and world.deployment.failure is not None:
        problem = Reason.PODS_MISSING, world.deployment.failure
    problem = problem or blocked_pod(waiting, world.warnings) or first_sidecar_failure(waiting)
    if problem is not None:
        return Finding(kind, "False", *problem)
    text = f"{len(waiting)} pods are starting"
    return Finding(kind, "False", starting, "; ".join(filter(None, [text, describe_unready_sidecars(waiting)])))


def _adapter_finding(world: InferenceEndpointWorld) -> Finding:
    kind = ConditionType.READY
    name = world.endpoint.spec.base_endpoint
    if world.base is None:
        return Finding(kind, "False", Reason.BASE_MISSING, f"InferenceEndpoint {name} does not exist")
    if not _status_replicas(world.base):
        return Finding(kind, "False", Reason.SCALED_TO_ZERO, f"InferenceEndpoint {name} has no replicas")
    ready = sorted(_ready(world.pods), key=lambda pod: pod.name)
    base_ready = find_condition(world.base.status.conditions if world.base.status else [], ConditionType.READY)
    if not ready and base_ready is not None and base_ready.reason == Reason.WAKING:
        return Finding(kind, "False", Reason.WAKING, f"InferenceEndpoint {name} starts")
    if not ready:
        return Finding(kind, "False", Reason.BASE_NOT_READY, f"no server pod of InferenceEndpoint {name} is ready")
    assert world.endpoint.spec.adapter is not None
    uri = adapter_uri(world.endpoint)
    for pod in ready:
        answer = world.answers.get(pod.name)
        report = answer.adapter if answer is not None else None
        if report is not None and report.uri == uri and report.state == "Failed":
            return Finding(kind, "False", Reason.ADAPTER_REJECTED, f"pod {pod.name}: {report.message}")
        if answer is None or report is None or report.uri != uri or report.state != "Loaded":
            text = report.message if report is not None else "the loader has not listed the adapter yet"
            return Finding(kind, "False", Reason.ADAPTER_LOADING, f"pod {pod.name}: {text}".rstrip(": "))
        if answer.problem is not None:
            return Finding(kind, "False", Reason.NOT_ANSWERING, f"pod {pod.name}: {answer.problem}")
    return Finding(kind, "True", Reason.READY)


def _status_replicas(base: InferenceEndpoint) -> int:
    """Return the number of server pods that a base is to have, as its status says it with autoscale."""
    if base.spec.autoscale is None:
        return base.spec.replicas
    autoscale = base.status.autoscale if base.status is not None else None
    return base.spec.autoscale.minimum if autoscale is None else autoscale.replicas


def adapter_uri(endpoint: InferenceEndpoint) -> str:
    """Return the address of the adapter as the loader reads it."""
    assert endpoint.spec.adapter is not None
    return locate(endpoint.spec.adapter.uri)


def _ready(pods: Sequence[PodView]) -> list[PodView]:
    return [pod for pod in pods if pod.ready and not pod.deleting]


def _requeue(
    world: InferenceEndpointWorld, settings: Settings, finding: Finding, scaling: Scaling | None
) -> float | None:
    """Return when to ask the servers again, or to scale. Changes of their pods are watched, and so are gateways."""
    seconds = [scaling.seconds if scaling is not None else None]
    if finding.status == "True":
        seconds.append(READY_POLL_SECONDS)
    elif _ready(world.pods):
        seconds.append(max(settings.poll_seconds, world.silent_seconds))
    else:
        seconds.append(seconds_to_look(awaited_pods(world.own_pods), world.now))
    return min((each for each in seconds if each is not None), default=None)
