"""`rft data convert`: convert data of other formats to JSONL in OpenAI chat format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError
from rich.console import Console

from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLog
from rft_api.invocation_reading import InvocationLogReader, LogFiles
from rft_api.model import Json
from rft_api.prompts import Message, problem_report
from rft_api.rows import read_rows
from rft_cli.data_sources import fetch
from rft_cli.new_file import new_files
from rft_cli.texts import harmless

_SOLUTION_MARK = "####"


def log_options(
    reference: bool,
    models: Sequence[str] | None,
    since: str | None,
    until: str | None,
    equals: Sequence[str] | None,
    not_equals: Sequence[str] | None,
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
        "redact": {"patterns": [{"pattern": pattern} for pattern in redact]} if redact else None,
        "limit": limit,
    }
    try:
        return InvocationLog.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{place}: {first['msg']}") from None


def convert_logs(source: str, options: InvocationLog, output: Path, conversations: bool, console: Console) -> None:
    """Write the prompts of invocation logs to a new file, one at a time, so that logs of any size can be converted.

    Raises:
        RunError: DATA_INVALID when no record can be used, OUTPUT_INVALID when the file exists already.
    """
    files = LogFiles(options.from_, options.to)
    with TemporaryDirectory(prefix="rft-data-") as scratch, fetch(source, Path(scratch) / "data", files) as path:
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
    console.print(harmless(f"{report} → {output}"), highlight=False, markup=False, soft_wrap=True)


def convert_rows(source: str, name: str, output: Path, conversations: bool, console: Console) -> None:
    """Write the rows of a JSONL file of another format to a new file.

    Raises:
        RunError: CONFIGURATION_INVALID when there is no such format, DATA_INVALID with every line that is wrong,
            OUTPUT_INVALID when the file exists already.
    """
    converters: dict[str, Callable[[Json, bool], Json]] = {
        "PromptCompletion": _prompt_completion,
        "QuestionAnswer": _question_answer,
    }
    if name not in converters:
        formats = ", ".join(["BedrockInvocationLog", *converters])
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"--from {name}: must be one of {formats}")
    problems: list[str] = []
    rows = []
    with TemporaryDirectory(prefix="rft-data-") as scratch, fetch(source, Path(scratch) / "data") as path:
        for line in read_rows(Path(path), problems):
            try:
                rows.append(converters[name](line.row, conversations))
            except ValueError as error:
                problems.append(f"{line.place}: {error}")
    if problems:
        raise RunError(ExitCode.DATA_INVALID, problem_report([source + p.removeprefix(path) for p in problems]))
    with new_files([output]) as (file,):
        for row in rows:
            file.write(_line(row))
    console.print(f"{len(rows)} rows → {output}", highlight=False, markup=False, soft_wrap=True)


def _prompt_completion(row: Json, conversations: bool) -> Json:
    """Convert `prompt` and `completion`: texts (OpenAI's older format) or messages (TRL's conversational format)."""
    messages = _turns(row, "prompt", "user")
    completion = None
    if row.get("completion") is not None:
        completion = "".join(message["content"] for message in _turns(row, "completion", "assistant"))
    rest = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return _row(messages, completion, conversations, rest)


def _question_answer(row: Json, conversations: bool) -> Json:
    """Convert `question` and `answer`, as in GSM8K; the text after #### becomes the reference answer."""
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError("question and answer must be texts")
    rest = {key: value for key, value in row.items() if key not in ("question", "answer")}
    solution, mark, final = answer.rpartition(_SOLUTION_MARK)
    if mark and not conversations:
        rest["solution"] = solution.strip()
    messages = [{"role": "user", "content": question}]
    return _row(messages, final.strip() if mark and not conversations else answer, conversations, rest)


def _turns(row: Json, field: str, role: str) -> list[Message]:
    value = row.get(field)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field} must be a text or a list of messages")
    for turn in value:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise ValueError(f"{field} must hold messages with role and content")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _row(messages: list[Message], answer: str | None, conversations: bool, rest: Json) -> Json:
    if not conversations:
        return {"messages": messages, **({} if answer is None else {"reference_answer": answer}), **rest}
    if answer is None:
        raise ValueError("there is no answer to imitate")
    return {"messages": [*messages, {"role": "assistant", "content": answer}], **rest}


def _line(row: Json) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
