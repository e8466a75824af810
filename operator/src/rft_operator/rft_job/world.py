"""The world of an RFTJob: its observed state, and that of the objects on which its plan depends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from rft_api.conditions import ConditionType
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.manifests import describe_invalid
from rft_api.model import Json
from rft_api.progress import Progress
from rft_api.render import reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob, RFTJobSpec
from rft_api.trainer_config import TrainerConfig
from rft_operator.kube.kinds import CONFIG_MAP, INFERENCE_ENDPOINT, JOB, POD, REWARD_FUNCTION, RFT_JOB
from rft_operator.kube.store import Key, Store
from rft_operator.pods.pod_view import PodView, read_pod
from rft_operator.rft_job import names
from rft_operator.rft_job.attempts import Attempt, Outcome, read_attempt
from rft_operator.rft_job.gpu_memory import NOT_ASKED, GpuMemory
from rft_operator.rft_job.objects import CONFIGURATION_KEY, SPEC_KEY
from rft_operator.rft_job.plan_memory import MemoryPlanning, read_memory_planning

MAXIMUM_SHARING = 100
"""Largest number of jobs that own a base endpoint together.

Each of them reads all others whenever the endpoint changes: a thousand took a second of the operator's time for each.
"""


@dataclass(frozen=True)
class RunConfiguration:
    """The ConfigMap with the configuration of a run."""

    name: str
    """Name of the ConfigMap."""
    uid: str
    """Uid of the ConfigMap."""
    spec: RFTJobSpec
    """The spec that the run started with."""
    reward_digests: Mapping[str, str]
    """Digests of the rewards that the run started with, by name."""


@dataclass(frozen=True)
class RFTJobWorld:
    """Everything on which the plan for an RFTJob depends."""

    job: RFTJob
    """The job itself."""
    reward_functions: Mapping[str, RewardFunction]
    """The valid RewardFunctions that the job refers to, by name."""
    configuration: RunConfiguration | None
    """The configuration of the run; None before it is written."""
    attempts: Sequence[Attempt]
    """The attempts, ordered by their numbers."""
    pods: Sequence[PodView]
    """The pods of all attempts."""
    progress: Progress | None
    """The current progress of the trainer; None when the trainer did not answer."""
    endpoints: Mapping[str, InferenceEndpoint]
    """The existing InferenceEndpoints that the job names, by name."""
    sharing_jobs: Sequence[RFTJob]
    """The jobs of the namespace, including this one, whose adapters are served by the same base endpoint.

    Empty before the job has succeeded, and when more than MAXIMUM_SHARING share it: it then has no owners.
    """
    now: datetime
    """The current time."""
    invalid_rewards: Mapping[str, str] = field(default_factory=dict)
    """The errors of those RewardFunctions that exist but are not valid, by name."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What events say about late objects, by uid; see `pods.late`."""
    planning: MemoryPlanning | None = None
    """The Job that plans the memory before the first attempt; None when there is none."""
    planner_runs: bool = False
    """Whether a pod that plans the memory may be running; it ends a little later than its Job is gone."""
    gpu_memory: GpuMemory = NOT_ASKED
    """What nodes say about the GPUs of a job that is about to start."""
    silent_seconds: float = 0.0
    """Seconds until a trainer that does not answer is asked again; see `pods.silence`."""

    @property
    def newest(self) -> Attempt | None:
        """The newest attempt; None before the first."""
        return self.attempts[-1] if self.attempts else None

    @property
    def plans_memory(self) -> bool:
        """Whether the memory is still planned from the ConfigMap, which is not replaced before that has ended.

        Without the ConfigMap, nothing says that a plan is of the previous spec. And a kubelet gives the ConfigMap of a
        running pod, because it is immutable, to all later pods that mount one of this name.
        """
        return self.planning is not None or self.planner_runs


def read_run_configuration(config_map: Json) -> RunConfiguration | None:
    """Read the configuration of a run from its ConfigMap; None when it cannot be read by this version."""
    data = config_map.get("data", {})
    try:
        spec = RFTJobSpec.model_validate(json.loads(data[SPEC_KEY]))
        config = TrainerConfig.model_validate_json(data[CONFIGURATION_KEY])
    except (KeyError, ValueError, ValidationError):
        return None
    digests = {name: target.digest for name, target in config.rewards.items()}
    metadata = config_map["metadata"]
    return RunConfiguration(metadata["name"], metadata["uid"], spec, digests)


