"""Decides whether a changed manifest is still the same run, for `rft run`, the trainer and the operator.

A run is defined by its trainer's configuration. Two configurations are the same run if they differ only in the fields
of `MAY_CHANGE`. In a cluster, a run keeps the configuration with which it started. The fields of `NOT_IN_PODS` and
`IN_PODS` may change at any time, because the trainer does not read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rft_api.model import Json, Location, format_location
from rft_api.rft_job import RFTJobSpec
from rft_api.trainer_config import TrainerConfig
from rft_api.training import default_scale

ANY = "*"
"""Stands for any name in a location."""

MAY_CHANGE: Mapping[Location, str] = {
    ("output",): "The folder of the run may have been moved.",
    ("rewards", ANY, "url"): "Reward servers are restarted, and then listen on another port.",
    ("rewards", ANY, "tokenFile"): "A restarted server has another token.",
    ("rewards", ANY, "timeoutSeconds"): "It limits the wait for a score, and does not change the score.",
    ("hyperparameters", "microBatchSize"): "It divides a step into passes, which accumulate one update.",
    ("hyperparameters", "tokensPerMicroBatch"): "It divides a step into passes, as microBatchSize does.",
    ("compute", "gradientCheckpointing"): "It computes activations again in place of keeping them.",
    ("compute", "gpuMemory"): "It decides whether training begins, as preflight does.",
    ("compute", "ignoreMemoryPlan"): "It decides whether training begins, as preflight does.",
    ("compute", "rollouts", "servers"): "A completion does not depend on the server that samples it.",
    ("compute", "rollouts", "memoryShare"): "It decides how many completions are sampled at once.",
    ("checkpoints",): "They decide which files are written and kept, and do not change the training.",
    ("trackers",): "They are sent what the run has written, and do not change it.",
    ("preflight",): "It decides whether training begins, and does not change the training.",
}
"""Fields of a trainer's configuration that may change from one start of a run to the next, and the reason why."""

NOT_IN_PODS: Mapping[Location, str] = {
    ("suspend",): "It stops and starts the pods of the run.",
    ("limits",): "They decide when the operator ends the run.",
    ("endpoint",): "It is created after the training.",
}
"""Fields of an RFTJob's spec that neither the trainer nor its pods are made from, and what they do."""
IN_PODS: Mapping[Location, str] = {
    ("credentials",): "They give access to the same addresses. The pods of the next attempt get them.",
    ("queueName",): "It decides when the pods of the next attempt start.",
    ("compute", "gpuResource"): "It is the resource name of the GPUs that the pods of the next attempt request.",
    ("compute", "pod"): "It decides on which nodes and with which resources the pods of the next attempt run.",
}
"""Fields of an RFTJob's spec that its pods are made from, but that the trainer does not read, and what they do."""
NOT_READ: Mapping[Location, str] = {**NOT_IN_PODS, **IN_PODS}
"""Fields of an RFTJob's spec that may change at any time, because the trainer does not read them, and what they do."""


@dataclass(frozen=True)
class Change:
    """A field that has changed."""

    location: Location
    before: Any
    """Previous value, as in JSON; None if there was none."""
    after: Any
    """Current value, as in JSON; None if there is none."""

    @property
    def path(self) -> str:
        """The field as people write it, such as `hyperparameters.learningRate`."""
        return format_location(self.location)


def changes_of_run(before: TrainerConfig, after: TrainerConfig) -> list[Change]:
    """Return the changes that make another run of a configuration; none if both are the same run."""
    return _changes(before, after, MAY_CHANGE)


def changes_of_job(before: RFTJobSpec, after: RFTJobSpec) -> list[Change]:
    """Return the changes of what a running trainer has read, which it therefore cannot take over."""
    return _changes(before, after, NOT_READ)


def changes_of_pods(before: RFTJobSpec, after: RFTJobSpec) -> list[Change]:
    """Return the changes of what the pods of a run are made from, or its trainer reads."""
    return _changes(before, after, NOT_IN_PODS)


def with_live_fields(started: RFTJobSpec, current: RFTJobSpec) -> RFTJobSpec:
    """Return the spec with which a run started, with the current values of the fields that its trainer does not
    read."""
    return started.model_copy(
        update={
            "suspend": current.suspend,
            "limits": current.limits,
            "endpoint": current.endpoint,
            "credentials": current.credentials,
            "queue_name": current.queue_name,
            "compute": started.compute.model_copy(
                update={"pod": current.compute.pod, "gpu_resource": current.compute.gpu_resource}
            ),
        }
    )


def _changes(
    before: TrainerConfig | RFTJobSpec, after: TrainerConfig | RFTJobSpec, allowed: Collection[Location]
) -> list[Change]:
    """Return the changes outside of the allowed locations."""
    changes = differences(_comparable(before), _comparable(after), ())
    return [change for change in changes if not any(_covers(path, change.location) for path in allowed)]


def _comparable(document: TrainerConfig | RFTJobSpec) -> Json:
    """Return the document as JSON, with the defaults that depend on other fields: stating a default is no change."""
    tuning, data, compute, training = document.tuning, document.data, document.compute, document.hyperparameters
    warmup = document.warmup
    if warmup is not None and not data.train:
        warmup = warmup.model_copy(update={"validation_fraction": warmup.effective_validation_fraction})
    lora: Json = {
        "rank": tuning.effective_rank,
        "alpha": tuning.effective_alpha,
        # Their order does not matter.
        "target_modules": tuning.target_modules and sorted(tuning.target_modules),
        "dropout": tuning.effective_dropout,
        "rank_stabilized": bool(tuning.rank_stabilized),
    }
    filled = document.model_copy(
        update={
            "tuning": tuning.model_copy(update=lora if tuning.type == "LoRA" else {}),
            "data": data.model_copy(update={"validation_fraction": data.effective_validation_fraction}),
            "warmup": warmup,
            "hyperparameters": training.model_copy(
                update={
                    "importance_sampling": training.effective_importance_sampling,
                    "scale_rewards": training.scale_rewards or default_scale(document.algorithm),
                }
            ),
            "compute": compute.model_copy(
                update={
                    "processes_per_node": compute.effective_processes_per_node,
                    "deepspeed": compute.effective_deepspeed,
                    "rollouts": compute.rollouts.model_copy(update={"engine": compute.rollout_engine}),
                }
            ),
        }
    )
    return filled.model_dump(mode="json", by_alias=True)


def _covers(path: Location, location: Location) -> bool:
    """Return whether a field is at a location of a table, or inside of it."""
    if len(location) < len(path):
        return False
    return all(expected in (ANY, part) for expected, part in zip(path, location, strict=False))


def differences(before: Any, after: Any, location: Location = ()) -> Iterator[Change]:
    """Yield the fields in which two JSON documents differ, from a location on; lists of other lengths differ as a
    whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key), after.get(key), (*location, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, (*location, index))
    elif before != after:
        yield Change(location, before, after)
