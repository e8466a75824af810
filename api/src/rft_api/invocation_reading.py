"""Reads Amazon Bedrock's model invocation logs record by record, and counts why records are not used."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from rft_api.exact_json import parse_line, parse_text
from rft_api.foreign.names import check_relative_name
from rft_api.invocation_bodies import NotUsable, answer_text, makes_no_text, request_messages, without_thoughts
from rft_api.invocation_feedback import Opinion, correction_of, is_feedback, read_opinions, satisfies
from rft_api.invocation_lines import MAXIMUM_BYTES, lines
from rft_api.invocation_log import (
    InvocationLog,
    InvocationLogReport,
    LeftOut,
    MetadataFilter,
    MetadataFilters,
    parse_timestamp,
)
from rft_api.jsonl import BYTE_ORDER_MARK, open_data
from rft_api.model import Json
from rft_api.prompts import Message, prompt_digest
from rft_api.redaction import RedactedTooLong, redactor

_SHOWN = 5
# Fields of a record that a reward may want, beside the request's metadata.
_KEPT = ("modelId", "requestId", "timestamp")
# Bodies and images are below the folder of their hour; the other object is empty and tells that writing is allowed.
_BODIES = "data"
_PERMISSION_CHECK = "amazon-bedrock-logs-permission-check"
_HOUR = re.compile(r"(?:^|/)(\d{4}/\d{2}/\d{2}/\d{2})/")
# What an export from CloudWatch Logs to S3 writes before each record.
_EXPORT_TIME = re.compile(rb"^\d{4}-\d\d-\d\dT[\d:.]+Z ")
# The texts of a request and its answer, which may be objects of their own, after redaction.
_ROOM = 2 * MAXIMUM_BYTES
# Records are delivered some minutes after their call.
_DELIVERY = timedelta(days=1)


@dataclass(frozen=True)
class LoggedPrompt:
    """A request in the log, and its answer."""

    record: int
    """Number of its record in all files, from 1."""
    place: str
    """FILE:LINE."""
    messages: list[Message]
    answer: str | None
    """The logged completion; None when it is not needed."""
    metadata: Json


class _LeftOutError(Exception):
    """Raised for a record that is not used; the text, if any, is shown to the user."""

    def __init__(self, reason: LeftOut, text: str = ""):
        super().__init__(reason)
        self.reason: LeftOut = reason
        self.text = text


class InvocationLogReader:
    """One pass over a file, or over all files of a folder in the order of their names.

    Holds one line at a time, and a digest of every prompt that it has taken.

    Args:
        path: the file or folder.
        options: what is taken.
        with_answers: whether prompts carry the logged answer, and records without a whole one are left out.

    Raises:
        OSError: when nothing is at the path.
        ValueError: when a redaction cannot be used.
    """

    def __init__(self, path: Path, options: InvocationLog, with_answers: bool):
        path.stat()
        self._path = path
        self._root = path if path.is_dir() else path.parent
        self._options = options
        self._with_answers = with_answers
        self._redactor = redactor(options.redact)
        self._seen: set[bytes] = set()
        self._records = 0
        self._taken = 0
        self._left_out: Counter[LeftOut] = Counter()
        self._unreadable: list[str] = []
        self._limited = False
        self._opinions: dict[str, Opinion] = {}

    def __iter__(self) -> Iterator[LoggedPrompt]:
        if self._with_answers or self._options.feedback is not None:
            self._read_opinions()
        for file in self._files():
            name = str(file.relative_to(self._root))
            for number, line in lines(file):
                self._records += 1
                place = f"{name}:{number}"
                try:
                    prompt = self._prompt(line, place, file)
                except _LeftOutError as left_out:
                    self._leave_out(left_out.reason, place, left_out.text)
                    continue
                self._taken += 1
                yield prompt
                if self._taken == self._options.limit:
                    self._limited = True
                    return

    def report(self) -> InvocationLogReport:
        """Return the report of what has been read so far."""
        return InvocationLogReport(
            records=self._records,
            taken=self._taken,
            left_out=dict(self._left_out.most_common()),
            unreadable=self._unreadable,
            limited=self._limited,
        )

    def refuse(self, prompt: LoggedPrompt, reason: LeftOut) -> None:
        """Count a record that has been returned as left out instead."""
        self._taken -= 1
        self._leave_out(reason, prompt.place, "")

    def _leave_out(self, reason: LeftOut, place: str, text: str) -> None:
        self._left_out[reason] += 1
        if text and len(self._unreadable) < _SHOWN:
            self._unreadable.append(f"{place}: {text}")

    def _files(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        names = {file: file.relative_to(self._root).as_posix() for file in self._path.rglob("*") if file.is_file()}
        files = [
            file
            for file, name in names.items()
            if not is_body(name) and not is_feedback(name) and may_hold(name, self._options)
        ]
        return sorted(files, key=lambda file: names[file])

    def _read_opinions(self) -> None:
        if not self._path.is_dir():
            return
        names = {file.relative_to(self._root).as_posix(): file for file in self._path.rglob("*") if file.is_file()}
        files = [names[name] for name in sorted(names) if is_feedback(name) and not is_body(name)]
        self._opinions, damaged = read_opinions(files, self._options.to)
        for file, number, text in damaged[:_SHOWN]:
            self._unreadable.append(f"{file.relative_to(self._root)}:{number}: {text}")

    def _prompt(self, line: bytes | Exception, place: str, file: Path) -> LoggedPrompt:
        record = _record(line)
        self._select(record)
        if record.get("errorCode") or not str(record.get("status", "200")).startswith("2"):
            raise _LeftOutError("ErrorResponse")
        try:
            messages, answer = self._texts(record, file)
        except NotUsable as unusable:
            raise _LeftOutError(unusable.reason) from None
        request_metadata = _request_metadata(record)
        redact = self._redactor.of_record(_ROOM)
        try:
            messages = [{"role": m["role"], "content": redact(_valid(m["content"]))} for m in messages]
            request_metadata = {key: redact(_valid(value)) for key, value in request_metadata.items()}
            answer = None if answer is None else redact(_valid(answer))
        except RedactedTooLong as too_long:
            raise _LeftOutError("Unreadable", str(too_long)) from None
        digest = prompt_digest(messages)
        if digest in self._seen:
            raise _LeftOutError("Duplicate")
        self._seen.add(digest)
        metadata = {name: record[name] for name in _KEPT if isinstance(record.get(name), str)}
        metadata |= {"requestMetadata": request_metadata} if request_metadata else {}
        return LoggedPrompt(self._records, place, messages, answer, metadata)

    def _select(self, record: Json) -> None:
        options = self._options
        if not in_range(record.get("timestamp"), options):
            raise _LeftOutError("OtherTime")
        model = str(record.get("modelId", ""))
        if options.model_ids and not {model, model.rpartition("/")[2]} & set(options.model_ids):
            raise _LeftOutError("OtherModel")
        if not matches(options.request_metadata_filters, _request_metadata(record)):
            raise _LeftOutError("Filtered")
        if not satisfies(self._opinions.get(str(record.get("requestId"))), options.feedback):
            raise _LeftOutError("OtherFeedback")
        if "embed" in model:
            raise _LeftOutError("NotText")

    def _texts(self, record: Json, file: Path) -> tuple[list[Message], str | None]:
        request = self._body(record, "input", file)
        messages = request_messages(request)
        output = record.get("output")
        if isinstance(output, dict) and makes_no_text(output.get("outputBodyJson")):
            raise NotUsable("NotText")
        # What an application wrote as the start of the answer is a part of the answer.
        start = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        if not messages or messages[-1]["role"] != "user":
            raise NotUsable("NoPrompt")
        if not self._with_answers:
            return messages, None
        correction = correction_of(self._opinions, str(record.get("requestId")))
        if correction is not None:
            return messages, correction
        answer = without_thoughts(start + answer_text(self._body(record, "output", file)))
        # What a model writes first after a prompt as text is the space that its template leaves there.
        return messages, answer if start or "messages" in request else answer.lstrip()

    def _body(self, record: Json, side: str, file: Path) -> Any:
        holder = record.get(side)
        body, address = None, ""
        if isinstance(holder, dict):
            body, address = holder.get(f"{side}BodyJson"), str(holder.get(f"{side}BodyS3Path") or "")
        if body is None and not address:
            raise NotUsable("BodyMissing" if side == "input" else "NoAnswer")
        if body is None:
            body = self._stored_body(address, file)
        if isinstance(body, str):
            try:
                body = parse_text(body)
            except ValueError:
                raise NotUsable("UnknownBody") from None
        return body

    def _stored_body(self, address: str, file: Path) -> Any:
        """Return a body in an object of its own, which lies among the files at the same place as in the bucket."""
        name = address.removeprefix("s3://").lstrip("/")
        try:
            check_relative_name(name)
        except ValueError:
            raise NotUsable("BodyMissing") from None
        parts = PurePosixPath(name).parts
        if parts:
            candidates = [self._root.joinpath(*parts[start:]) for start in range(1, len(parts))]
            for candidate in [*candidates, file.parent / _BODIES / parts[-1]]:
                if candidate.is_file():
                    return _whole(candidate)
        raise NotUsable("BodyMissing")


@dataclass(frozen=True)
class LogFiles:
    """Chooses the objects below the address of a log that are read: those of the stated period, without images."""

    from_: str | None
    to: str | None

    def __call__(self, name: str) -> bool:
        """Return whether the object is read."""
        return may_hold(name, self) and (not is_body(name) or ".json" in name)


def is_body(name: str) -> bool:
    """Return whether an object below the address of a log holds no records: a request's body, an image, a permission
    check."""
    *folders, last = PurePosixPath(name).parts
    return _BODIES in folders or last == _PERMISSION_CHECK or last.startswith(".")


def may_hold(name: str, options: InvocationLog | LogFiles) -> bool:
    """Return whether an object can hold records of the stated period, by the hour in its name (YYYY/MM/DD/HH/)."""
    match = _HOUR.search(name)
    try:
        hour = datetime.strptime(match.group(1), "%Y/%m/%d/%H").replace(tzinfo=UTC) if match else None
    except ValueError:
        hour = None
    if hour is None:
        return True
    if options.from_ is not None and hour + timedelta(hours=1) <= parse_timestamp(options.from_):
        return False
    return options.to is None or hour < parse_timestamp(options.to) + _DELIVERY


def in_range(timestamp: Any, options: InvocationLog) -> bool:
    """Return whether the timestamp of a record is in the stated period; without one, unknown timestamps are accepted
    too."""
    if options.from_ is None and options.to is None:
        return True
    try:
        when = parse_timestamp(timestamp)
    except (TypeError, ValueError):
        return False
    if options.from_ is not None and when < parse_timestamp(options.from_):
        return False
    return options.to is None or when < parse_timestamp(options.to)


def matches(filters: MetadataFilters | None, metadata: dict[str, str]) -> bool:
    """Return whether a request's metadata satisfies the filters."""
    if filters is None:
        return True
    if filters.and_all is not None:
        return all(_matches(one, metadata) for one in filters.and_all)
    if filters.or_all is not None:
        return any(_matches(one, metadata) for one in filters.or_all)
    return _matches(MetadataFilter(equals=filters.equals, not_equals=filters.not_equals), metadata)


