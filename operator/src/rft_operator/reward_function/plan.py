"""Plans a RewardFunction: its server, and whether it scores.

| code | newest pods | Ready |
|---|---|---|
| missing | | SourceMissing; what was served goes on |
| refused (exit code 10) | | ConfigurationInvalid |
| | cannot start | Unschedulable, ImagePullFailed, ContainerBlocked |
| | end again and again | ServerFailing |
| | run, tests fail | TestsFailing |
| | not ready yet, older ones are | RollingOut |
| | not ready yet | Starting |
| | ready, and no others are left | Ready |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rft_api.exit_codes import ExitCode
from rft_api.manifests import SourceMissing, resolve_source
from rft_api.readiness import NotReadyReason
from rft_api.remote_graders import judge_endpoints, leaves_cluster
from rft_api.render import reward_digest
from rft_api.reward_function import RewardFunction, RewardFunctionStatus
from rft_api.termination import parse_failure
from rft_operator.kube.kinds import CONFIG_MAP
from rft_operator.kube.plan import Deletion, Desired, Plan
from rft_operator.pods.pod_view import PodView, worst_problem
from rft_operator.reward_function import names
from rft_operator.reward_function.objects import (
    build_network_policy,
    build_reward_configuration,
    build_reward_deployment,
    build_reward_service,
    build_token_secret,
    document_digest,
)
from rft_operator.reward_function.world import RewardFunctionWorld, source_names
from rft_operator.settings import Settings
from rft_operator.status.conditions import Finding, build_conditions
from rft_operator.status.events import plan_events
from rft_operator.status.reasons import ConditionType, Reason

SOURCE_SECONDS = 60.0
"""Time between two looks at the ConfigMaps that code is read from: they are the user's, and not watched."""


def plan_reward_function(world: RewardFunctionWorld, settings: Settings) -> Plan:
    """The plan for a RewardFunction."""
    function = world.function
    before = function.status or RewardFunctionStatus()
    poll = SOURCE_SECONDS if source_names(function) else None
    try:
        resolved = resolve_source(function, world.sources)
    except SourceMissing as missing:
        finding = Finding(ConditionType.READY, "False", Reason.SOURCE_MISSING, str(missing))
        return _plan(world, before, finding, before.digest, [], [], poll)
    finding = _finding(world, resolved)
    finding = replace(finding, message="; ".join(filter(None, [finding.message, *_unreachable(world)])))
    objects = [
        Desired(build_reward_configuration(resolved), "the reward server reads the function from it", once=True),
        Desired(build_token_secret(resolved, world.new_token), "only who has the token may ask for scores", once=True),
        Desired(build_reward_service(resolved), "trainers reach the reward server through it"),
        Desired(build_network_policy(resolved, world.endpoints, settings), "it limits what graded code can reach"),
        Desired(build_reward_deployment(resolved, settings), "it runs the reward server"),
    ]
    current = names.reward_configuration(function.metadata.name, document_digest(resolved))
    old = [c for c in world.configurations if c.name != current] if finding.status == "True" else []
    deletions = [Deletion(CONFIG_MAP, c.name, c.uid, "no pod reads this version of the function any more") for c in old]
    if finding.status != "True" and any(_may_tell(pod) for pod in world.pods):
        poll = settings.poll_seconds
    return _plan(world, before, finding, reward_digest(resolved.spec), objects, deletions, poll)


def _unreachable(world: RewardFunctionWorld) -> Iterator[str]:
    """What the pods cannot reach as things are; they would only see that nothing answers."""
    spec = world.function.spec
    if leaves_cluster(spec) and not spec.egress:
        yield "spec.egress is empty: the NetworkPolicy lets the reward server reach no judge, Lambda or http server"
    for name in judge_endpoints(spec):
        if name not in world.endpoints:
            yield f"there is no InferenceEndpoint {name}, which is to judge"


def _may_tell(pod: PodView) -> bool:
    """Whether a pod can be asked why it is not ready, which Kubernetes does not announce."""
    return pod.phase == "Running" and not pod.ready


def _plan(
    world: RewardFunctionWorld,
    before: RewardFunctionStatus,
    finding: Finding,
    digest: str | None,
    objects: Sequence[Desired],
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
        older = deployment is not None and deployment.available > 0
        return Finding(kind, "False", Reason.ROLLING_OUT if older else Reason.STARTING, "creating the reward server")
    if deployment.rolled_out:
        return Finding(kind, "True", Reason.READY)
    waiting = [pod for pod in world.pods if not pod.ready and not pod.deleting]
    problem = worst_problem(waiting)
    if problem is not None:
        return Finding(kind, "False", *problem)
    for pod in sorted(waiting, key=lambda pod: pod.name):
        if pod.ended and pod.ending is not None:
            text = f"pod {pod.name}: {parse_failure(pod.ending.message).message}"
            refused = pod.ending.exit_code == ExitCode.CONFIGURATION_INVALID
            return Finding(kind, "False", Reason.CONFIGURATION_INVALID if refused else Reason.SERVER_FAILING, text)
        readiness = world.readiness.get(pod.name)
        if readiness is not None and readiness.failures:
            tests = any(failure.reason is NotReadyReason.TEST_FAILED for failure in readiness.failures)
            return Finding(kind, "False", Reason.TESTS_FAILING if tests else Reason.SERVER_FAILING, readiness.message)
    older = deployment.available > 0
    text = f"{deployment.updated} of {world.function.spec.replicas} pods are of the newest version"
    return Finding(kind, "False", Reason.ROLLING_OUT if older else Reason.STARTING, text)
