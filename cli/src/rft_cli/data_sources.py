"""Read the sources of data that the arguments of `rft data` name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rft_api.addresses import Address, is_remote, is_stored
from rft_api.data_formats import FORMATS, FileFilter, every_file, file_filter, read_conversations, read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.hub_address import DATASET_SHAPE, parse_dataset_address
from rft_api.invocation_log import InvocationLogReport
from rft_api.manifests import ManifestErrors, Manifests
from rft_api.prompts import Message, Prompt, prompt_digest, split_by_prompt
from rft_api.rft_job import RFTJob
from rft_api.scratch import scratch_folder
from rft_api.sources import DataSource, WarmupSource
from rft_cli.addresses import Places
from rft_cli.check import read_manifests
from rft_cli.stage_display import StageDisplay, shown_stage


@dataclass(frozen=True)
class Row:
    """A prompt, or the prompt of a conversation, and its place."""

    place: str
    """File and line."""
    messages: list[Message]
    """The messages of the prompt."""
    digest: bytes
    """The digest of the messages; equal prompts have equal digests."""
    reference: object
    """The reference answer; None for conversations."""
    answer: str | None = None
    """The answer to imitate; None for prompts."""


@dataclass
class ReadSource:
    """A source with its rows."""

    label: str
    """The file, or the split and name of the source in its job."""
    part: str
    """The split in its job (train, validation, test or warmup), or the address of the file."""
    of_job: bool
    """Whether it is a source of a job; otherwise the user has named the file itself."""
    rows: list[Row] = field(default_factory=list)
    report: InvocationLogReport | None = None
    """The report about invocation logs; None for other formats."""


@dataclass(frozen=True)
class _Target:
    label: str
    part: str
    of_job: bool
    source: DataSource | WarmupSource
    path: str | None
    """The path or s3:// address; None when only a cluster can read it."""
    fraction: float = 0.0
    """The fraction of the prompts that is set aside for validation."""
    job: str = ""
    """The name of its job."""


@dataclass(frozen=True)
class _Training:
    """Prompts of a job, some of which are set aside for validation."""

    target: _Target
    source: ReadSource
    prompts: list[Prompt]
    address: str
    """The address that the user knows."""


def read_targets(
    targets: Sequence[str],
    format_name: str,
    conversations: bool,
    split: str | None,
    problems: list[str],
    remarks: list[str],
) -> list[ReadSource]:
    """Read files and the sources of jobs.

    Args:
        targets: files of data, or manifests of jobs.
        format_name: the format of the files.
        conversations: whether the files hold warm-up data.
        split: the split that is read of folders and datasets that have several. Sources of jobs have their own.
        problems: the list to which problems of the data are appended.
        remarks: the list to which a remark about each source that cannot be read here is appended.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: when a manifest defines no job, there is no such format, or a split is named for a manifest.
    """
    sources: list[ReadSource] = []
    trainings: dict[str, list[_Training]] = {}
    with scratch_folder() as scratch, shown_stage() as stage:
        for number, target in enumerate(_expand(targets, format_name, conversations, split, scratch)):
            if target.path is None:
                remarks.append(f"{target.label}: {target.source.uri} can be read in a cluster only")
                continue
            copy = fetch(target.path, scratch / str(number), stage, file_filter(target.source), target.source.split)
            with copy as path:
                stage.update(f"reading {target.label}")
                source, prompts, address = _read(target, path, problems)
            sources.append(source)
            if target.fraction and prompts:
                trainings.setdefault(target.job, []).append(_Training(target, source, prompts, address))
    for trainings_of_job in trainings.values():
        _set_aside(trainings_of_job, sources, problems)
    return sources


@contextmanager
def fetch(
    address: str, scratch: Path, stage: StageDisplay, is_read: FileFilter = every_file, split: str | None = None
) -> Iterator[str]:
    """Yield the path of data: the address itself, or a folder with a copy when it is an s3:// or hf:// address.

    Of a dataset on the Hugging Face hub, only the files of the split are copied.

    Args:
        address: the address, or a path.
        scratch: the folder for the copy.
        stage: shows how far it is.
        is_read: tells by its name whether a file is copied from an object store.
        split: the split of a dataset on the hub; None if it has one only.

    Raises:
        RunError: DATA_INVALID when the object store or the hub refuses, or nothing is stored there;
            CONFIGURATION_INVALID for an address of another shape.
    """
    if not is_remote(address):
        yield address
        return
    dataset = parse_dataset_address(address)
    if dataset is None and not is_stored(address):
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{address}: must look like {DATASET_SHAPE}")
    # These libraries take a while to import, and most data is in files.
    from rft_api.storage_error import StorageError

    report = stage.report_bytes(f"fetching {address}")
    try:
        if dataset is not None:
            from rft_api.hub import fetch_dataset

            copy = fetch_dataset(dataset, scratch, split, report)
        else:
            from rft_api.storage import ObjectStore

            if not ObjectStore().fetch(address, scratch, is_read, report):
                raise RunError(ExitCode.DATA_INVALID, f"{address}: nothing is stored there")
            copy = scratch
    except StorageError as error:
        raise RunError(ExitCode.DATA_INVALID, str(error)) from None
    yield str(copy)


