"""Conditions and their reasons: the vocabulary of every status, and the source of docs/reference/conditions.md."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rft_api.exit_codes import ExitCode


class ConditionType(enum.StrEnum):
    """What a condition is about."""

    SUCCEEDED = "Succeeded"
    """RFTJob: Unknown while it can still go on, True with a result, False when it has ended without one."""
    SPEC_ACCEPTED = "SpecAccepted"
    """RFTJob: whether the spec can be run and is the one that runs."""
    REWARDS_READY = "RewardsReady"
    """RFTJob: whether every RewardFunction that it refers to is Ready."""
    REWARD_HACKING_SUSPECTED = "RewardHackingSuspected"
    """RFTJob with spec.shadowRewards: whether the reward rises while a shadow falls."""
    ENDPOINT_READY = "EndpointReady"
    """RFTJob with spec.endpoint: whether the endpoint serves the result."""
    READY = "Ready"
    """RewardFunction: scores and passes its tests. InferenceEndpoint: the model answers by its name."""


class Reason(enum.StrEnum):
    """Why a condition has its status; each member's text is its row in the table, with what to do."""

    ACCEPTED = "Accepted"
    CONFIGURATION_INVALID = "ConfigurationInvalid"
    SPEC_CHANGE_REJECTED = "SpecChangeRejected"
    NAME_TAKEN = "NameTaken"

    REWARDS_READY = "RewardsReady"
    REWARD_CHANGED = "RewardChanged"
    REWARD_MISSING = "RewardMissing"
    REWARD_NOT_READY = "RewardNotReady"

    NOT_COMPARED = "NotCompared"
    SHADOWS_AGREE = "ShadowsAgree"
    SHADOW_FALLS = "ShadowFalls"

    WAITING_FOR_REWARDS = "WaitingForRewards"
    QUEUED = "Queued"
    STARTING = "Starting"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_BLOCKED = "ContainerBlocked"
    RUNNING = "Running"
    RETRYING = "Retrying"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    GPU_HOURS_EXCEEDED = "GpuHoursExceeded"
    DATA_INVALID = ExitCode.DATA_INVALID.reason
    MODEL_INVALID = ExitCode.MODEL_INVALID.reason
    NOT_LEARNABLE = ExitCode.NOT_LEARNABLE.reason
    REWARD_FAILING = ExitCode.REWARD_FAILING.reason
    OUTPUT_INVALID = ExitCode.OUTPUT_INVALID.reason
    DIVERGED = ExitCode.DIVERGED.reason
    OUT_OF_MEMORY = ExitCode.OUT_OF_MEMORY.reason

    READY = "Ready"
    SOURCE_MISSING = "SourceMissing"
    ROLLING_OUT = "RollingOut"
    TESTS_FAILING = "TestsFailing"
    SERVER_FAILING = "ServerFailing"

    WAITING_FOR_RESULT = "WaitingForResult"
    ENDPOINT_TAKEN = "EndpointTaken"
    SCALED_TO_ZERO = "ScaledToZero"
    BASE_MISSING = "BaseMissing"
    BASE_NOT_READY = "BaseNotReady"
    ADAPTER_LOADING = "AdapterLoading"
    ADAPTER_REJECTED = "AdapterRejected"
    NOT_ANSWERING = "NotAnswering"


@dataclass(frozen=True)
class Explanation:
    """A row of the reference table."""

    conditions: str
    """Condition types, with their status, that carry the reason."""
    meaning: str
    """What it says."""
    action: str = ""
    """What to do; empty when nothing."""


_ENDED = "Succeeded=False"
_GOING = "Succeeded=Unknown"
_NOT_READY = "Ready=False"

EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.ACCEPTED: Explanation("SpecAccepted=True", "The spec is the one that runs."),
    Reason.CONFIGURATION_INVALID: Explanation(
        f"SpecAccepted=False, {_GOING}, {_ENDED}, {_NOT_READY}",
        "The spec asks for what cannot be done. Before a job's first start it waits; afterwards it has ended.",
        "Mend what the message names.",
    ),
    Reason.SPEC_CHANGE_REJECTED: Explanation(
        "SpecAccepted=False",
        "Fields were changed after training had started; the run goes on with the spec that it started with.",
        "Undo the change, or delete the job and create it anew with another output. suspend, limits, endpoint, "
        "credentials, queueName, compute.pod and compute.gpuResource may be changed at any time.",
    ),
    Reason.NAME_TAKEN: Explanation(
        f"{_GOING}, {_NOT_READY}",
        "An object that the operator needs exists already and belongs to something else; it is left alone.",
        "Rename or delete the object that the message names. Right after deleting and creating anew it passes.",
    ),
    Reason.REWARDS_READY: Explanation("RewardsReady=True", "Every reward function is Ready."),
    Reason.REWARD_CHANGED: Explanation(
        "RewardsReady=True",
        "A reward function was changed since the run started; from then on completions are scored by the new one.",
        "To compare rewards over the whole run, start a new job.",
    ),
    Reason.REWARD_MISSING: Explanation(
        "RewardsReady=False", "There is no RewardFunction of that name in the namespace.", "Create it."
    ),
    Reason.REWARD_NOT_READY: Explanation(
        "RewardsReady=False", "A reward function is not Ready.", "Look at its own condition."
    ),
    Reason.NOT_COMPARED: Explanation(
        "RewardHackingSuspected=Unknown",
        "Reward and shadows have not been compared yet, or on too few validation prompts.",
        "If it stays so: give more validation prompts that the shadows can score.",
    ),
    Reason.SHADOWS_AGREE: Explanation(
        "RewardHackingSuspected=False", "No shadow falls while the reward rises; the message has the numbers."
    ),
    Reason.SHADOW_FALLS: Explanation(
        "RewardHackingSuspected=True",
        "On the validation prompts the reward has risen since before training, and a shadow has fallen, both by more "
        "than chance. Training goes on.",
        "Read the completions, close the loophole in the reward and train anew: see "
        "[curves](../curves.md#reward-hacking-is-suspected).",
    ),
    Reason.WAITING_FOR_REWARDS: Explanation(_GOING, "The job starts when its reward functions are Ready."),
    Reason.QUEUED: Explanation(_GOING, "Kueue has not admitted the job yet, or has preempted it."),
    Reason.STARTING: Explanation(
        f"{_GOING}, {_NOT_READY}", "Pods are being created, scheduled and started, or a server loads its model."
    ),
    Reason.UNSCHEDULABLE: Explanation(
        f"{_GOING}, {_NOT_READY}",
        "No node has room for a pod.",
        "Ask for less, free resources or add nodes; the message is the scheduler's.",
    ),
    Reason.IMAGE_PULL_FAILED: Explanation(
        f"{_GOING}, {_NOT_READY}",
        "An image cannot be pulled.",
        "Correct the image or imagePullSecrets; a job that has not trained yet takes the change.",
    ),
    Reason.CONTAINER_BLOCKED: Explanation(
        f"{_GOING}, {_NOT_READY}",
        "A container cannot be created, often because a Secret or ConfigMap is missing.",
        "Create what the message names.",
    ),
    Reason.RUNNING: Explanation(_GOING, "Training; status.progress says how far."),
    Reason.RETRYING: Explanation(
        _GOING, "The last attempt failed for a reason that may pass; the next goes on from the last checkpoint."
    ),
    Reason.STOPPING: Explanation(_GOING, "Pods save a checkpoint and end."),
    Reason.SUSPENDED: Explanation(_GOING, "spec.suspend is true; no pods run.", "Set it to false to go on."),
    Reason.SUCCEEDED: Explanation("Succeeded=True", "The run is finished; status.result has what it achieved."),
    Reason.RETRIES_EXHAUSTED: Explanation(
        _ENDED,
        "Attempts failed more often than limits.retries allows; the message is the last one's.",
        "Mend the cause and create the job anew with the same output: it goes on from the last checkpoint.",
    ),
    Reason.DEADLINE_EXCEEDED: Explanation(
        _ENDED, "limits.deadline has passed; the checkpoints stay.", "Create the job anew with a later deadline."
    ),
    Reason.GPU_HOURS_EXCEEDED: Explanation(
        _ENDED, "limits.gpuHours are used up; the checkpoints stay.", "Create the job anew with a higher limit."
    ),
    Reason.DATA_INVALID: Explanation(_ENDED, "Exit code 11.", "See [exit codes](exit-codes.md)."),
    Reason.MODEL_INVALID: Explanation(
        f"{_ENDED}, {_NOT_READY}",
        "The model cannot be read: exit code 12.",
        "Correct the address, or convert the model.",
    ),
    Reason.NOT_LEARNABLE: Explanation(_ENDED, "Exit code 13.", "See [exit codes](exit-codes.md)."),
    Reason.REWARD_FAILING: Explanation(_ENDED, "Exit code 14.", "See [exit codes](exit-codes.md)."),
    Reason.OUTPUT_INVALID: Explanation(_ENDED, "Exit code 15.", "See [exit codes](exit-codes.md)."),
    Reason.DIVERGED: Explanation(_ENDED, "Exit code 16.", "See [exit codes](exit-codes.md)."),
    Reason.OUT_OF_MEMORY: Explanation(
        _ENDED,
        "The memory of a GPU, or of the trainer's process, ran out: exit code 17.",
        "Lower what the message names.",
    ),
    Reason.READY: Explanation("Ready=True, EndpointReady=True", "It works."),
    Reason.SOURCE_MISSING: Explanation(
        _NOT_READY,
        "The ConfigMap or key that code is read from is missing.",
        "Create it; what was served before goes on.",
    ),
    Reason.ROLLING_OUT: Explanation(
        _NOT_READY, "A changed spec is being rolled out; the version before serves until the new one is ready."
    ),
    Reason.TESTS_FAILING: Explanation(
        _NOT_READY, "The function's own tests do not pass.", "Mend the code or the tests."
    ),
    Reason.SERVER_FAILING: Explanation(
        _NOT_READY, "A server ends again and again.", "The message is the end of its log; see the pod's log for more."
    ),
    Reason.WAITING_FOR_RESULT: Explanation("EndpointReady=Unknown", "The job has not succeeded yet."),
    Reason.ENDPOINT_TAKEN: Explanation(
        "EndpointReady=False",
        "An InferenceEndpoint of that name exists and was not made for this job; it is left alone.",
        "Choose another spec.endpoint.name, or delete that endpoint.",
    ),
    Reason.SCALED_TO_ZERO: Explanation(_NOT_READY, "No server pod is wanted.", "Raise replicas."),
    Reason.BASE_MISSING: Explanation(_NOT_READY, "The endpoint that baseEndpoint names does not exist.", "Create it."),
    Reason.BASE_NOT_READY: Explanation(
        _NOT_READY, "The server of the base endpoint is not running.", "Look at the base endpoint's condition."
    ),
    Reason.ADAPTER_LOADING: Explanation(_NOT_READY, "The adapter is being fetched and loaded."),
    Reason.ADAPTER_REJECTED: Explanation(
        _NOT_READY,
        "The adapter cannot be fetched, or does not fit the base model.",
        "The message says what is wrong; it is tried again.",
    ),
    Reason.NOT_ANSWERING: Explanation(
        _NOT_READY, "The server runs but does not answer for this model's name.", "Look at the server's log."
    ),
}


def reason_of(code: ExitCode) -> Reason:
    """A permanent exit code as a reason."""
    return Reason(code.reason)
