"""`rft data convert`: convert data of other formats to JSONL in OpenAI chat format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from rft_api.dataset_files import is_data_file
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import printable
from rft_api.invocation_log import InvocationLog
from rft_api.invocation_reading import InvocationLogReader, LogFiles
from rft_api.model import Json
from rft_api.prompts import Message, problem_report
from rft_api.rows import read_rows
from rft_api.scratch import scratch_folder
from rft_api.violations import violations
from rft_cli.data_sources import fetch
from rft_cli.new_file import new_files
from rft_cli.row_formats import ROW_FORMATS, convert_row
from rft_cli.stage_display import shown_stage

_PARTS_OF_PROMPTS = ("choices", "options", "context", "passage", "article")
"""Fields of public datasets that a question cannot be answered without."""


def log_options(
    reference: bool,
    models: Sequence[str] | None,
    since: str | None,
    until: str | None,
    equals: Sequence[str] | None,
    not_equals: Sequence[str] | None,
    feedback: str | None,
    redact: Sequence[str] | None,
    limit: int | None,
) -> InvocationLog:
    """Return the options of the command line as the field `invocationLog` of a manifest.

    Raises:
        RunError: CONFIGURATION_INVALID when one of them is wrong.
    """
    conditions: list[dict[str, dict[str, str]]] = []
    for name, texts in (("equals", equals), ("notEquals", not_equals)):
        for text in texts or []:
            key, separator, value = text.partition("=")
            if not separator:
                option = "--equals" if name == "equals" else "--not-equals"
                raise RunError(ExitCode.CONFIGURATION_INVALID, f"{option} {text}: must look like KEY=VALUE")
            conditions.append({name: {key: value}})
    fields = {
        "reference": "LoggedAnswer" if reference else "None",
        "modelIds": list(models or []),
        "from": since,
        "to": until,
        "requestMetadataFilters": {"andAll": conditions} if conditions else None,
        "feedback": {"rating": feedback} if feedback else None,
        "redact": {"patterns": [{"pattern": pattern} for pattern in redact]} if redact else None,
        "limit": limit,
    }
    try:
        return InvocationLog.model_validate(fields)
    except ValidationError as error:
        first = next(violations(error, fields, InvocationLog))
        raise RunError(ExitCode.CONFIGURATION_INVALID, str(first)) from None


def refuse_options(format_name: str, options: Mapping[str, object]) -> None:
    """Refuse options that the format does not have, so that none is ignored in silence.

    Raises:
        RunError: CONFIGURATION_INVALID when one of them has a value.
    """
    for option, value in options.items():
        if value:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"{option} has no meaning with --from {format_name}")


def convert_logs(source: str, options: InvocationLog, output: Path, conversations: bool, console: Console) -> None:
    """Write the prompts of invocation logs to a new file, one at a time, so that logs of any size can be converted.

    Raises:
        RunError: DATA_INVALID when no record can be used, OUTPUT_INVALID when the file exists already.
    """
    files = LogFiles(options.from_, options.to)
    with scratch_folder() as scratch, shown_stage() as stage, fetch(source, scratch / "data", stage, files) as path:
        stage.update(f"converting {source}")
        try:
            reader = InvocationLogReader(
                Path(path), options, with_answers=conversations or options.reference == "LoggedAnswer"
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(ExitCode.DATA_INVALID, f"{source}: {reason}") from None
        with new_files([output]) as (file,):
            for prompt in reader:
                row = _row(prompt.messages, prompt.answer, conversations, {"metadata": prompt.metadata})
                file.write(_line(row))
            report = reader.report()
            if not report.taken:
                raise RunError(
                    ExitCode.DATA_INVALID, f"{source}: no record of the invocation logs can be used: {report}"
                )
    console.print(printable(f"{report} → {output}"), highlight=False, markup=False, soft_wrap=True)


def convert_rows(
    source: str,
    name: str,
    prompt_field: str | None,
    answer_field: str | None,
    split: str | None,
    output: Path,
    conversations: bool,
    console: Console,
) -> None:
    """Write the rows of a file, or of a split of a dataset, of another format to a new file.

    Raises:
        RunError: CONFIGURATION_INVALID when there is no such format, DATA_INVALID with every row that is wrong,
            OUTPUT_INVALID when the file exists already.
    """
    if name not in ROW_FORMATS:
        formats = ", ".join(["BedrockInvocationLog", *ROW_FORMATS])
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"--from {name}: must be one of {formats}")
    problems: list[str] = []
    rows = []
    with (
        scratch_folder() as scratch,
        shown_stage() as stage,
        fetch(source, scratch / "data", stage, is_data_file, split) as path,
    ):
        stage.update(f"converting {source}")
        for row in read_rows(Path(path), problems, split):
            try:
                rows.append(convert_row(row.row, ROW_FORMATS[name], prompt_field, answer_field, conversations))
            except ValueError as error:
                problems.append(f"{row.place}: {error}")
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report([source + p.removeprefix(path) for p in problems]))
    with new_files([output]) as (file,):
        for converted in rows:
            file.write(_line(converted))
    unanswered = sum(converted.get("reference_answer") is None for converted in rows)
    remark = f"; {unanswered} have no reference answer: --answer-field names its field" if unanswered else ""
    remark = "" if conversations else remark
    console.print(f"{len(rows)} rows → {output}{remark}", highlight=False, markup=False, soft_wrap=True)
    parts = [name for name in _PARTS_OF_PROMPTS if any(_is_unseen(converted, name) for converted in rows)]
    if parts:
        text = (
            f"The prompts do not contain {', '.join(parts)}, which only the reward sees. If the questions need it, "
            "write it into the field of the prompt first"
        )
        console.print(Text(text, style="yellow"), soft_wrap=True)


def _is_unseen(row: Json, name: str) -> bool:
    """Return whether a row has a field from which prompts are usually made, and any of its texts is not in the
    prompt."""
    prompt = "\n".join(message["content"] for message in row["messages"])
    return any(text not in prompt for text in _texts(row.get(name)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from _texts(item)


def _row(messages: list[Message], answer: str | None, conversations: bool, rest: Json) -> Json:
    if not conversations:
        return {"messages": messages, **({} if answer is None else {"reference_answer": answer}), **rest}
    if answer is None:
        raise ValueError("there is no answer to imitate")
    return {"messages": [*messages, {"role": "assistant", "content": answer}], **rest}


def _line(row: Json) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
