"""What the arguments of `rft data` stand for: sources of data, brought to this machine and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rft_api.addresses import Address, is_stored
from rft_api.data_formats import FORMATS, FileFilter, every_file, file_filter, read_conversations, read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLogReport
from rft_api.manifests import ManifestErrors, Manifests
from rft_api.prompts import Message, Prompt, prompt_digest, split_by_content
from rft_api.rft_job import RFTJob
from rft_api.sources import DataSource, WarmupSource
from rft_cli.addresses import Places
from rft_cli.check import read_manifests


@dataclass(frozen=True)
class Row:
    """A prompt, or the prompt of a conversation, and where it stands."""

    place: str
    messages: list[Message]
    digest: bytes
    reference: object
    answer: str | None = None
    """The answer to imitate; none for prompts."""


@dataclass
class ReadSource:
    """A source and what was found there."""

    label: str
    """Its file, or its split and name in a job."""
    part: str
    """What it is used for: train, validation, test, warmup; of a file, its address."""
    of_job: bool
    rows: list[Row] = field(default_factory=list)
    report: InvocationLogReport | None = None


@dataclass(frozen=True)
class _Target:
    label: str
    part: str
    of_job: bool
    source: DataSource | WarmupSource
    path: str | None
    """None for what only a cluster can read."""
    fraction: float = 0.0
    """Share that is set aside for validation."""


def read_targets(
    targets: Sequence[str], format_name: str, conversations: bool, problems: list[str], remarks: list[str]
) -> list[ReadSource]:
    """Reads files and the sources of jobs.

    Args:
        targets: files of data, or manifests.
        format_name: the format of the files.
        conversations: whether the files hold warm-up data.
        problems: what is wrong is appended.
        remarks: what was not looked at is appended.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: when a manifest holds no job, or there is no such format.
    """
    read: list[ReadSource] = []
    with TemporaryDirectory(prefix="rft-data-") as scratch:
        for number, target in enumerate(_expand(targets, format_name, conversations, Path(scratch))):
            if target.path is None:
                remarks.append(f"{target.label}: {target.source.uri} can be read in a cluster only")
                continue
            with fetched(target.path, Path(scratch) / str(number), file_filter(target.source)) as path:
                read += _read(target, path, problems)
    return read


@contextmanager
def fetched(address: str, scratch: Path, is_read: FileFilter = every_file) -> Iterator[str]:
    """A path with what is at an address: itself, or a copy of what is stored at s3://.

    Raises:
        RunError: DATA_INVALID when the store refuses, or nothing is there.
    """
    if not is_stored(address):
        yield address
        return
    from rft_api.storage import ObjectStore
    from rft_api.storage_error import StorageError

    try:
        found = ObjectStore().fetch(address, scratch, is_read)
    except StorageError as error:
        raise RunError(ExitCode.DATA_INVALID, str(error)) from None
    if not found:
        raise RunError(ExitCode.DATA_INVALID, f"{address}: nothing is stored there")
    yield str(scratch)


def _expand(targets: Sequence[str], format_name: str, conversations: bool, scratch: Path) -> Iterator[_Target]:
    for target in targets:
        if target.endswith((".yaml", ".yml")):
            yield from _of_jobs(target, scratch)
        else:
            yield _Target(target, target, False, file_source(target, format_name, conversations), target)


def file_source(address: str, format_name: str, conversations: bool) -> DataSource | WarmupSource:
    """A source for what a user names on the command line, to which no job gives a name or a reward.

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


def _of_jobs(manifest: str, scratch: Path) -> Iterator[_Target]:
    found, errors = read_manifests([Path(manifest)])
    if errors:
        raise ManifestErrors(errors, found)
    if not found.jobs:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{manifest} defines no RFTJob")
    for job in found.jobs:
        yield from _of_job(found, job, scratch)


def _of_job(found: Manifests, job: RFTJob, scratch: Path) -> Iterator[_Target]:
    places = Places(found.folders[job.metadata.name], scratch, found.config_maps)
    try:
        places.write_inputs(job)
    except KeyError as missing:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"a ConfigMap of {job.metadata.name} is not among the files: {missing}"
        ) from None
    for item in job.spec.sources():
        here = Address((), "data", item.source.uri).scheme != "pvc"
        path = places.locate(item.source.uri) if here else None
        aside = job.spec.data.effective_validation_fraction if item.split == "train" else 0.0
        yield _Target(item.label, item.split, True, item.source, path, aside)


def _read(target: _Target, path: str, problems: list[str]) -> list[ReadSource]:
    source = ReadSource(target.label, target.part, target.of_job)
    uri = target.source.uri
    shown = uri if is_stored(uri) or not target.of_job else path
    wrong: list[str] = []
    located = target.source.model_copy(update={"uri": path})
    if isinstance(located, WarmupSource):
        found, source.report = read_conversations(located, wrong)
        source.rows = [
            Row(f"{shown}:{c.line}", c.messages[:-1], prompt_digest(c.messages[:-1]), None, c.messages[-1]["content"])
            for c in found
        ]
        problems += _as_given(wrong, path, shown)
        return [source]
    prompts, source.report = read_prompts(located, wrong)
    kept: list[Prompt] = prompts
    aside: list[Prompt] = []
    if target.fraction and prompts and not wrong:
        try:
            kept, aside = split_by_content(target.label.partition("/")[2], prompts, target.fraction)
        except RunError as error:
            problems.append(error.message)
    source.rows = _rows(kept, shown)
    problems += _as_given(wrong, path, shown)
    read = [source]
    if aside:
        label = f"validation ({target.fraction:g} of {target.label})"
        read.append(ReadSource(label, "validation", True, _rows(aside, shown)))
    return read


def _as_given(problems: Sequence[str], path: str, shown: str) -> list[str]:
    """The problems with the address that the user knows in place of the copy's."""
    return [shown + problem.removeprefix(path) if problem.startswith(path) else problem for problem in problems]


def _rows(prompts: Sequence[Prompt], shown: str) -> list[Row]:
    return [Row(f"{shown}:{p.line}", p.messages, prompt_digest(p.messages), p.reference_answer) for p in prompts]