def gather_rft_job(store: Store, key: Key, job: RFTJob, progress: Progress | None, now: datetime) -> RFTJobWorld:
    """Gather the world of an RFTJob.

    Args:
        store: the watched objects.
        key: the key of the job.
        job: the job.
        progress: the current progress of the trainer.
        now: the current time.
    """
    uid = job.metadata.uid or ""
    configurations = [
        run_configuration
        for config_map in store.children(key, CONFIG_MAP, uid)
        if (run_configuration := read_run_configuration(config_map)) is not None
    ]
    configuration = configurations[0] if configurations else None
    # A run that has started keeps the rewards that it started with, whatever the spec says now.
    started_with = configuration.reward_digests if configuration is not None else {}
    functions, invalid = {}, {}
    for target in sorted({*reward_names(job), *started_with}):
        stored = store.get(Key(REWARD_FUNCTION.name, key.namespace, target))
        if stored is None:
            continue
        try:
            functions[target] = RewardFunction.model_validate(stored)
        except ValidationError as error:
            invalid[target] = describe_invalid(stored, error)
    endpoints = {}
    for name in _endpoint_names(job):
        endpoint = store.read(InferenceEndpoint, Key(INFERENCE_ENDPOINT.name, key.namespace, name))
        if endpoint is not None:
            endpoints[endpoint.metadata.name] = endpoint
    pods = trainer_pods(store, key)
    jobs = store.children(key, JOB, uid)
    planner, planning_pods = names.memory_plan(key.name), _planning_pods(store, key)
    attempts = [read_attempt(child, pods) for child in jobs if child["metadata"]["name"] != planner]
    planning = [read_memory_planning(child, planning_pods) for child in jobs if child["metadata"]["name"] == planner]
    conditions = job.status.conditions if job.status is not None else []
    has_succeeded = any(attempt.outcome is Outcome.SUCCEEDED for attempt in attempts) or any(
        condition.type == ConditionType.SUCCEEDED and condition.status == "True" for condition in conditions
    )
    return RFTJobWorld(
        job=job,
        reward_functions=functions,
        configuration=configuration,
        attempts=sorted(attempts, key=lambda attempt: attempt.number),
        pods=pods,
        progress=progress,
        endpoints=endpoints,
        sharing_jobs=_sharing_jobs(store, key, job) if has_succeeded else [],
        now=now,
        invalid_rewards=invalid,
        planning=planning[0] if planning else None,
        planner_runs=any(pod.active for pod in planning_pods),
    )


def trainer_pods(store: Store, key: Key) -> list[PodView]:
    """Return the pods of all attempts of an RFTJob."""
    return [read_pod(pod, names.TRAINER) for pod in store.children(key, POD) if not _plans(pod, key)]


def _planning_pods(store: Store, key: Key) -> list[PodView]:
    return [read_pod(pod, names.PLANNER) for pod in store.children(key, POD) if _plans(pod, key)]


def _plans(pod: Json, key: Key) -> bool:
    """Return whether a pod plans the memory of a run. Its labels do not say it: users may add labels to trainers."""
    owners, planner = pod["metadata"].get("ownerReferences", []), names.memory_plan(key.name)
    return any((owner["kind"], owner["name"]) == (JOB.name, planner) for owner in owners)


def _endpoint_names(job: RFTJob) -> set[str]:
    """Return the names of the endpoints on which the plan of a job depends."""
    endpoint, base = job.spec.endpoint, base_endpoint_name(job)
    if endpoint is None:
        return set()
    kept = job.status.checkpoints if job.status is not None and endpoint.checkpoints else []
    steps = {names.checkpoint_endpoint(endpoint.name, checkpoint.step) for checkpoint in kept}
    return {endpoint.name, *steps, *([base] if base is not None else [])}


def base_endpoint_name(job: RFTJob) -> str | None:
    """Return the name of the endpoint whose server serves the adapter of a job.

    None when the job has no endpoint, or serves a whole model.
    """
    endpoint = job.spec.endpoint
    if endpoint is None or job.spec.tuning.type == "Full":
        return None
    return endpoint.base_endpoint or names.base_endpoint(endpoint.name)


def _sharing_jobs(store: Store, key: Key, job: RFTJob) -> list[RFTJob]:
    base = base_endpoint_name(job)
    if base is None:
        return []
    referrers = store.referrers(Key(INFERENCE_ENDPOINT.name, key.namespace, base))
    targets = [target for target in referrers if target.kind == RFT_JOB.name and target != key]
    if len(targets) >= MAXIMUM_SHARING:
        return []
    others = [other for target in targets if (other := store.read(RFTJob, target)) is not None]
    return [job, *(other for other in others if base_endpoint_name(other) == base)]
