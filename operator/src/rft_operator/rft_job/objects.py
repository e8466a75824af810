"""Build the objects of a training run: its configuration, the Service of its pods, and the Job of an attempt.

`memory_objects` builds the Job that plans before the first attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rft_api.config_map_size import CONFIG_MAP_BYTES, size_violation
from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Json
from rft_api.render import RewardAddress, render_trainer_config, reward_digest, reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.termination import TERMINATION_FILE
from rft_operator.kube import kinds
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.pods import paths
from rft_operator.pods.addresses import Mounts, job_addresses, locate
from rft_operator.pods.template import Container, build_container, build_pod_template, override_pod, scrape_annotations
from rft_operator.reward_function.names import reward_token, reward_url
from rft_operator.rft_job import names
from rft_operator.settings import Settings

GRACE_SECONDS = 600
"""Seconds for which a trainer may save a checkpoint after its pod is told to stop."""

# Indexes of the rules in the podFailurePolicy; the condition Failed of a Job names its rule by the index.
RULE_PERMANENT, RULE_DISRUPTION, RULE_INTERRUPTED = range(3)

CONFIGURATION_KEY = "job.json"
"""Key of the configuration of the trainer."""
SPEC_KEY = "spec.json"
"""Key of the spec that the run started with, to which later specs are compared."""


def build_run_configuration(job: RFTJob, reward_functions: Mapping[str, RewardFunction]) -> Json:
    """Build the ConfigMap with the configuration of a run. It is immutable, because a resumed run must not change.

    Raises:
        RunError: when the spec cannot be rendered, or is too large for a ConfigMap.
    """
    namespace = job.metadata.namespace
    rewards = {
        name: RewardAddress(reward_url(name, namespace), f"{paths.TOKENS}/{name}/token") for name in reward_names(job)
    }
    config = render_trainer_config(job, reward_functions, rewards, locate)
    targets = {
        name: target.model_copy(update={"digest": current_digest(reward_functions[name])})
        for name, target in config.rewards.items()
    }
    config = config.model_copy(update={"rewards": targets})
    spec = job.spec.to_json_object()
    data = {
        CONFIGURATION_KEY: json.dumps(config.to_json_object(), indent=1, ensure_ascii=False) + "\n",
        SPEC_KEY: json.dumps(spec, ensure_ascii=False) + "\n",
    }
    total = sum(len(text.encode()) for text in data.values())
    if total > CONFIG_MAP_BYTES:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, str(size_violation(spec, ("spec",), total, "shorten this field"))
        )
    return build_object(
        kinds.CONFIG_MAP,
        Owner.of(job),
        names.run_configuration(job.metadata.name),
        {"immutable": True, "data": data},
    )


def current_digest(function: RewardFunction) -> str:
    """Return the digest of the code of a reward; the status of the function includes code from ConfigMaps."""
    digest = function.status.digest if function.status is not None else None
    return digest or reward_digest(function.spec)


def build_trainer_service(job: RFTJob) -> Json:
    """Build the headless Service through which the pods of a trainer find each other, even before they are ready."""
    selector = kinds.RFT_JOB.child_labels(job.metadata.name)
    return build_object(
        kinds.SERVICE,
        Owner.of(job),
        names.trainer_service(job.metadata.name),
        {
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": selector,
                "ports": [{"name": "metrics", "port": names.PROGRESS_PORT, "targetPort": names.PROGRESS_PORT}],
            }
        },
    )


def build_training_job(
    job: RFTJob, attempt: int, retries_before: int, reward_uids: Mapping[str, str], settings: Settings
) -> Json:
    """Build the Indexed Job of one attempt.

    The failure of one pod ends the whole Job, because processes that train together cannot continue without one of
    them; the operator then starts the next attempt with all pods. The podFailurePolicy distinguishes permanent errors,
    interruptions and other failures.

    Args:
        job: the RFTJob.
        attempt: the number of the attempt, from 0.
        retries_before: the number of failures before it that count against the limit of retries.
        reward_uids: the uids of the RewardFunctions, by name.
        settings: the settings of the operator.
    """
    labels = {**kinds.RFT_JOB.child_labels(job.metadata.name), names.ATTEMPT: str(attempt)}
    queue = {names.QUEUE: job.spec.queue_name} if job.spec.queue_name else {}
    nodes = job.spec.compute.nodes
    return build_object(
        kinds.JOB,
        Owner.of(job),
        names.training_job(job.metadata.name, attempt),
        {
            "spec": {
                "completionMode": "Indexed",
                "completions": nodes,
                "parallelism": nodes,
                "backoffLimit": 0,
                # Kueue resumes the suspended Job when it admits it.
                "suspend": job.spec.queue_name is not None,
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": _failure_rules()},
                "template": _pod_template(job, attempt, labels, reward_uids, settings),
            }
        },
        labels={**labels, **queue},
        annotations={names.RETRIES_BEFORE: str(retries_before)},
    )


def _failure_rules() -> list[Json]:
    def exit_codes(codes: list[ExitCode]) -> Json:
        values = sorted(code.value for code in codes)
        return {
            "action": "FailJob",
            "onExitCodes": {"containerName": names.TRAINER, "operator": "In", "values": values},
        }

    return [
        exit_codes([code for code in ExitCode if code.permanent]),
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        exit_codes([ExitCode.INTERRUPTED]),
    ]


def _pod_template(
    job: RFTJob, attempt: int, labels: dict[str, str], reward_uids: Mapping[str, str], settings: Settings
) -> Json:
    name, compute = job.metadata.name, job.spec.compute
    mounts = Mounts.of(job_addresses(job))
    rewards = reward_names(job)
    command = [
        "python", "-m", "rft_trainer", f"{paths.CONFIGURATION}/{CONFIGURATION_KEY}",
        "--port", str(names.PROGRESS_PORT),
    ]  # fmt: skip
    host_names: Json = {}
    if compute.nodes > 1:
        command += ["--master-address", names.master_address(name, job.metadata.namespace, attempt)]
        command += ["--master-port", str(names.RENDEZVOUS_PORT)]
        host_names = {"subdomain": names.trainer_service(name)}
    container = Container(
        name=names.TRAINER,
        image=settings.images.trainer,
        command=command,
        env={TERMINATION_FILE: "/dev/termination-log", "RFT_GRACE_SECONDS": str(GRACE_SECONDS)},
        ports={"metrics": names.PROGRESS_PORT},
        mounts=[
            {"name": "configuration", "mountPath": paths.CONFIGURATION, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *(
                {"name": f"token-{i}", "mountPath": f"{paths.TOKENS}/{reward}", "readOnly": True}
                for i, reward in enumerate(rewards)
            ),
            *mounts.volume_mounts(),
        ],
        resources={"limits": {compute.gpu_resource: str(compute.pod_gpus)}} if compute.pod_gpus else {},
        credentials=job.spec.credentials,
    )
    volumes: list[Json] = [
        {
            "name": "configuration",
            "configMap": {
                "name": names.run_configuration(name),
                "items": [{"key": CONFIGURATION_KEY, "path": CONFIGURATION_KEY}],
            },
        },
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        *(
            {"name": f"token-{i}", "secret": {"secretName": reward_token(reward, reward_uids[reward])}}
            for i, reward in enumerate(rewards)
        ),
        *mounts.volumes(),
    ]
    template = build_pod_template(
        labels,
        scrape_annotations(names.PROGRESS_PORT),
        [build_container(container)],
        volumes,
        restartPolicy="Never",
        **host_names,
        # The launcher kills processes that do not save in time; Kubernetes waits a little longer than the launcher.
        terminationGracePeriodSeconds=GRACE_SECONDS + 30,
    )
    return override_pod(template, compute.pod)