def _matches(one: MetadataFilter, metadata: dict[str, str]) -> bool:
    equal = all(metadata.get(key) == value for key, value in (one.equals or {}).items())
    return equal and all(metadata.get(key) != value for key, value in (one.not_equals or {}).items())


def _valid(text: str) -> str:
    # Half of a surrogate pair is valid JSON, and nothing else can write it.
    return text.encode("utf-8", "replace").decode("utf-8")


def _request_metadata(record: Json) -> dict[str, str]:
    metadata = record.get("requestMetadata")
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _record(line: bytes | Exception) -> Json:
    if isinstance(line, Exception):
        raise _LeftOutError("Unreadable", str(line))
    try:
        record = parse_line(_EXPORT_TIME.sub(b"", line))
    except ValueError as error:
        raise _LeftOutError("Unreadable", str(error)) from None
    kind = record.get("schemaType", "ModelInvocationLog") if isinstance(record, dict) else None
    if kind != "ModelInvocationLog" or "modelId" not in record or "input" not in record:
        raise _LeftOutError("Unreadable", "is not a record of a model invocation log")
    return dict(record)


def _whole(file: Path) -> Any:
    try:
        with open_data(file) as stream:
            content = stream.read(MAXIMUM_BYTES + 1)
        if len(content) > MAXIMUM_BYTES:
            raise NotUsable("BodyMissing")
        return parse_line(content.removeprefix(BYTE_ORDER_MARK))
    except (OSError, EOFError, zlib.error):
        raise NotUsable("BodyMissing") from None
    except ValueError:
        raise NotUsable("UnknownBody") from None
