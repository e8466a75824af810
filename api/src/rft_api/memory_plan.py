"""Plans the memory of a job: what each GPU needs in each phase, by item, from the model's shape and the job's fields.

It is pure arithmetic: the command line, the trainer and tests call the same functions. `memory_layers` has the formulas
of layers, logits and cache, `memory_servers` those of vLLM; here are those of what is kept between passes: weights,
gradients and optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rft_api.memory_devices import Devices
from rft_api.memory_layers import (
    Adapter,
    Pass,
    Precision,
    backward_bytes,
    cache_bytes_per_sequence,
    logits_bytes,
    logits_gradient_bytes,
    mask_bytes,
    saved_bytes,
    tree_pass,
)
from rft_api.memory_servers import DEDICATED_SHARE, UNUSABLE_SHARE, server_need, shared_share
from rft_api.model_shape import ModelShape
from rft_api.training import Hyperparameters
from rft_api.tuning import Tuning

Phase = Literal["loading", "rollouts", "update", "optimizer step"]

GIB = 2**30
ADAM_BYTES = 8
"""Bytes of AdamW's two float32 moments of each trained weight (arXiv:1711.05101)."""
BUCKET_ELEMENTS = 500_000_000
"""Elements of DeepSpeed's buffer for gradients (`DeepSpeedZeroConfig.reduce_bucket_size`); it is allocated whole."""
GATHERED_ELEMENTS = 1_050_000_000
"""Weights that ZeRO-3 holds gathered at most: `max_live_parameters` and `prefetch_bucket_size` of DeepSpeed."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 updates at a time (`sub_group_size` of DeepSpeed)."""


@dataclass(frozen=True)
class PhaseNeed:
    """What one GPU needs in a phase of training."""

    phase: Phase
    """The phase."""
    items: Mapping[str, float]
    """Bytes by item."""

    @property
    def total(self) -> float:
        """Bytes of all items."""
        return sum(self.items.values())


