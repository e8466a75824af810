"""Says which fields of a job to change when its memory does not fit, those first that cost least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from rft_api.memory_devices import Devices
from rft_api.memory_plan import GIB, MemoryPlan, plan_memory
from rft_api.model_shape import ModelShape
from rft_api.progress import MemoryVerdict
from rft_api.training import DeepSpeed, Hyperparameters
from rft_api.tuning import Tuning

LEAST_TOKENS = 1024
"""Tokens of a pass below which GPUs are mostly idle, so that fewer are not advised."""
LEAST_SAVING = GIB / 8
"""Bytes that a change must save to be worth a line."""
MOST_ADVICE = 3
"""Number of changes that a message names."""
MOST_CHANGES = 4
"""Number of fields that are changed together at most."""
MOST_WIDENING = 8
"""A server with GPUs of its own is advised at most so many times more of them."""


@dataclass(frozen=True)
class Fields:
    """The fields of a job on which its memory depends, and its devices."""

    hyperparameters: Hyperparameters
    """`spec.hyperparameters`."""
    tuning: Tuning
    """`spec.tuning`."""
    devices: Devices
    """What follows from `spec.compute`."""

    def plan(self, shape: ModelShape) -> MemoryPlan:
        """Return the plan of these fields."""
        return plan_memory(shape, self.hyperparameters, self.tuning, self.devices)


@dataclass(frozen=True)
class Advice:
    """A change of one field, or of several together."""

    changes: tuple[str, ...]
    """The fields with their new values, such as `hyperparameters.tokensPerMicroBatch: 4096`."""
    cost: str
    """What the change costs."""
    excess: float
    """Bytes that are still missing on each GPU; 0 when all fits."""

    @property
    def fits(self) -> bool:
        """Whether all fits with the change."""
        return self.excess == 0

    def __str__(self) -> str:
        outcome = "is enough" if self.fits else f"leaves {self.excess / GIB:.1f} GiB missing"
        return f"{' and '.join(self.changes)} {outcome} ({self.cost})"


@dataclass(frozen=True)
class _Change:
    """A possible change."""

    text: str
    """The field with its new value."""
    cost: str
    """What the change costs."""
    fields: Fields
    """All fields, with the change."""


def advise(shape: ModelShape, fields: Fields) -> list[Advice]:
    """Return what to change, best first; empty when all fits or the memory of the GPUs is not known.

    Changes that suffice by themselves come first, in the order of what they cost; then the others, in the order of what
    they save. When none suffices, the first advice is the least costly combination that does, if there is one.
    """
    before = fields.plan(shape).excess
    if before == 0:
        return []
    single = []
    for find in _CHANGES:
        change = find(shape, fields)
        after = change.fields.plan(shape).excess
        if before - after >= LEAST_SAVING or after == 0:
            single.append(Advice((change.text,), change.cost, after))
    # The sort is stable: those that suffice keep the order of their costs.
    single.sort(key=lambda advice: advice.excess)
    if single and single[0].fits:
        return single
    together = _combination(shape, fields)
    return [*([together] if together else []), *single]


def judge_memory(shape: ModelShape, fields: Fields, gpu_source: str = "") -> MemoryVerdict:
    """Return whether a job fits its GPUs, in words, with what to change if it does not.

    Args:
        shape: the model.
        fields: the fields of the job, and its devices.
        gpu_source: where the memory of the GPUs is known from, or why it is not; empty when that need not be said.
    """
    source = f" ({gpu_source})" if gpu_source else ""
    plan = fields.plan(shape)
    need = plan.largest
    text = f"each GPU needs {need.total / GIB:.1f} GiB ({need.phase}"
    if plan.limit is None or fields.devices.gpu_bytes is None:
        text += f"); the memory of the GPUs is not known{source}: set compute.gpuMemory"
        return MemoryVerdict(fits=None, message=text)
    text += f") of the {plan.limit / GIB:.1f} GiB that the trainer may use of {fields.devices.gpu_bytes / GIB:.1f} GiB"
    text += source
    if plan.memory_share is not None:
        text += f"; vLLM gets the share {plan.memory_share:.3f} of a GPU's memory"
    if plan.cache is not None:
        text += f"; the cache holds {plan.cache.sequences} sequences of {plan.cache.tokens} tokens"
    if plan.server_excess:
        text += f"; the share of vLLM is {plan.server_excess / GIB:.1f} GiB too small for one of them"
    if not plan.fits:
        advice = advise(shape, fields)[:MOST_ADVICE]
        text += f". What to change: {'; or '.join(map(str, advice)) or 'use GPUs with more memory, or a smaller model'}"
    return MemoryVerdict(fits=plan.fits, message=text)


def _combination(shape: ModelShape, fields: Fields) -> Advice | None:
    """Return the changes that together suffice, of which the most costly one costs as little as possible."""
    # The bits of a number say which changes are made. So the last change is made only after all sets of the others.
    for number in range(1, 1 << len(_CHANGES)):
        finders = [find for place, find in enumerate(_CHANGES) if number >> place & 1]
        if not 1 < len(finders) <= MOST_CHANGES:
            continue
        changes: list[_Change] = []
        for find in finders:
            changes.append(find(shape, changes[-1].fields if changes else fields))
        if changes[-1].fields.plan(shape).excess == 0:
            costs = dict.fromkeys(change.cost for change in changes)
            return Advice(tuple(change.text for change in changes), "; ".join(costs), 0.0)
    return None


def _smaller_passes(shape: ModelShape, fields: Fields) -> _Change:
    parameters = fields.hyperparameters
    cost = "more and smaller passes, the same results"
    if parameters.micro_batch_size is not None:
        sizes = _halves(parameters.micro_batch_size, 1)
        field, name = "micro_batch_size", "hyperparameters.microBatchSize"
    else:
        sizes = _halves(parameters.effective_tokens_per_micro_batch or LEAST_TOKENS, LEAST_TOKENS)
        field, name = "tokens_per_micro_batch", "hyperparameters.tokensPerMicroBatch"
    size, changed = _largest_that_fits(shape, fields, field, sizes)
    return _Change(f"{name}: {size}", cost, changed)


def _gradient_checkpointing(shape: ModelShape, fields: Fields) -> _Change:
    return _Change(
        "compute.gradientCheckpointing: true",
        "a second forward pass through the layers, the same results",
        replace(fields, devices=replace(fields.devices, gradient_checkpointing=True)),
    )


def _higher_stage(stage: int, shape: ModelShape, fields: Fields) -> _Change:
    devices = fields.devices
    current = devices.deepspeed or DeepSpeed(zero_stage=0)
    raised = current.model_copy(update={"zero_stage": max(stage, current.zero_stage)})
    # One process has nothing to divide.
    partitioned = replace(devices, deepspeed=raised if devices.trainers > 1 else devices.deepspeed)
    return _Change(
        f"compute.deepspeed.zeroStage: {raised.zero_stage}",
        "more communication between GPUs, the same results",
        replace(fields, devices=partitioned),
    )


def _planned_share(shape: ModelShape, fields: Fields) -> _Change:
    return _Change(
        "leaving out compute.rollouts.memoryShare",
        "vLLM generates more or fewer sequences at once",
        replace(fields, devices=replace(fields.devices, memory_share=None)),
    )


def _wider_servers(shape: ModelShape, fields: Fields) -> _Change:
    """Return the servers that divide their weights over more GPUs: on those of the trainer, or on more of their own."""
    devices = fields.devices
    shared = devices.placement == "Shared"
    most = devices.node_gpus if shared else devices.server_gpus * MOST_WIDENING
    sizes = [
        size
        for size in range(devices.server_gpus, most + 1)
        # vLLM divides the heads of queries, and servers the GPUs of a node.
        if size == devices.server_gpus
        or (size % devices.server_gpus == 0 and shape.heads % size == 0 and not (shared and most % size))
    ]
    candidates = [(size, replace(fields, devices=replace(devices, server_gpus=size))) for size in sizes]
    size, changed = min(candidates, key=lambda item: item[1].plan(shape).excess)
    cost = "communication between the GPUs of a server" if shared else "more GPUs for each server"
    return _Change(f"compute.rollouts.gpusPerServer: {size}", cost, changed)


def _other_engine(shape: ModelShape, fields: Fields) -> _Change:
    if fields.devices.placement == "InProcess":
        return _Change("compute.rollouts: {engine: vLLM}", "none, where vLLM runs", _served(shape, fields, "Shared"))
    alone = replace(fields.devices, placement="InProcess")
    return _Change("compute.rollouts: {engine: InProcess}", "slower rollouts", replace(fields, devices=alone))


def _servers_on_own_gpus(shape: ModelShape, fields: Fields) -> _Change:
    placed = _served(shape, fields, "Dedicated") if fields.devices.placement != "Dedicated" else fields
    return _Change("compute.rollouts: {placement: Dedicated}", "GPUs for servers beside those of the trainer", placed)


def _served(shape: ModelShape, fields: Fields, placement: Literal["Shared", "Dedicated"]) -> Fields:
    """Return the fields with vLLM, which cannot take over the weights of a model with experts."""
    if shape.experts:
        return fields
    return replace(fields, devices=replace(fields.devices, placement=placement, server_gpus=1, memory_share=None))


def _offload(shape: ModelShape, fields: Fields) -> _Change:
    current = fields.devices.deepspeed or DeepSpeed()
    stage = max(2, current.zero_stage)
    offloaded = DeepSpeed(zero_stage=stage, offload="Optimizer")
    return _Change(
        f"compute.deepspeed: {{zeroStage: {stage}, offload: Optimizer}}",
        "slower updates, and memory of the host",
        replace(fields, devices=replace(fields.devices, deepspeed=offloaded)),
    )


def _smaller_batch(shape: ModelShape, fields: Fields) -> _Change:
    size, changed = _largest_that_fits(shape, fields, "batch_size", _halves(fields.hyperparameters.batch_size, 1))
    return _Change(f"hyperparameters.batchSize: {size}", "smaller steps, so other results", changed)


def _more_gpus(shape: ModelShape, fields: Fields) -> _Change:
    trainers = 2 * fields.devices.trainers
    deepspeed = fields.devices.deepspeed or DeepSpeed()
    doubled = replace(fields, devices=replace(fields.devices, trainers=trainers, deepspeed=deepspeed))
    return _Change(
        f"{trainers} GPUs in place of {fields.devices.trainers} (compute.gpusPerNode or compute.nodes)",
        "twice the GPUs",
        doubled if _divides_as(fields, doubled) else fields,
    )


def _adapter(shape: ModelShape, fields: Fields) -> _Change:
    tuning = fields.tuning if fields.tuning.type == "LoRA" else Tuning(type="LoRA")
    return _Change("tuning.type: LoRA", "an adapter is trained in place of all weights", replace(fields, tuning=tuning))


def _shorter_completions(shape: ModelShape, fields: Fields) -> _Change:
    sizes = _halves(fields.hyperparameters.max_completion_tokens, 128)
    size, changed = _largest_that_fits(shape, fields, "max_completion_tokens", sizes)
    return _Change(f"hyperparameters.maxCompletionTokens: {size}", "longer completions are truncated", changed)


def _largest_that_fits(shape: ModelShape, fields: Fields, field: str, sizes: Sequence[int]) -> tuple[int, Fields]:
    """Return the first of the sizes with which all fits, else the one that lacks least, with the changed fields.

    Sizes that validation would refuse are left out; the first one is the field's value now.
    """
    candidates = [
        (size, replace(fields, hyperparameters=fields.hyperparameters.model_copy(update={field: size})))
        for size in sizes
    ]
    valid = [candidates[0], *(item for item in candidates[1:] if _divides_as(fields, item[1]))]
    return min(valid, key=lambda item: item[1].plan(shape).excess)


def _divides_as(before: Fields, after: Fields) -> bool:
    """Return whether the completions of a step divide over processes and passes, and prompts stay whole where they
    were.

    The trainer's configuration is refused otherwise (`rft_api.render`).
    """
    batch, samples = after.hyperparameters.batch_size, after.hyperparameters.samples_per_prompt
    completions, rest = divmod(batch * samples, after.devices.trainers)
    were_whole = before.hyperparameters.batch_size % before.devices.trainers == 0
    are_whole = batch % after.devices.trainers == 0
    passes_divide = completions % (after.hyperparameters.micro_batch_size or 1) == 0
    return rest == 0 and passes_divide and (are_whole or not were_whole)


def _halves(size: int, least: int) -> list[int]:
    """Return the number itself, and its halves down to the smallest that is allowed."""
    sizes = [size]
    while sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)
    return sizes


_CHANGES: tuple[Callable[[ModelShape, Fields], _Change], ...] = (
    _smaller_passes,
    _gradient_checkpointing,
    partial(_higher_stage, 2),
    partial(_higher_stage, 3),
    _planned_share,
    _wider_servers,
    _other_engine,
    _offload,
    _smaller_batch,
    _servers_on_own_gpus,
    _more_gpus,
    _adapter,
    _shorter_completions,
)
"""Finds each change, in the order of what they cost; one that is not possible leaves the fields as they are."""
