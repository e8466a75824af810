"""Prompts and conversations from Amazon Bedrock's model invocation logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rft_api.invocation_log import InvocationLog, InvocationLogReport
from rft_api.invocation_reading import InvocationLogReader, LogFiles, LoggedPrompt
from rft_api.model import Location
from rft_api.prompts import Check, Conversation, Message, Prompt, prompt_of, refusal
from rft_api.redaction import pattern_problem
from rft_api.sources import DataSource, Source, WarmupSource


def read_prompts(
    source: DataSource, problems: list[str], check: Check
) -> tuple[list[Prompt], InvocationLogReport | None]:
    """Return the prompts of a log, and the report of the records; see `rft_api.data_formats.DataFormat`.

    Logs are not the user's own writing: records that cannot be used are only counted, unless none is left.
    """
    records, report = _read(source, problems, check, to_imitate=False)
    prompts = [prompt_of(source, r.record, r.messages, r.answer, r.metadata) for r in records]
    return prompts, report


def read_conversations(
    source: WarmupSource, problems: list[str], check: Check
) -> tuple[list[Conversation], InvocationLogReport | None]:
    """Return the logged prompts with their answers, and the report of the records; see `read_prompts`."""
    records, report = _read(source, problems, check, to_imitate=True)
    return [Conversation(source.name, _with_answer(record), record.record) for record in records], report


def files(source: Source) -> LogFiles:
    """Return the filter of the files of a log: those that can hold records of the stated period, and the bodies of
    their requests."""
    options = _options(source)
    return LogFiles(options.from_, options.to)


def option_problems(source: Source) -> Iterator[tuple[Location, str]]:
    """Yield the patterns of the options that are not regular expressions."""
    redact = _options(source).redact
    for index, rule in enumerate(redact.patterns if redact else []):
        problem = pattern_problem(rule)
        if problem:
            yield ("invocationLog", "redact", "patterns", index, "pattern"), problem


def _options(source: Source) -> InvocationLog:
    return source.invocation_log or InvocationLog()


def _read(
    source: Source, problems: list[str], check: Check, to_imitate: bool
) -> tuple[list[LoggedPrompt], InvocationLogReport | None]:
    options = _options(source)
    with_answers = to_imitate or options.reference == "LoggedAnswer"
    try:
        reader = InvocationLogReader(Path(source.uri), options, with_answers)
    except (OSError, ValueError) as error:
        problems.append(f"{source.uri}: {getattr(error, 'strerror', None) or error}")
        return [], None
    records = []
    for record in reader:
        if refusal(check, _with_answer(record) if to_imitate else record.messages) is None:
            records.append(record)
        else:
            reader.refuse(record, "ChatTemplate")
    report = reader.report()
    if not records:
        problems.append(f"{source.uri}: no record of the invocation logs can be used: {report}")
    return records, report


def _with_answer(record: LoggedPrompt) -> list[Message]:
    return [*record.messages, {"role": "assistant", "content": record.answer or ""}]
