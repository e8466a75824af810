"""The types and reasons of all conditions, which the operator writes and other programs act upon."""

from __future__ import annotations

import enum
from typing import Final

from rft_api.exit_codes import ExitCode
from rft_api.model import Json


class ConditionType(enum.StrEnum):
    """The types of conditions; docs/reference/conditions.md describes them."""

    SUCCEEDED = "Succeeded"
    SPEC_ACCEPTED = "SpecAccepted"
    REWARDS_READY = "RewardsReady"
    FITS = "Fits"
    REWARD_HACKING_SUSPECTED = "RewardHackingSuspected"
    ENDPOINT_READY = "EndpointReady"
    READY = "Ready"
    SCALING_ACTIVE = "ScalingActive"


class Reason(enum.StrEnum):
    """The reasons of conditions; docs/reference/conditions.md describes them."""

    ACCEPTED = "Accepted"
    CONFIGURATION_INVALID = ExitCode.CONFIGURATION_INVALID.reason
    SPEC_CHANGE_REJECTED = "SpecChangeRejected"
    NAME_TAKEN = "NameTaken"
    NAMESPACE_FULL = "NamespaceFull"
    OPERATOR_FAILING = "OperatorFailing"

    REWARDS_READY = "RewardsReady"
    REWARD_CHANGED = "RewardChanged"
    REWARD_MISSING = "RewardMissing"
    REWARD_NOT_READY = "RewardNotReady"

    NOT_PLANNED = "NotPlanned"
    MEMORY_SUFFICES = "MemorySuffices"
    DOES_NOT_FIT = ExitCode.DOES_NOT_FIT.reason

    NOT_COMPARED = "NotCompared"
    SHADOWS_AGREE = "ShadowsAgree"
    SHADOW_FALLS = "ShadowFalls"

    WAITING_FOR_REWARDS = "WaitingForRewards"
    QUEUED = "Queued"
    STARTING = "Starting"
    PODS_MISSING = "PodsMissing"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_BLOCKED = "ContainerBlocked"
    SIDECAR_FAILING = "SidecarFailing"
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
    WAKING = "Waking"
    BASE_MISSING = "BaseMissing"
    BASE_NOT_READY = "BaseNotReady"
    ADAPTER_LOADING = "AdapterLoading"
    ADAPTER_REJECTED = "AdapterRejected"
    NOT_ANSWERING = "NotAnswering"

    DEMAND_COMPLETE = "DemandComplete"
    DEMAND_INCOMPLETE = "DemandIncomplete"
    GATEWAY_MISSING = "GatewayMissing"


LASTING: Final = frozenset(
    {Reason.CONFIGURATION_INVALID, Reason.MODEL_INVALID, Reason.NAME_TAKEN, Reason.ADAPTER_REJECTED}
)
"""Reasons of the condition Ready of an InferenceEndpoint that no time heals: somebody has to correct what the message
says."""


def is_end(type_: str, status: str) -> bool:
    """Return whether a condition says that its RFTJob has ended: Succeeded is True or False, which is final."""
    return type_ == ConditionType.SUCCEEDED and status != "Unknown"


def has_ended(status: Json) -> bool:
    """Return whether the RFTJob with this status has ended."""
    return any(is_end(condition["type"], condition["status"]) for condition in status.get("conditions", []))