@dataclass(frozen=True)
class CachePlan:
    """The cache for keys and values of sequences that are generated at once."""

    bytes: float
    """Bytes for the cache on each GPU; negative when not even the server's weights fit."""
    sequence_bytes: float
    """Bytes of one sequence of the longest length."""
    tokens: int
    """Longest length of a sequence in tokens."""
    others: Mapping[str, float]
    """What else the server holds, in bytes by item; empty when the trainer generates by itself."""

    @property
    def sequences(self) -> int:
        """Number of sequences of the longest length that it holds."""
        return max(0, int(self.bytes // self.sequence_bytes))


@dataclass(frozen=True)
class MemoryPlan:
    """What each GPU of the trainer needs, and what the cache holds."""

    phases: tuple[PhaseNeed, ...]
    """The phases, in their order."""
    limit: float | None
    """Bytes of a GPU that the trainer may use; None when the GPU's memory is not known."""
    cache: CachePlan | None
    """The cache of the servers, or of the trainer; None when the GPU's memory is not known."""
    memory_share: float | None
    """Share of each GPU's memory for a server; None without servers, or when the GPU's memory is not known."""

    @property
    def largest(self) -> PhaseNeed:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def excess(self) -> float:
        """Bytes that are missing for trainer or servers, the larger of both; 0 when all fits, or it is not known."""
        if self.limit is None:
            return 0.0
        return max(0.0, self.largest.total - self.limit, self.server_excess)

    @property
    def server_excess(self) -> float:
        """Bytes by which a server's share is too small for one sequence of the longest length; 0 without servers."""
        if self.cache is None or not self.cache.others:
            return 0.0
        return max(0.0, self.cache.sequence_bytes - self.cache.bytes)

    @property
    def fits(self) -> bool | None:
        """Whether all fits; None when the GPU's memory is not known."""
        return None if self.limit is None else self.excess == 0


def choose_precision(shape: ModelShape, tuning: Tuning, devices: Devices) -> Precision:
    """Return the dtypes of a run, as `rft_trainer.precision`, peft, accelerate and DeepSpeed choose them.

    On GPUs DeepSpeed casts the whole model to bfloat16, and keeps float32 copies of what it trains
    (`DeepSpeedEngine._configure_distributed_model`). Without DeepSpeed, weights keep their dtype and torch casts the
    inputs of linear layers (autocast). On CPUs there is no mixed precision.
    """
    stage = devices.deepspeed.zero_stage if devices.deepspeed is not None else None
    if devices.on_gpus and stage is not None:
        return Precision(weights=2, adapter=2, gradients=2, master=4, activations=2, autocast=False)
    # The optimizers of ZeRO keep a float32 copy even of weights in float32.
    master = 4 if stage else 0
    if tuning.type == "Full":
        return Precision(4, 4, 4, master, 2 if devices.on_gpus else 4, devices.on_gpus)
    weights = shape.stored_bytes if devices.on_gpus else devices.cpu_bytes
    return Precision(weights, 4, 4, master, 2 if devices.on_gpus else weights, devices.on_gpus)


def choose_pass(shape: ModelShape, hyperparameters: Hyperparameters, devices: Devices) -> Pass:
    """Return the largest pass of the update: prompts and completions of the longest lengths, as many as the fields
    allow.

    On GPUs, TRL computes a pass of one sequence, which shares nothing, without a matrix of logits.
    """
    prompt, completion = hyperparameters.max_prompt_tokens, hyperparameters.max_completion_tokens
    if hyperparameters.micro_batch_size is not None:
        count = hyperparameters.micro_batch_size
        return Pass(count * (prompt + completion), prompt + completion, count * completion, shared=True)
    budget = hyperparameters.effective_tokens_per_micro_batch or 0
    samples = hyperparameters.samples_per_prompt
    load = tree_pass(shape.hidden, prompt, completion, samples, budget)
    if budget >= prompt + completion:
        return load
    scored = budget if devices.on_gpus else max(budget, completion)
    return replace(load, tokens=prompt + completion, width=prompt + completion, scored=scored)


def plan_memory(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    tuning: Tuning,
    devices: Devices,
    load: Pass | None = None,
) -> MemoryPlan:
    """Return the memory that a job needs on each GPU, or in each process on CPUs.

    Args:
        shape: the model.
        hyperparameters: lengths, batch and passes.
        tuning: what is trained.
        devices: processes, GPUs and servers.
        load: the pass of the update; by default the largest one of `choose_pass`.

    Raises:
        UnknownShape: as `trained_weights`.
    """
    precision = choose_precision(shape, tuning, devices)
    load = load or choose_pass(shape, hyperparameters, devices)
    kept = _kept(shape, hyperparameters, tuning, devices, precision)
    while_updating = {**kept, **_gradients(shape, tuning, devices, precision)}
    phases = (
        PhaseNeed("loading", _loaded(shape, tuning, devices)),
        PhaseNeed("rollouts", {**kept, **_generation(shape, hyperparameters, devices, precision)}),
        PhaseNeed("update", {**while_updating, **_activations(shape, tuning, devices, precision, load)}),
        PhaseNeed("optimizer step", {**while_updating, **_step(shape, tuning, devices, precision)}),
    )
    if devices.gpu_bytes is None:
        return MemoryPlan(phases, None, None, None)
    tokens = hyperparameters.max_tokens
    if devices.placement == "InProcess":
        limit = devices.gpu_bytes * (1 - UNUSABLE_SHARE)
        rollouts = phases[1]
        free = limit - rollouts.total + rollouts.items["cache"]
        own = cache_bytes_per_sequence(shape, _cache_unit(devices, precision), tokens)
        return MemoryPlan(phases, limit, CachePlan(free, own, tokens, {}), None)
    server = server_need(
        shape, trained_weights(shape, tuning) if tuning.type == "LoRA" else 0, tokens, devices.server_gpus
    )
    share = devices.memory_share
    if share is None and devices.placement == "Shared":
        share = shared_share(devices.gpu_bytes, max(phase.total for phase in phases), server)
    elif share is None:
        share = DEDICATED_SHARE
    limit = devices.gpu_bytes * (1 - UNUSABLE_SHARE - (share if devices.placement == "Shared" else 0))
    cache_bytes = devices.gpu_bytes * share - sum(server.items.values())
    return MemoryPlan(phases, limit, CachePlan(cache_bytes, server.sequence_bytes, tokens, server.items), share)


def trained_weights(shape: ModelShape, tuning: Tuning) -> int:
    """Return the number of weights that are trained.

    Raises:
        UnknownShape: when the model has no linear layers of the names in `targetModules`.
    """
    if tuning.type == "Full":
        return shape.weights
    return shape.adapter_weights(tuning.effective_rank, tuning.last_layers, tuning.target_modules)


def _adapter(shape: ModelShape, tuning: Tuning, devices: Devices, precision: Precision) -> Adapter | None:
    """Return the adapter of one layer; None when all weights are trained."""
    if tuning.type == "Full":
        return None
    # torch keeps a mask of booleans on GPUs (`native_dropout`), and one in the dtype of the input on CPUs.
    mask = 0 if not tuning.effective_dropout else 1 if devices.on_gpus else precision.adapter
    return Adapter(tuning.effective_rank, shape.adapted_linears(tuning.target_modules), mask)


def _loaded(shape: ModelShape, tuning: Tuning, devices: Devices) -> dict[str, float]:
    """Return the bytes of weights while the model is loaded, which each process does whole, but not at ZeRO stage 3.

    There, transformers constructs the model inside `deepspeed.zero.Init`, which divides the weights of a module as soon
    as it exists, and gathers one module after the other to fill it (`deepspeed.zero.GatheredParameters` in
    `transformers.integrations.deepspeed`). So each process has its part of all weights, and one module whole. DeepSpeed
    decides on their dtype, which is bfloat16 on GPUs (`rft_trainer.partitions`).
    """
    unit = 4 if tuning.type == "Full" else shape.stored_bytes if devices.on_gpus else devices.cpu_bytes
    if _stage(devices) != 3:
        return {"weights": float(shape.weights * unit)}
    unit = 2 if devices.on_gpus else unit
    return {
        "weights": shape.weights * unit / _partitions(devices, 3),
        "gathered weights": float(shape.largest_module * unit),
    }


def _kept(
    shape: ModelShape, hyperparameters: Hyperparameters, tuning: Tuning, devices: Devices, precision: Precision
) -> dict[str, float]:
    """Return the bytes of what exists throughout training: weights, optimizer and reference model (arXiv:1910.02054,
    ZeRO)."""
    stage = _stage(devices)
    trained = trained_weights(shape, tuning)
    partitions = _partitions(devices, 3)
    items = {"weights": shape.weights * precision.weights / partitions}
    if tuning.type == "LoRA":
        items["adapter"] = trained * precision.adapter / partitions
    if stage == 3:
        items["gathered weights"] = float(min(shape.weights, GATHERED_ELEMENTS) * precision.weights)
    offloaded = devices.deepspeed is not None and devices.deepspeed.offload == "Optimizer"
    items["optimizer"] = 0.0 if offloaded else trained * (ADAM_BYTES + precision.master) / _partitions(devices, 1)
    if hyperparameters.kl_coefficient > 0:
        # TRL loads a second model, or copies the adapter, as the reference of the KL divergence.
        weights = shape.weights * precision.weights if tuning.type == "Full" else trained * precision.adapter
        items["reference"] = weights / partitions
    if not devices.on_gpus and devices.placement == "InProcess":
        states = _frozen_states(shape, hyperparameters, tuning, devices, precision)
        if states:
            items["states of frozen layers"] = states
    return items


def _frozen_states(
    shape: ModelShape, hyperparameters: Hyperparameters, tuning: Tuning, devices: Devices, precision: Precision
) -> float:
    """Bytes of what the last frozen layer computes for the tokens of a step, which generation keeps for the update.

    Only where the first layer has no adapter (`rft_trainer.frozen_states`).
    """
    is_reused = tuning.type == "LoRA" and not devices.keeps_inputs_only
    if not is_reused or shape.adapted_layers(tuning.last_layers) == shape.layers:
        return 0.0
    prompts = hyperparameters.batch_size / devices.trainers
    answers = hyperparameters.samples_per_prompt * hyperparameters.max_completion_tokens
    return prompts * (hyperparameters.max_prompt_tokens + answers) * shape.hidden * precision.stream


def _gradients(shape: ModelShape, tuning: Tuning, devices: Devices, precision: Precision) -> dict[str, float]:
    """Return the bytes of gradients, and of the buffer in which DeepSpeed reduces them."""
    stage, trained = _stage(devices), trained_weights(shape, tuning)
    offloaded = devices.deepspeed is not None and devices.deepspeed.offload == "Optimizer"
    # With offload, ZeRO-2 accumulates gradients in the memory of the host.
    gradients = 0.0 if offloaded and stage == 2 else trained * precision.gradients / _partitions(devices, 2)
    return {
        "gradients": gradients,
        **({"gradient buffer": float(BUCKET_ELEMENTS * precision.gradients)} if stage else {}),
    }


def _step(shape: ModelShape, tuning: Tuning, devices: Devices, precision: Precision) -> dict[str, float]:
    """Return the bytes that exist only while the optimizer updates: DeepSpeed's float32 copies of gradients in 16
    bits."""
    stage, trained = _stage(devices), trained_weights(shape, tuning)
    if stage is None or precision.gradients == 4 or (devices.deepspeed and devices.deepspeed.offload == "Optimizer"):
        return {}
    part = trained / _partitions(devices, 1)
    return {"float32 gradients": 4.0 * (min(part, SUB_GROUP_ELEMENTS) if stage == 3 else part)}


def _activations(
    shape: ModelShape, tuning: Tuning, devices: Devices, precision: Precision, load: Pass
) -> dict[str, float]:
    """Return the bytes of activations and logits when they take most: at the logits, or in the backward pass of the
    last layer.

    Gradient checkpointing keeps the input of each layer only, and computes the rest again, layer by layer
    (arXiv:1604.06174).
    """
    adapter = _adapter(shape, tuning, devices, precision)
    saved = load.tokens * saved_bytes(shape, precision, adapter, load.shared)
    backward = load.tokens * backward_bytes(shape, precision)
    logits = float(logits_bytes(shape, precision, load.scored))
    if adapter is None:
        # The gradient of the output layer is computed whole before it is added to that of earlier passes.
        gradient = shape.vocabulary * shape.hidden * precision.gradients
        logits = max(logits, logits_gradient_bytes(shape, precision, load.scored) + gradient)
    last_norm = load.tokens * shape.hidden * (4 + (precision.stream if adapter is None else 0))
    mask = float(mask_bytes(precision, load))
    # Autocast keeps its copies of weights that are trained until the forward pass ends.
    casts = 2.0 * trained_weights(shape, tuning) if precision.autocast else 0.0
    if not devices.keeps_inputs_only:
        layers = shape.adapted_layers(tuning.last_layers)
        kept = layers * saved + last_norm + mask
        if precision.autocast:
            # The backward pass needs the copies of all weights that were cast.
            frozen = adapter is not None and precision.weights == 4
            casts += 2.0 * layers * sum(item.weights for item in shape.linears) if frozen else 0.0
            converted = (2.0 + 4.0) * load.scored * shape.vocabulary  # in 16 and in 32 bits
            return {"activations": kept, "16-bit weights": casts, "logits": max(logits, backward, converted)}
        return {"activations": kept, "logits": logits} if logits > backward else {"activations": kept + backward}
    inputs = shape.layers * load.tokens * shape.hidden * precision.stream + mask
    candidates = [
        {"layer inputs": inputs + last_norm, "logits": logits},
        {"layer inputs": inputs, "one layer": saved + backward},
    ]
    if casts:
        converted = (2.0 + 4.0) * load.scored * shape.vocabulary  # in 16 and in 32 bits
        candidates.append({"layer inputs": inputs + last_norm, "16-bit weights": casts, "logits": converted})
    return max(candidates, key=lambda items: sum(items.values()))


def _generation(
    shape: ModelShape, hyperparameters: Hyperparameters, devices: Devices, precision: Precision
) -> dict[str, float]:
    """Return the bytes for generating a process's completions of a step at once, when the trainer itself generates
    them.

    transformers' `generate` keeps float32 logits, probabilities and a copy of each row, beside those of the model, and
    ZeRO-3's weights are gathered whole (`ds3_gather_for_generation` of TRL).
    """
    if devices.placement != "InProcess":
        return {}
    rows = hyperparameters.batch_size * hyperparameters.samples_per_prompt // devices.trainers
    sequence = cache_bytes_per_sequence(shape, _cache_unit(devices, precision), hyperparameters.max_tokens)
    items = {"cache": float(rows * sequence), "logits": rows * shape.vocabulary * (precision.activations + 12.0)}
    if _stage(devices) == 3:
        gathered = min(shape.weights, GATHERED_ELEMENTS)
        items["whole weights"] = float((shape.weights - gathered) * precision.weights)
    return items


def _cache_unit(devices: Devices, precision: Precision) -> int:
    """Return the bytes of an element of the trainer's own cache, which has the dtype of the stream."""
    return precision.stream if devices.on_gpus else precision.activations


def _stage(devices: Devices) -> int | None:
    return None if devices.deepspeed is None else devices.deepspeed.zero_stage


def _partitions(devices: Devices, since_stage: int) -> int:
    """Return the number of partitions of what ZeRO divides from a stage on."""
    stage = _stage(devices)
    return devices.trainers if stage is not None and stage >= since_stage else 1
