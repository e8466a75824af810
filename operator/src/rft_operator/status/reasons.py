"""Explanations of the conditions and reasons of all statuses, the source of docs/reference/conditions.md."""

from __future__ import annotations

from dataclasses import dataclass

from rft_api.conditions import ConditionType, Reason
from rft_api.exit_codes import ExitCode

CONDITIONS: dict[ConditionType, str] = {
    ConditionType.SUCCEEDED: "RFTJob: whether the run has succeeded. `Unknown` until the run has ended, then `True` "
    "with a result or `False` without one. `True` and `False` are final.",
    ConditionType.SPEC_ACCEPTED: "RFTJob: whether the spec is valid and is the one that the run uses.",
    ConditionType.REWARDS_READY: "RFTJob: whether every RewardFunction that the job refers to is Ready.",
    ConditionType.FITS: "RFTJob with GPUs: whether its planned memory fits them. A pod without GPUs plans it before "
    "the first attempt, and the trainer again before it reads the model's weights. `Unknown` while nothing has "
    "planned, and when nothing can.",
    ConditionType.REWARD_HACKING_SUSPECTED: "RFTJob with `spec.shadowRewards`: whether the reward rises while a shadow "
    "reward falls. The condition does not change after the job has ended.",
    ConditionType.ENDPOINT_READY: "RFTJob with `spec.endpoint`: the `Ready` condition of that endpoint, with its "
    "reason.",
    ConditionType.READY: "RewardFunction: whether it scores and passes its tests. InferenceEndpoint: whether the model "
    "answers under its name.",
    ConditionType.SCALING_ACTIVE: "InferenceEndpoint with `spec.autoscale`: whether its number of server pods follows "
    "what the gateways are asked for.",
}
"""Descriptions of the conditions for users."""


@dataclass(frozen=True)
class Explanation:
    """A row of the reference of reasons."""

    conditions: str
    """The conditions that have the reason, with their status."""
    meaning: str
    """What the reason means."""
    action: str = ""
    """What the user can do; empty when there is nothing to do."""
    warning: bool = False
    """Whether events with the reason are warnings."""


_ENDED = "Succeeded=False"
_NOT_ENDED = "Succeeded=Unknown"
_NOT_READY = "Ready=False"
_SEE_EXIT_CODES = "See [exit codes](exit-codes.md)."

EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.ACCEPTED: Explanation("SpecAccepted=True", "The run uses this spec."),
    Reason.CONFIGURATION_INVALID: Explanation(
        f"SpecAccepted=False, {_NOT_ENDED}, {_ENDED}, {_NOT_READY}",
        "The spec is not valid, or asks for something that is not possible. Before its first start a job waits for a "
        "correction; after it, the job has ended.",
        "Correct the field that the message names.",
        warning=True,
    ),
    Reason.SPEC_CHANGE_REJECTED: Explanation(
        "SpecAccepted=False",
        "The spec was changed after training had started. The run continues with the spec that it started with.",
        "Undo the change, or delete the job and create it again with another output. `suspend`, `limits`, `endpoint`, "
        "`credentials`, `queueName`, `compute.pod` and `compute.gpuResource` may be changed at any time.",
        warning=True,
    ),
    Reason.NAME_TAKEN: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "An object that the operator needs exists already and belongs to another owner. The operator leaves it alone.",
        "Rename or delete the object that the message names. If you have just deleted and created the resource, wait: "
        "the old objects are still being deleted.",
        warning=True,
    ),
    Reason.NAMESPACE_FULL: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "The objects of the namespace take more memory of the operator than a namespace may. What runs there goes on, "
        "and the operator does nothing for it.",
        "Delete jobs that have ended, or write smaller specs. The operator goes on within ten minutes.",
        warning=True,
    ),
    Reason.OPERATOR_FAILING: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "The operator has met a fault of its own, an error of its program, with this resource. What runs goes on. The "
        "operator tries again, up to a minute later each time.",
        "Tell whoever runs the operator: its log has the details, in lines that name the resource.",
        warning=True,
    ),
    Reason.REWARDS_READY: Explanation("RewardsReady=True", "Every RewardFunction of the job is Ready."),
    Reason.REWARD_CHANGED: Explanation(
        "RewardsReady=True",
        "A RewardFunction was changed after the run had started. Since then, the new version scores completions.",
        "To compare rewards over the whole run, start a new job.",
    ),
    Reason.REWARD_MISSING: Explanation(
        "RewardsReady=False",
        "The namespace has no RewardFunction of the name that the job refers to.",
        "Create the RewardFunction.",
    ),
    Reason.REWARD_NOT_READY: Explanation(
        "RewardsReady=False",
        "A RewardFunction of the job is not Ready.",
        "See the `Ready` condition of the RewardFunction.",
    ),
    Reason.NOT_PLANNED: Explanation(
        "Fits=Unknown",
        "The memory of the job has not been planned yet, or cannot be: the shape of the model or the memory of the "
        "GPUs is not known, or the pod that plans has failed. The message says why. The job starts nevertheless, and "
        "its trainer plans again.",
        "If the memory of the GPUs is not known, set `compute.gpuMemory`.",
    ),
    Reason.MEMORY_SUFFICES: Explanation(
        "Fits=True", "The planned memory fits the GPUs. The message says what is needed, and what the cache holds."
    ),
    Reason.DOES_NOT_FIT: Explanation(
        f"Fits=False, {_ENDED}",
        "The planned memory is larger than that of the GPUs. The job has ended before any pod of its trainer existed, "
        "or, for GPUs that only the trainer knew, before it read the model's weights: exit code 18. With "
        "`compute.ignoreMemoryPlan`, it trains nevertheless.",
        "Change the fields that the message names: see [planning memory](../planning.md).",
        warning=True,
    ),
    Reason.NOT_COMPARED: Explanation(
        "RewardHackingSuspected=Unknown",
        "The reward and its shadows have not been compared yet, or on too few validation prompts.",
        "If this does not change, add validation prompts that the shadow rewards can score.",
    ),
    Reason.SHADOWS_AGREE: Explanation(
        "RewardHackingSuspected=False", "No shadow reward falls while the reward rises. The message has the numbers."
    ),
    Reason.SHADOW_FALLS: Explanation(
        "RewardHackingSuspected=True",
        "On the validation prompts the reward has risen since before training, and a shadow reward has fallen, both by "
        "more than chance. Training continues.",
        "Read the completions, close the loophole in the reward, and train again: see "
        "[curves](../curves.md#reward-hacking-is-suspected).",
        warning=True,
    ),
    Reason.WAITING_FOR_REWARDS: Explanation(_NOT_ENDED, "The job starts when its RewardFunctions are Ready."),
    Reason.QUEUED: Explanation(_NOT_ENDED, "Kueue has not admitted the job yet, or has preempted it."),
    Reason.STARTING: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "Pods are being created, scheduled and started, or a server is loading its model.",
    ),
    Reason.PODS_MISSING: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "Kubernetes does not create pods: a quota is used up, or it rejects what the pods ask for, such as a "
        "ServiceAccount or a PriorityClass that does not exist. The message is that of Kubernetes. It tries again.",
        "Remove what the message names, or create it. A job that has not trained yet accepts changes of `compute.pod`.",
        warning=True,
    ),
    Reason.UNSCHEDULABLE: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "No node has room for a pod. The message is that of the scheduler.",
        "Request less, free resources, or add nodes.",
        warning=True,
    ),
    Reason.IMAGE_PULL_FAILED: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "An image cannot be pulled.",
        "Correct the image or imagePullSecrets. A job that has not trained yet accepts the change.",
        warning=True,
    ),
    Reason.CONTAINER_BLOCKED: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "The containers of a pod cannot be created, often because a Secret or a ConfigMap is missing, or a volume "
        "cannot be mounted.",
        "Create the object that the message names.",
        warning=True,
    ),
    Reason.SIDECAR_FAILING: Explanation(
        f"{_NOT_ENDED}, {_NOT_READY}",
        "A container beside the main one ends again and again, so that the pod is not ready: the loader of a server, "
        "or a container that others have added, such as the proxy of a service mesh.",
        "See the log of the container that the message names.",
        warning=True,
    ),
    Reason.RUNNING: Explanation(_NOT_ENDED, "The trainer is running. `status.progress` has its progress."),
    Reason.RETRYING: Explanation(
        _NOT_ENDED,
        "The last attempt failed for a reason that may pass, or was interrupted at once. The next attempt resumes from "
        "the last checkpoint.",
        warning=True,
    ),
    Reason.STOPPING: Explanation(_NOT_ENDED, "The pods are saving a checkpoint before they end."),
    Reason.SUSPENDED: Explanation(
        _NOT_ENDED,
        "`spec.suspend` is true, so the job has no pods.",
        "Set `spec.suspend` to false to resume the job.",
    ),
    Reason.SUCCEEDED: Explanation("Succeeded=True", "The run has succeeded. `status.result` has its result."),
    Reason.RETRIES_EXHAUSTED: Explanation(
        _ENDED,
        "More attempts have failed than `limits.retries` allows. The message is that of the last attempt.",
        "Remove the cause, delete the job and create it again with the same output: it resumes from the last "
        "checkpoint.",
    ),
    Reason.DEADLINE_EXCEEDED: Explanation(
        _ENDED,
        "The time of `limits.deadline` has passed. The checkpoints are kept.",
        "Delete the job and create it again with a later deadline and the same output.",
    ),
    Reason.GPU_HOURS_EXCEEDED: Explanation(
        _ENDED,
        "The GPU hours of `limits.gpuHours` are used up. The checkpoints are kept.",
        "Delete the job and create it again with a higher limit and the same output.",
    ),
    Reason.DATA_INVALID: Explanation(_ENDED, "The data is not valid: exit code 11.", _SEE_EXIT_CODES),
    Reason.MODEL_INVALID: Explanation(
        f"{_ENDED}, {_NOT_READY}",
        "The model cannot be read: exit code 12.",
        "Correct its address, or convert the model.",
        warning=True,
    ),
    Reason.NOT_LEARNABLE: Explanation(
        _ENDED, "All completions of every prompt have the same reward: exit code 13.", _SEE_EXIT_CODES
    ),
    Reason.REWARD_FAILING: Explanation(_ENDED, "The reward cannot score completions: exit code 14.", _SEE_EXIT_CODES),
    Reason.OUTPUT_INVALID: Explanation(_ENDED, "The output cannot be used: exit code 15.", _SEE_EXIT_CODES),
    Reason.DIVERGED: Explanation(_ENDED, "Training has diverged: exit code 16.", _SEE_EXIT_CODES),
    Reason.OUT_OF_MEMORY: Explanation(
        _ENDED,
        "The memory of a GPU, or of the trainer's process, ran out: exit code 17.",
        "Lower the fields that the message names.",
    ),
    Reason.READY: Explanation(
        "Ready=True, EndpointReady=True", "The RewardFunction scores, or the model of the InferenceEndpoint answers."
    ),
    Reason.SOURCE_MISSING: Explanation(
        _NOT_READY,
        "The ConfigMap that holds the code, or its key, is missing. The previous version continues to serve.",
        "Create the ConfigMap.",
        warning=True,
    ),
    Reason.ROLLING_OUT: Explanation(
        _NOT_READY, "A new version is being rolled out. The previous version serves until the new one is ready."
    ),
    Reason.TESTS_FAILING: Explanation(
        _NOT_READY,
        "The tests in the spec of the RewardFunction fail.",
        "Correct the code or the tests.",
        warning=True,
    ),
    Reason.SERVER_FAILING: Explanation(
        _NOT_READY,
        "A server fails again and again. The message is the end of its log.",
        "See the log of the pod.",
        warning=True,
    ),
    Reason.WAITING_FOR_RESULT: Explanation("EndpointReady=Unknown", "The job has not succeeded yet."),
    Reason.ENDPOINT_TAKEN: Explanation(
        "EndpointReady=False",
        "An InferenceEndpoint of that name exists and was not created for this job. The operator leaves it alone.",
        "Choose another `spec.endpoint.name`, or delete that endpoint.",
    ),
    Reason.SCALED_TO_ZERO: Explanation(
        _NOT_READY,
        "The server has no replicas: `spec.replicas` is 0, or, with `spec.autoscale`, nobody asks for its models.",
        "Raise `spec.replicas`. With `spec.autoscale`, ask a gateway: the request starts a server pod and waits.",
    ),
    Reason.WAKING: Explanation(
        _NOT_READY, "A request has woken the endpoint, which had no server pod, and a pod starts. Requests wait for it."
    ),
    Reason.BASE_MISSING: Explanation(
        _NOT_READY, "The InferenceEndpoint that `spec.baseEndpoint` names does not exist.", "Create it."
    ),
    Reason.BASE_NOT_READY: Explanation(
        _NOT_READY,
        "The server of the base endpoint is not running.",
        "See the `Ready` condition of the base endpoint.",
    ),
    Reason.ADAPTER_LOADING: Explanation(_NOT_READY, "The adapter is being fetched and loaded."),
    Reason.ADAPTER_REJECTED: Explanation(
        _NOT_READY,
        "The adapter cannot be fetched, or does not fit the base model. The loader keeps trying.",
        "Correct what the message names.",
        warning=True,
    ),
    Reason.NOT_ANSWERING: Explanation(
        _NOT_READY,
        "The server is running, but does not answer under the name of this model.",
        "See the log of the server.",
        warning=True,
    ),
    Reason.DEMAND_COMPLETE: Explanation(
        "ScalingActive=True", "All gateways say what they are asked for, and the number of server pods follows it."
    ),
    Reason.DEMAND_INCOMPLETE: Explanation(
        "ScalingActive=False",
        "A gateway cannot be asked what it is asked for. Server pods are added where the other gateways need them, and "
        "none ends.",
        "Look at the gateway that the message names.",
        warning=True,
    ),
    Reason.GATEWAY_MISSING: Explanation(
        "ScalingActive=False",
        "`spec.autoscale` needs a gateway, which says how many server pods are needed. Without one the endpoint has "
        "`minimum` pods, and at least one.",
        "Install the chart with `gateway.enabled`, or replace `spec.autoscale` by `spec.replicas`.",
        warning=True,
    ),
}
"""An explanation of each reason, for users."""


def reason_of(code: ExitCode) -> Reason:
    """Return the reason for a permanent exit code."""
    return Reason(code.reason)
