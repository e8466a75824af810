"""Plan an RFTJob: the objects that it needs, and its status."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rft_api.bounds import POD_PLACES, pod_violations
from rft_api.conditions import ConditionType, Reason, is_end
from rft_api.exit_codes import ExitCode, RunError
from rft_api.job_status import JobCheckpoint, JobProgress, JobResult, JobUsage, RFTJobStatus
from rft_api.progress import HackingVerdict
from rft_api.quantities import duration_seconds
from rft_api.render import reward_names
from rft_api.resource import Condition
from rft_api.rft_job import RFTJob
from rft_api.same_run import changes_of_job, changes_of_pods, with_live_fields
from rft_api.termination import RunResult, parse_result
from rft_operator.kube.kinds import CONFIG_MAP, JOB
from rft_operator.kube.plan import Deletion, DesiredObject, Plan
from rft_operator.kube.timestamps import format_timestamp, parse_timestamp
from rft_operator.pods.addresses import AddressProblem, check_addresses
from rft_operator.pods.late import seconds_to_look
from rft_operator.rft_job.attempts import Attempt, Outcome, find_cause
from rft_operator.rft_job.endpoint import plan_job_endpoint
from rft_operator.rft_job.gpu_memory import STATED
from rft_operator.rft_job.leftovers import plan_leftovers
from rft_operator.rft_job.memory_objects import build_memory_plan
from rft_operator.rft_job.objects import (
    build_run_configuration,
    build_trainer_service,
    build_training_job,
    current_digest,
)
from rft_operator.rft_job.plan_memory import (
    NOT_PLANNED,
    NOT_SAID,
    conclude,
    gate_start,
    memory_finding,
    plan_planning_end,
)
from rft_operator.rft_job.results import describe_progress, describe_result, finish_progress, remarks
from rft_operator.rft_job.run_state import RunFacts, RunState, awaited_objects, awaits_pod_status, decide_run_state
from rft_operator.rft_job.usage import count_usage, price_usage, seconds_of_gpus
from rft_operator.rft_job.world import RFTJobWorld
from rft_operator.settings import Settings
from rft_operator.status.conditions import Finding, build_conditions, find_condition, is_repeated, is_true
from rft_operator.status.events import plan_events

KEPT_ATTEMPTS = 2
"""Number of Jobs that are kept: that of the newest attempt, and the previous one for the logs of its pods."""
_OUTDATED = "the spec was changed before training started"
_SUPERSEDED = f"only the newest {KEPT_ATTEMPTS} attempts are kept"


def plan_rft_job(world: RFTJobWorld, settings: Settings) -> Plan:
    """Plan an RFTJob."""
    before = world.job.status or RFTJobStatus()
    start_time = _start_time(world, before)
    job, changed = _accepted_job(world, started=start_time is not None)
    usage = count_usage(before.usage, world.pods, job.spec.compute.pod_gpus, world.now)
    rewards = _final_rewards_finding(before) or _rewards_finding(world, job)
    state, objects, problem = _state(world, settings, job, before, start_time, usage.gpu_seconds if usage else 0)
    progress, result, checkpoints, verdict = _outcome(world, job, before)
    base_model = (result and result.base_model) or job.spec.model.uri
    succeeded = state.status == "True"
    # Only of checkpoints that the status has had before, it is known whether others have the names of their endpoints.
    known = before.checkpoints if succeeded else []
    endpoint = plan_job_endpoint(replace(world, job=job), succeeded, base_model, known)

    leftovers, leftovers_due = plan_leftovers(world, before, state)

    findings = [_run_finding(state, world), _spec_finding(changed, problem), rewards]
    if job.spec.compute.on_gpus:
        findings.append(_memory_finding(world, job, before, start_time is not None))
    if job.spec.shadow_rewards:
        findings.append(_hacking_finding(verdict, before))
    if endpoint.finding is not None:
        findings.append(endpoint.finding)
    conditions = build_conditions(findings, before.conditions, job.metadata.generation or 0, world.now)
    planners, planners_due = plan_planning_end(
        world.planning,
        unwanted=_find_end(before) is not None or start_time is not None or job.spec.suspend or _is_outdated(world),
        decided=bool(world.attempts) or state.ended or state.start is not None,
        recorded=bool(world.attempts) and is_repeated(before.conditions, conditions, ConditionType.FITS),
    )
    status = RFTJobStatus(
        conditions=conditions,
        progress=progress,
        result=result,
        checkpoints=checkpoints,
        usage=usage and price_usage(usage, result, settings.gpu_hour_price),
        start_time=None if start_time is None else format_timestamp(start_time),
        completion_time=(before.completion_time or format_timestamp(world.now)) if state.ended else None,
        retries=state.retries,
    )
    return Plan(
        desired=[*objects, *endpoint.desired],
        deletions=[*planners, *_deletions(world, state, start_time), *leftovers],
        status=status.to_json_object(),
        events=plan_events(before.conditions, conditions),
        requeue_seconds=_earlier(
            _requeue(world, settings, state, start_time, usage), _earlier(leftovers_due, planners_due)
        ),
    )


def _accepted_job(world: RFTJobWorld, started: bool) -> tuple[RFTJob, list[str]]:
    """Return the job with the spec that the run uses, and the fields in which the current spec differs.

    A run that has started uses the spec that it started with, except for the fields that may change.
    """
    job = world.job
    if world.configuration is None or not started:
        return job, []
    started_with = world.configuration.spec
    changes = [change.path for change in changes_of_job(started_with, job.spec)]
    return job.model_copy(update={"spec": with_live_fields(started_with, job.spec) if changes else job.spec}), changes


def _start_time(world: RFTJobWorld, before: RFTJobStatus) -> datetime | None:
    """Return when the first container of a trainer started. Before that, every change of the spec is accepted."""
    starts = [pod.running_since for pod in world.pods if pod.running_since is not None]
    return parse_timestamp(before.start_time) or min(starts, default=None)


def _state(
    world: RFTJobWorld,
    settings: Settings,
    job: RFTJob,
    before: RFTJobStatus,
    start_time: datetime | None,
    gpu_seconds: int,
) -> tuple[RunState, list[DesiredObject], str | None]:
    """Return the state of the run, the objects that it needs now, and the error of the spec, if it has one."""
    newest = world.newest
    end = _find_end(before)
    if end is not None:
        # The end is final, even when the objects from which it was derived change or disappear.
        state = RunState(end.status, Reason(end.reason), end.message, before.retries or 0)
        return replace(state, stop=_unfinished(newest), why="the run has ended"), [], None
    if awaits_pod_status(newest, world.pods, world.now):
        return (
            RunState(
                "Unknown",
                Reason.RUNNING,
                "the trainer has ended; waiting for the status of its pods",
                requeue_seconds=1,
            ),
            [],
            None,
        )
    if start_time is None and _is_outdated(world):
        text = "the spec has changed; the objects of the previous spec are being deleted"
        state = RunState("Unknown", Reason.STARTING, text, stop=_unfinished(newest), why=_OUTDATED, requeue_seconds=1)
        return state, [], None
    objects, problem = _base_objects(world, job, settings)
    rewards = _rewards_finding(world, job)
    blocked = None
    if problem is not None:
        blocked = (Reason.CONFIGURATION_INVALID, problem)
    elif rewards.status != "True":
        blocked = (Reason.WAITING_FOR_REWARDS, rewards.message)
    state = decide_run_state(
        RunFacts(
            suspend=job.spec.suspend,
            limits=job.spec.limits,
            attempts=world.attempts,
            pods=world.pods,
            progress=world.progress,
            start_time=start_time,
            gpu_seconds=gpu_seconds,
            blocked=blocked,
            now=world.now,
            warnings=world.warnings,
        )
    )
    if state.start is not None and start_time is None and not world.attempts and job.spec.compute.on_gpus:
        state = gate_start(state, world.planning, job.spec.compute, world.now)
        if state.start is None and not state.ended:
            return state, [*objects, *_planner(world, job, settings)], problem
    if state.start is None:
        continues = _unfinished(newest) is not None and state.stop is None
        return state, objects if continues else [], problem
    uids = {name: function.metadata.uid or "" for name, function in world.reward_functions.items()}
    attempt = build_training_job(job, state.start, state.retries, uids, settings)
    desired = DesiredObject(attempt, f"it runs attempt {state.start + 1}: {state.why}", create_only=True)
    return state, [*objects, desired], problem


def awaits_gpu_memory(world: RFTJobWorld) -> bool:
    """Return whether the Job that plans the memory may be created now, and needs to know what nodes say."""
    job, before = world.job, world.job.status or RFTJobStatus()
    if not job.spec.compute.on_gpus or job.spec.compute.gpu_memory is not None or job.spec.suspend:
        return False
    if world.planning is not None or world.attempts or _start_time(world, before) is not None:
        return False
    return _find_end(before) is None and _rewards_finding(world, job).status == "True"


def _planner(world: RFTJobWorld, job: RFTJob, settings: Settings) -> list[DesiredObject]:
    """Return the Job that plans the memory, when there is none."""
    if world.planning is not None:
        return []
    gpu = world.gpu_memory if job.spec.compute.gpu_memory is None else STATED
    planner = build_memory_plan(job, gpu, settings)
    return [DesiredObject(planner, "it plans the memory before the first attempt", create_only=True)]


def _base_objects(world: RFTJobWorld, job: RFTJob, settings: Settings) -> tuple[list[DesiredObject], str | None]:
    """Return the objects that every attempt needs, or the error because of which they cannot be built."""
    # A single pod needs no Service.
    why = "the trainer's pods find each other through it"
    service = [DesiredObject(build_trainer_service(job), why, create_only=True)] if job.spec.compute.nodes > 1 else []
    exceeding = next(pod_violations(job.spec.compute.pod, settings.bounds, POD_PLACES["RFTJob"]), None)
    if exceeding is not None:
        return service, str(exceeding)
    if world.configuration is not None:
        return service, None
    try:
        check_addresses(job)
        if set(reward_names(job)) <= world.reward_functions.keys():
            configuration = build_run_configuration(job, world.reward_functions)
            return [DesiredObject(configuration, "every attempt reads it", create_only=True), *service], None
    except (RunError, AddressProblem) as error:
        return [], str(error)
    return [], None


def _is_outdated(world: RFTJobWorld) -> bool:
    """Return whether the configuration was written for another spec.

    Before training, changes of what pods are made of count, too: an image that does not exist can be corrected.
    """
    if world.configuration is None:
        return False
    return bool(changes_of_pods(world.configuration.spec, world.job.spec))


def _unfinished(newest: Attempt | None) -> Attempt | None:
    if newest is None or newest.outcome is not Outcome.UNFINISHED or newest.deleting or newest.ending:
        return None
    return newest


def _run_finding(state: RunState, world: RFTJobWorld) -> Finding:
    message = state.message
    run_result = _run_result(world)
    if state.reason is Reason.SUCCEEDED and not message and run_result is not None:
        message = remarks(run_result)
    return Finding(ConditionType.SUCCEEDED, state.status, state.reason, message)


def _spec_finding(changed: list[str], problem: str | None) -> Finding:
    kind = ConditionType.SPEC_ACCEPTED
    if problem is not None:
        return Finding(kind, "False", Reason.CONFIGURATION_INVALID, problem)
    if changed:
        text = f"training has started with other values of {', '.join(changed)}, and continues with them"
        return Finding(kind, "False", Reason.SPEC_CHANGE_REJECTED, text)
    return Finding(kind, "True", Reason.ACCEPTED)


def _find_end(before: RFTJobStatus) -> Condition | None:
    """Return the condition that says that the job has ended, or None while it has not."""
    return next((condition for condition in before.conditions if is_end(condition.type, condition.status)), None)


def _final_rewards_finding(before: RFTJobStatus) -> Finding | None:
    """Return the condition of the rewards when the job ended; later changes of the rewards do not affect it."""
    condition = find_condition(before.conditions, ConditionType.REWARDS_READY)
    if condition is None or _find_end(before) is None:
        return None
    return _repeat(condition, ConditionType.REWARDS_READY)


def _rewards_finding(world: RFTJobWorld, job: RFTJob) -> Finding:
    kind = ConditionType.REWARDS_READY
    rewards = reward_names(job)
    for name in rewards:
        if name in world.invalid_rewards:
            text = f"RewardFunction {name} is not Ready: {Reason.CONFIGURATION_INVALID}: {world.invalid_rewards[name]}"
            return Finding(kind, "False", Reason.REWARD_NOT_READY, text)
    missing = [name for name in rewards if name not in world.reward_functions]
    if missing:
        return Finding(kind, "False", Reason.REWARD_MISSING, f"RewardFunction {', '.join(missing)} does not exist")
    functions = {name: world.reward_functions[name] for name in rewards}
    for name, function in functions.items():
        conditions = function.status.conditions if function.status is not None else []
        if not is_true(conditions, ConditionType.READY, function.metadata.generation):
            ready = find_condition(conditions, ConditionType.READY)
            why = f": {ready.reason}: {ready.message}".rstrip(": ") if ready is not None else ""
            return Finding(kind, "False", Reason.REWARD_NOT_READY, f"RewardFunction {name} is not Ready{why}")
    digests = world.configuration.reward_digests if world.configuration is not None else {}
    changed = [name for name in rewards if name in digests and digests[name] != current_digest(functions[name])]
    if changed:
        text = f"RewardFunction {', '.join(changed)} was changed since the run started"
        return Finding(kind, "True", Reason.REWARD_CHANGED, text)
    return Finding(kind, "True", Reason.REWARDS_READY)


def _memory_finding(world: RFTJobWorld, job: RFTJob, before: RFTJobStatus, started: bool) -> Finding:
    """Return whether the planned memory fits, by what is said about it now, or else as it was said before."""
    kind, newest = ConditionType.FITS, world.newest
    if newest is not None and newest.outcome is Outcome.PERMANENT:
        cause = find_cause(newest, world.pods)
        if cause.code is ExitCode.DOES_NOT_FIT:
            return Finding(kind, "False", Reason.DOES_NOT_FIT, cause.message)
    if world.progress is not None and world.progress.memory is not None:
        return memory_finding(world.progress.memory, job.spec.compute, started=True)
    ended, previous = _find_end(before) is not None, find_condition(before.conditions, kind)
    verdict = None if started or ended else conclude(world.planning, world.now)
    if verdict is not None:
        return memory_finding(verdict, job.spec.compute, started=False)
    # Before the first attempt, what was said before may be about another spec.
    if not (world.attempts or started or ended):
        return Finding(kind, "Unknown", Reason.NOT_PLANNED, NOT_PLANNED)
    return Finding(kind, "Unknown", Reason.NOT_PLANNED, NOT_SAID) if previous is None else _repeat(previous, kind)


def _hacking_finding(verdict: HackingVerdict | None, before: RFTJobStatus) -> Finding:
    """Return the verdict of the trainer, or the previous one while the trainer restarts or after it has ended."""
    kind = ConditionType.REWARD_HACKING_SUSPECTED
    previous = find_condition(before.conditions, kind)
    if verdict is None and previous is not None:
        return _repeat(previous, kind)
    if verdict is None or verdict.suspected is None:
        return Finding(kind, "Unknown", Reason.NOT_COMPARED, verdict.message if verdict is not None else "")
    if verdict.suspected:
        return Finding(kind, "True", Reason.SHADOW_FALLS, verdict.message)
    return Finding(kind, "False", Reason.SHADOWS_AGREE, verdict.message)


def _repeat(condition: Condition, kind: ConditionType) -> Finding:
    return Finding(kind, condition.status, Reason(condition.reason), condition.message)


def _outcome(
    world: RFTJobWorld, job: RFTJob, before: RFTJobStatus
) -> tuple[JobProgress | None, JobResult | None, list[JobCheckpoint], HackingVerdict | None]:
    """Return the newest progress, result, checkpoints and verdict about reward hacking."""
    progress = before.progress if world.progress is None else describe_progress(world.progress)
    run_result = _run_result(world)
    if run_result is not None:
        described = describe_result(run_result, job.spec.output.uri, job.spec.model.uri)
        return finish_progress(progress, run_result), *described, run_result.reward_hacking
    verdict = world.progress.reward_hacking if world.progress is not None else None
    return progress, before.result, list(before.checkpoints), verdict


def _run_result(world: RFTJobWorld) -> RunResult | None:
    """Return what the trainer's pods say about the result of a run that has succeeded; None before that."""
    newest = world.newest
    if newest is None or newest.outcome is not Outcome.SUCCEEDED:
        return None
    messages = [
        pod.termination.message for pod in world.pods if pod.job_uid == newest.uid and pod.termination is not None
    ]
    return next((result for message in messages if (result := parse_result(message)) is not None), None)


