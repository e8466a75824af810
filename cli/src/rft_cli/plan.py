"""`rft plan`: print what memory a job needs on each GPU, whether it fits, and what to change if it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line, printable
from rft_api.hub_address import SHAPE, parse_hub_address
from rft_api.manifests import ManifestErrors
from rft_api.memory_advice import Fields, advise
from rft_api.memory_devices import Devices, Placement, devices_of
from rft_api.memory_plan import GIB, MemoryPlan, trained_weights
from rft_api.memory_verdict import NOT_PLANNED, unplanned
from rft_api.model import format_location
from rft_api.model_files import MAXIMUM_CONFIGURATION, read_model_configuration
from rft_api.model_shape import ModelShape, UnknownShape, read_shape
from rft_api.rft_job import RFTJob
from rft_api.scratch import scratch_folder
from rft_api.storage_error import StorageError
from rft_api.training import DeepSpeed
from rft_api.vllm_models import ENGINE, vllm_problem
from rft_cli.check import read_manifests
from rft_cli.stage_display import shown_stage

_CONFIGURATION = "config.json"
_PLACEMENTS: dict[Placement, str] = {
    "InProcess": "the trainer itself",
    "Shared": "vLLM on the same GPUs",
    "Dedicated": "vLLM on other GPUs",
}
"""What generates completions, in words."""


def plan(files: Sequence[Path], console: Console) -> None:
    """Plan the memory of each job in the manifests.

    Raises:
        ManifestErrors: with every error of the manifests.
        RunError: CONFIGURATION_INVALID when there is no job, or vLLM cannot serve a job's model; MODEL_INVALID or
            STORAGE_UNREACHABLE when a model's config.json cannot be had; DOES_NOT_FIT when a job does not fit its GPUs.
    """
    manifests, errors = read_manifests(files)
    if errors:
        raise ManifestErrors(errors, manifests)
    if not manifests.jobs:
        places = ", ".join(str(file) for file in files)
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{places}: no RFTJob, so nothing can be planned")
    unfit = []
    for job in manifests.jobs:
        if not job.spec.data.train:
            console.print(f"RFTJob {job.metadata.name}: {unplanned(NOT_PLANNED).message}", highlight=False)
            continue
        uri = job.spec.model.uri
        configuration = read_configuration(uri, manifests.folders[job.metadata.name])
        problem = vllm_problem(configuration, job.spec.compute.rollout_engine, job.spec.tuning)
        if problem is not None:
            raise RunError(
                ExitCode.CONFIGURATION_INVALID, f"RFTJob {job.metadata.name}: {format_location(ENGINE)}: {problem}"
            )
        try:
            shape = read_shape(configuration)
            trained_weights(shape, job.spec.tuning)
        except UnknownShape as error:
            raise RunError(ExitCode.MODEL_INVALID, f"RFTJob {job.metadata.name}: model {uri}: {error}") from error
        fields = Fields(job.spec.hyperparameters, job.spec.tuning, devices_of(job.spec.compute))
        if _print_plan(job, shape, fields, console).fits is False:
            unfit.append(job.metadata.name)
    if unfit:
        raise RunError(ExitCode.DOES_NOT_FIT, f"RFTJob {', '.join(unfit)}: the planned memory does not fit the GPUs")


def read_configuration(uri: str, folder: Path) -> Any:
    """Return the config.json of the model at an address.

    Args:
        uri: the address.
        folder: the folder of the manifest, from which paths start.

    Raises:
        RunError: MODEL_INVALID when it cannot be read there, STORAGE_UNREACHABLE when the store does not answer.
    """
    try:
        with scratch_folder() as scratch, shown_stage() as stage:
            stage.update(f"reading {_CONFIGURATION} of {uri}")
            return read_model_configuration(_fetch(uri, folder, scratch))
    except StorageError as error:
        code = ExitCode.MODEL_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
        text = f"{error}; to plan without it, copy config.json to a folder and name that as spec.model.uri"
        raise RunError(code, text) from error
    except (OSError, ValueError) as error:
        raise RunError(ExitCode.MODEL_INVALID, f"model {uri}: {_CONFIGURATION}: {one_line(str(error))}") from error


def _fetch(uri: str, folder: Path, scratch: Path) -> Path:
    """Return the path of config.json, which is fetched by itself from the hub or an object store."""
    if uri.startswith("hf://"):
        address = parse_hub_address(uri)
        if address is None:
            raise StorageError(f"{uri}: must look like {SHAPE}")
        # These libraries take a while to import, and models in folders do not need them.
        from rft_api.hub import HubModel

        return HubModel(address).fetch(_CONFIGURATION, scratch)
    if uri.startswith("s3://"):
        from rft_api.storage import ObjectStore

        store = ObjectStore()
        configuration = next((item for item in store.objects(uri) if item.name == _CONFIGURATION), None)
        if configuration is None:
            raise StorageError(f"{uri}: is no model: it holds no {_CONFIGURATION}")
        if configuration.size > MAXIMUM_CONFIGURATION:
            raise StorageError(f"{uri}: {_CONFIGURATION} is larger than {MAXIMUM_CONFIGURATION:,} bytes")
        store.download(uri, scratch, [configuration])
        return scratch / _CONFIGURATION
    if "://" in uri:
        raise StorageError(f"{uri}: only pods in the cluster can read it")
    return folder / Path(uri).expanduser() / _CONFIGURATION


def _print_plan(job: RFTJob, shape: ModelShape, fields: Fields, console: Console) -> MemoryPlan:
    plan, devices = fields.plan(shape), fields.devices
    console.print(Text.assemble((f"RFTJob {job.metadata.name}", "bold"), f": {printable(job.spec.model.uri)}"))
    kinds = ", ".join(f"{kind} {_count(count)}" for kind, count in shape.weights_by_kind.items())
    console.print(f"{_count(shape.weights)} weights: {kinds}", highlight=False)
    trained = f"{_count(trained_weights(shape, fields.tuning))} weights are trained ({fields.tuning.type})"
    console.print(f"{trained}; {_devices_text(devices)}", highlight=False)
    console.print(_phase_table(plan, "GPU" if devices.on_gpus else "process"))
    if not devices.on_gpus:
        console.print("In addition, each process needs about 1 GiB for Python and its libraries.", highlight=False)
        return plan
    console.print(_summary(plan, devices), highlight=False)
    console.print(_alternatives(shape, fields))
    for number, advice in enumerate(advise(shape, fields), start=1):
        console.print(f"{number}. {printable(str(advice))}", highlight=False)
    console.print()
    return plan


def _devices_text(devices: Devices) -> str:
    kind = "GPU" if devices.on_gpus else "CPU process"
    count = f"{devices.trainers} {kind}{'es' if kind.endswith('s') else 's'}" if devices.trainers > 1 else f"1 {kind}"
    stage = "no DeepSpeed" if devices.deepspeed is None else f"ZeRO stage {devices.deepspeed.zero_stage}"
    offload = ", optimizer in host memory" if devices.deepspeed and devices.deepspeed.offload == "Optimizer" else ""
    return f"{count}, {stage}{offload}; completions are generated by {_PLACEMENTS[devices.placement]}"


def _phase_table(plan: MemoryPlan, unit: str) -> Table:
    """Return the table of items by phase, in GiB."""
    table = Table(title=f"GiB on each {unit}", title_justify="left", box=None, pad_edge=False)
    table.add_column("item")
    for phase in plan.phases:
        table.add_column(phase.phase, justify="right")
    names = dict.fromkeys(name for phase in plan.phases for name in phase.items)
    for name in names:
        cells = [phase.items.get(name, 0.0) for phase in plan.phases]
        if any(cells):
            table.add_row(name, *(_gib(cell) if cell else "" for cell in cells))
    table.add_row("all", *(_gib(phase.total) for phase in plan.phases), style="bold")
    return table


def _summary(plan: MemoryPlan, devices: Devices) -> Text:
    if plan.limit is None or devices.gpu_bytes is None:
        return Text("Set compute.gpuMemory, such as 80Gi, to learn whether this fits and what the cache holds.")
    text = Text("It fits") if plan.fits else Text("It does not fit", "bold")
    missing = "" if plan.fits else f": {_gib(plan.excess)} GiB are missing"
    text = Text.assemble(
        text, f"{missing}. The trainer may use {_gib(plan.limit)} GiB of {_gib(devices.gpu_bytes)} GiB."
    )
    if plan.cache is None:
        return text
    others = ", ".join(f"{name} {_gib(size)}" for name, size in plan.cache.others.items())
    server = ""
    if plan.memory_share is not None:
        server = (
            f" Each server gets the share {plan.memory_share:.3f} of a GPU's memory, which has, in GiB: {others}, "
            f"cache {_gib(max(0.0, plan.cache.bytes))}."
        )
    return text.append(
        f"{server}\nThe cache holds {plan.cache.sequences} sequences of {plan.cache.tokens} tokens "
        f"({_gib(plan.cache.sequence_bytes)} GiB each)."
    )


def _alternatives(shape: ModelShape, fields: Fields) -> Table:
    """Return the table of what other placements and stages of ZeRO need."""
    table = Table(title="With other settings", title_justify="left", box=None, pad_edge=False)
    for column in ("completions by", "ZeRO stage"):
        table.add_column(column)
    for column in ("GiB on each GPU", "of", "sequences in the cache"):
        table.add_column(column, justify="right")
    table.add_column("fits")
    devices = fields.devices
    stages = [0, 1, 2, 3] if devices.trainers > 1 else [None, 2]
    for placement, words in _PLACEMENTS.items():
        if shape.experts and placement != "InProcess":
            continue  # vLLM cannot take over their weights
        # A share that is stated is for the stated placement.
        share = devices.memory_share if placement == devices.placement else None
        for stage in stages:
            offload = devices.deepspeed.offload if devices.deepspeed is not None and stage in (2, 3) else "None"
            deepspeed = None if stage is None else DeepSpeed(zero_stage=stage, offload=offload)
            other = replace(devices, placement=placement, memory_share=share, deepspeed=deepspeed)
            plan = replace(fields, devices=other).plan(shape)
            mark = {True: "yes", False: "no", None: "not known"}[plan.fits]
            held = str(plan.cache.sequences) if plan.cache is not None else ""
            limit = "" if plan.limit is None else _gib(plan.limit)
            name = "no DeepSpeed" if stage is None else str(stage)
            table.add_row(words, name, _gib(plan.largest.total), limit, held, mark)
    return table


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 20 or size == 0 else f"{size / GIB:.3f}"


def _count(number: int) -> str:
    for factor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return str(number)