def _expand(
    targets: Sequence[str], format_name: str, conversations: bool, split: str | None, scratch: Path
) -> Iterator[_Target]:
    for target in targets:
        if target.endswith((".yaml", ".yml")):
            if split is not None:
                message = f"--split is for files and folders; each source of {target} has a field split"
                raise RunError(ExitCode.CONFIGURATION_INVALID, message)
            yield from _targets_of_manifest(target, scratch)
        else:
            source = file_source(target, format_name, conversations)
            yield _Target(target, target, False, source.model_copy(update={"split": split}), target)


def file_source(address: str, format_name: str, conversations: bool) -> DataSource | WarmupSource:
    """Return a source for a file on the command line. It has a placeholder as its name and reward.

    Raises:
        RunError: CONFIGURATION_INVALID when there is no such format.
    """
    entry = FORMATS.get(format_name)
    if entry is None:
        formats = ", ".join(f"{name} ({entry.description})" for name, entry in FORMATS.items())
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"--format {format_name}: must be one of {formats}")
    if conversations:
        return WarmupSource(name="file", uri=address, format=entry.name)
    return DataSource(name="file", uri=address, format=entry.name, reward="none")


def _targets_of_manifest(manifest: str, scratch: Path) -> Iterator[_Target]:
    manifests, errors = read_manifests([Path(manifest)])
    if errors:
        raise ManifestErrors(errors, manifests)
    if not manifests.jobs:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{manifest} defines no RFTJob")
    for job in manifests.jobs:
        yield from _targets_of_job(manifests, job, scratch)


def _targets_of_job(manifests: Manifests, job: RFTJob, scratch: Path) -> Iterator[_Target]:
    places = Places(manifests.folders[job.metadata.name], scratch, manifests.config_maps)
    try:
        places.write_inputs(job)
    except KeyError as key:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"a ConfigMap of {job.metadata.name} is not among the files: {key}"
        ) from None
    for item in job.spec.sources():
        is_local = Address((), "data", item.source.uri).scheme != "pvc"
        path = places.locate(item.source.uri) if is_local else None
        fraction = job.spec.data.effective_validation_fraction if item.split == "train" else 0.0
        yield _Target(item.label, item.split, True, item.source, path, fraction, job.metadata.name)


def _read(target: _Target, path: str, problems: list[str]) -> tuple[ReadSource, list[Prompt], str]:
    """Read a target whose data is at `path`; return it, its prompts if nothing is wrong with them, and its address."""
    source = ReadSource(target.label, target.part, target.of_job)
    uri = target.source.uri
    address = uri if is_remote(uri) or not target.of_job else path
    source_problems: list[str] = []
    located_source = target.source.model_copy(update={"uri": path})
    prompts: list[Prompt] = []
    if isinstance(located_source, WarmupSource):
        conversations, source.report = read_conversations(located_source, source_problems)
        source.rows = [
            Row(f"{address}:{c.line}", c.messages[:-1], prompt_digest(c.messages[:-1]), None, c.messages[-1]["content"])
            for c in conversations
        ]
    else:
        prompts, source.report = read_prompts(located_source, source_problems)
        source.rows = _rows(prompts, address)
    problems += _with_address(source_problems, path, address)
    return source, [] if source_problems else prompts, address


def _set_aside(trainings: Sequence[_Training], sources: list[ReadSource], problems: list[str]) -> None:
    """Split the training prompts of a job as a run does; those for validation become sources after their own."""
    prompts = {training.target.source.name: training.prompts for training in trainings}
    fraction = trainings[0].target.fraction
    try:
        stay, aside = split_by_prompt(prompts, fraction)
    except RunError as error:
        problems.append(error.message)
        return
    for training in trainings:
        name = training.target.source.name
        training.source.rows = _rows(stay[name], training.address)
        label = f"validation ({fraction:g} of {training.source.label})"
        validation = ReadSource(label, "validation", True, _rows(aside[name], training.address))
        position = next(place for place, source in enumerate(sources) if source is training.source)
        sources.insert(position + 1, validation)


def _with_address(problems: Sequence[str], path: str, address: str) -> list[str]:
    """Return the problems with the address that the user knows instead of the path of the copy."""
    return [address + problem.removeprefix(path) if problem.startswith(path) else problem for problem in problems]


def _rows(prompts: Sequence[Prompt], address: str) -> list[Row]:
    return [Row(f"{address}:{p.line}", p.messages, prompt_digest(p.messages), p.reference_answer) for p in prompts]
