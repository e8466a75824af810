"""Writes a run as event files of TensorBoard, into a folder of the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from rft_api.exit_codes import ExitCode
from rft_api.files import open_new
from rft_api.run_folder import RunFolder
from rft_trainer.trackers.follower import Contents, RunIdentity
from rft_trainer.trackers.records import LINE_MARKS, RESULT_MARKS, Line, Result, Table

_FILE = "events.out.tfevents.{:010d}.{:04d}"


class TensorBoardClient:
    """The event files of a run. Each line is one event, which is read as a whole or not at all."""

    answers_at_close = False

    def __init__(self, folder: RunFolder):
        self._folder = folder.tensorboard
        self._writer: RecordWriter | None = None

    def open(self, run: RunIdentity) -> Contents:
        """Count the lines in the files of this generation; remove those of others, whose steps were made again."""
        if self._writer is not None:
            self._writer.close()
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        marks = dict.fromkeys((*LINE_MARKS, *RESULT_MARKS, "configuration"), 0)
        files = sorted(path for path in folder.iterdir() if ".tfevents." in path.name)
        for path in files:
            if not path.name.endswith(_suffix(run)):
                path.unlink()
                continue
            for event in LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag in marks:
                        marks[value.tag] += 1
        self._writer = RecordWriter(open_new(folder / (_FILE.format(int(time.time()), len(files)) + _suffix(run))))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if not marks["configuration"]:
            # Whoever looks at the folder now drops the events of an earlier generation.
            self._write(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
            self._write(_event(0, time.time(), {}, {"configuration": _markdown(_parameters(run.parameters))}))
        self._writer.flush()
        lines = sum(marks[mark] for mark in LINE_MARKS)
        return Contents(lines, any(marks[mark] for mark in RESULT_MARKS), str(folder))

    def send(self, lines: Sequence[Line]) -> None:
        """Append an event for each line."""
        for line in lines:
            texts = {} if line.samples is None else {"samples": _markdown(line.samples)}
            self._write(_event(line.step, line.moment, line.points, texts))
        self._flush()

    def send_result(self, result: Result) -> None:
        """Append an event with the numbers and the tables of the result."""
        texts = {"result": _markdown(result.comparison)}
        if result.samples is not None:
            texts["samples/before-and-after"] = _markdown(result.samples)
        self._write(_event(result.step, time.time(), result.points, texts))
        self._flush()

    def close(self, code: ExitCode) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, event: Event) -> None:
        assert self._writer is not None  # it is open
        self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        assert self._writer is not None  # it is open
        self._writer.flush()


def _suffix(run: RunIdentity) -> str:
    return f".{run.identity}-{run.generation}"


def _event(step: int, moment: float, points: Mapping[str, float], texts: Mapping[str, str]) -> Event:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in points.items()]
    values += [_text(tag, text) for tag, text in texts.items()]
    return Event(step=step, wall_time=moment, summary=Summary(value=values))


def _text(tag: str, text: str) -> Any:
    tensor = TensorProto(
        dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    )
    return Summary.Value(tag=tag, metadata=create_summary_metadata(tag, ""), tensor=tensor)


def _parameters(parameters: Mapping[str, str]) -> Table:
    return Table(["field", "value"], [[name, value] for name, value in parameters.items()])


def _markdown(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(_cells(row))} |" for row in rows)


def _cells(row: Iterable[Any]) -> Iterable[str]:
    for value in row:
        text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        yield text.replace("|", "\\|").replace("\n", "<br>").replace("\r", "")
