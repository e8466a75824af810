"""Plan a RewardFunction: its server, and whether it is ready to score.

| code | newest pods | reason of the condition Ready |
|---|---|---|
| missing | | SourceMissing; the previous version continues to serve |
| too long, or too large for a ConfigMap | | ConfigurationInvalid; the previous version continues to serve |
| asks for what the bounds do not allow | | ConfigurationInvalid; the previous version continues to serve |
| rejected (exit code 10) | | ConfigurationInvalid |
| | cannot start | Unschedulable, ImagePullFailed, ContainerBlocked |
| | do not exist, because Kubernetes does not create them | PodsMissing |
| | wait for a container beside the server that ends again and again | SidecarFailing |
| | fail again and again | ServerFailing |
| | run, but tests fail | TestsFailing |
| | are not ready, but older pods are | RollingOut |
| | are not ready | Starting |
| | are ready, and no older pods are left | Ready |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rft_api.bounds import EGRESS_PLACES, POD_PLACES, egress_violations, pod_violations
from rft_api.conditions import ConditionType, Reason
from rft_api.exit_codes import ExitCode
from rft_api.manifests import SourceError, SourceMissing, resolve_source
from rft_api.model import Violation
from rft_api.readiness import NotReadyReason
from rft_api.remote_graders import judge_endpoints, leaves_cluster
from rft_api.render import reward_digest
from rft_api.reward_document import document_violation
from rft_api.reward_function import RewardFunction, RewardFunctionStatus
from rft_api.termination import parse_failure
from rft_operator.kube.kinds import CONFIG_MAP
from rft_operator.kube.plan import Deletion, DesiredObject, Plan
from rft_operator.pods.late import awaited_pods, blocked_pod, seconds_to_look
from rft_operator.pods.pod_view import PodView, describe_unready_sidecars, first_problem, first_sidecar_failure
from rft_operator.reward_function import names
from rft_operator.reward_function.objects import (
    build_network_policy,
    build_reward_configuration,
    build_reward_deployment,
    build_reward_service,
    build_token_secret,
    document_digest,
    function_document,
)
from rft_operator.reward_function.world import RewardFunctionWorld, source_names
from rft_operator.settings import Settings
from rft_operator.status.conditions import Finding, build_conditions
from rft_operator.status.events import plan_events

SOURCE_SECONDS = 60.0
"""Seconds between two requests for the ConfigMaps with code, which belong to users and are not watched."""


def plan_reward_function(world: RewardFunctionWorld, settings: Settings) -> Plan:
    """Plan a RewardFunction."""
    function = world.function
    before = function.status or RewardFunctionStatus()
    poll = SOURCE_SECONDS if source_names(function) else None
    try:
        resolved = resolve_source(function, world.sources)
    except SourceError as error:
        reason = Reason.SOURCE_MISSING if isinstance(error, SourceMissing) else Reason.CONFIGURATION_INVALID
        finding = Finding(ConditionType.READY, "False", reason, str(error))
        return _plan(world, before, finding, before.digest, [], [], poll)
    too_large = document_violation(function, function_document(resolved))
    if too_large is not None:
        finding = Finding(ConditionType.READY, "False", Reason.CONFIGURATION_INVALID, str(too_large))
        return _plan(world, before, finding, before.digest, [], [], poll)
    exceeding = next(_exceeding(function, settings), None)
    if exceeding is not None:
        finding = Finding(ConditionType.READY, "False", Reason.CONFIGURATION_INVALID, str(exceeding))
        return _plan(world, before, finding, before.digest, [], [], poll)
    finding = _finding(world, resolved)
    finding = replace(finding, message="; ".join(filter(None, [finding.message, *_unreachable(world)])))
    objects = [
        DesiredObject(
            build_reward_configuration(resolved), "the reward server reads the function from it", create_only=True
        ),
        DesiredObject(
            build_token_secret(resolved, world.new_token), "only who has the token may ask for scores", create_only=True
        ),
        DesiredObject(build_reward_service(resolved), "trainers reach the reward server through it"),
        DesiredObject(
            build_network_policy(resolved, world.endpoints, settings), "it limits what graded code can reach"
        ),
        DesiredObject(build_reward_deployment(resolved, settings), "it runs the reward server"),
    ]
    current = names.reward_configuration(function.metadata.name, document_digest(resolved))
    outdated = [c for c in world.configurations if c.name != current] if finding.status == "True" else []
    deletions = [
        Deletion(CONFIG_MAP, c.name, c.uid, "no pod reads this version of the function any more") for c in outdated
    ]
    if finding.status != "True" and any(_can_be_asked(pod) for pod in world.pods):
        poll = _earlier(poll, max(settings.poll_seconds, world.silent_seconds))
    look = seconds_to_look(awaited_pods(world.pods), world.now)
    return _plan(world, before, finding, reward_digest(resolved.spec), objects, deletions, _earlier(poll, look))


def _earlier(first: float | None, second: float | None) -> float | None:
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)


def _exceeding(function: RewardFunction, settings: Settings) -> Iterator[Violation]:
    """Yield what the function asks for beyond the bounds."""
    yield from pod_violations(function.spec.pod, settings.bounds, POD_PLACES["RewardFunction"])
    yield from egress_violations(function.spec.egress, settings.bounds.egress, EGRESS_PLACES["RewardFunction"])


def _unreachable(world: RewardFunctionWorld) -> Iterator[str]:
    """Yield messages about what the pods cannot reach; the pods themselves would only time out."""
    spec = world.function.spec
    if leaves_cluster(spec) and not spec.egress:
        yield "spec.egress is empty: the NetworkPolicy blocks connections to judges, Lambda functions and http servers"
    for name in judge_endpoints(spec):
        if name not in world.endpoints:
            yield f"InferenceEndpoint {name}, which judges, does not exist"


def _can_be_asked(pod: PodView) -> bool:
    """Return whether a pod can be asked why it is not ready, which Kubernetes does not report."""
    return pod.phase == "Running" and not pod.ready


def _plan(
    world: RewardFunctionWorld,
    before: RewardFunctionStatus,
    finding: Finding,
    digest: str | None,
    objects: Sequence[DesiredObject],
    deletions: Sequence[Deletion],
    requeue_seconds: float | None,
) -> Plan:
    metadata = world.function.metadata
    conditions = build_conditions([finding], before.conditions, metadata.generation or 0, world.now)
    status = RewardFunctionStatus(
        conditions=conditions, url=names.reward_url(metadata.name, metadata.namespace), digest=digest
    )
    return Plan(
        desired=objects,
        deletions=deletions,
        status=status.to_json_object(),
        events=plan_events(before.conditions, conditions),
        requeue_seconds=requeue_seconds,
    )


def _finding(world: RewardFunctionWorld, resolved: RewardFunction) -> Finding:
    kind = ConditionType.READY
    deployment = world.deployment
    if deployment is None or deployment.content_digest != document_digest(resolved):
        reason = Reason.ROLLING_OUT if deployment is not None and deployment.available > 0 else Reason.STARTING
        return Finding(kind, "False", reason, "the reward server is being created")
    if deployment.rolled_out:
        return Finding(kind, "True", Reason.READY)
    waiting = [pod for pod in world.pods if not pod.ready and not pod.deleting]
    problem = first_problem(waiting)
    if problem is not None:
        return Finding(kind, "False", *problem)
    for pod in sorted(waiting, key=lambda pod: pod.name):
        if pod.terminated and pod.termination is not None:
            invalid = pod.termination.exit_code == ExitCode.CONFIGURATION_INVALID
            # A program that refuses the function writes nothing but why, in as many lines as there are problems.
            text = pod.termination.message if invalid else parse_failure(pod.termination.message).message
            reason = Reason.CONFIGURATION_INVALID if invalid else Reason.SERVER_FAILING
            return Finding(kind, "False", reason, f"pod {pod.name}: {text}")
        readiness = world.readiness.get(pod.name)
        if readiness is not None and readiness.failures:
            tests_failed = any(failure.reason is NotReadyReason.TEST_FAILED for failure in readiness.failures)
            return Finding(
                kind, "False", Reason.TESTS_FAILING if tests_failed else Reason.SERVER_FAILING, readiness.message
            )
    if deployment.failure is not None:
        return Finding(kind, "False", Reason.PODS_MISSING, deployment.failure)
    problem = blocked_pod(waiting, world.warnings) or first_sidecar_failure(waiting)
    if problem is not None:
        return Finding(kind, "False", *problem)
    text = f"{deployment.updated} of {world.function.spec.replicas} pods are of the newest version"
    requirements = ", ".join(resolved.spec.requirements())
    if requirements and any(pod.phase == "Pending" and pod.start_time is not None for pod in waiting):
        text += f"; installing the packages {requirements}"
    text = "; ".join(filter(None, [text, describe_unready_sidecars(waiting)]))
    return Finding(kind, "False", Reason.ROLLING_OUT if deployment.available > 0 else Reason.STARTING, text)