def _deletions(world: RFTJobWorld, state: RunState, start_time: datetime | None) -> list[Deletion]:
    attempts = [(attempt, _SUPERSEDED) for attempt in world.attempts[:-KEPT_ATTEMPTS]]
    if state.stop is not None:
        attempts.append((state.stop, state.why))
    deletions = [Deletion(JOB, attempt.name, attempt.uid, why) for attempt, why in attempts if not attempt.deleting]
    configuration = world.configuration if _is_outdated(world) and not world.plans_memory else None
    if configuration is not None and start_time is None and not state.ended:
        deletions.append(Deletion(CONFIG_MAP, configuration.name, configuration.uid, _OUTDATED))
    return deletions


def _requeue(
    world: RFTJobWorld, settings: Settings, state: RunState, start_time: datetime | None, usage: JobUsage | None
) -> float | None:
    """Return when to reconcile again: for the progress of a running trainer, late pods, or when a limit is reached.

    All other changes are watched.
    """
    if state.ended:
        return None
    if state.requeue_seconds is not None:
        return state.requeue_seconds
    deadline = world.job.spec.limits.deadline
    left = None
    if deadline is not None and start_time is not None:
        left = max(0.0, (start_time - world.now).total_seconds() + duration_seconds(deadline))
    if state.reason is Reason.RUNNING:
        silent = _earlier(world.silent_seconds, _earlier(left, seconds_of_gpus(world.job.spec, usage)))
        return max(settings.poll_seconds, silent or 0.0)
    return _earlier(left, seconds_to_look(awaited_objects(world.newest, world.pods), world.now))


def _earlier(first: float | None, second: float | None) -> float | None:
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)
