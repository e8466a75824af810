"""Runs that are sent to trackers: what a tracker should have of them, and what it has."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_api.exit_codes import ExitCode
from rft_api.foreign.files import read_document
from rft_api.run_folder import RunFolder
from rft_api.trackers import Tracker
from rft_api.trainer_config import TrainerConfig
from rft_trainer.trackers.__main__ import connect
from rft_trainer.trackers.follower import Ending, Follower, TrackerClient
from support.finished_runs import config, write_run

Points = dict[str, list[tuple[int, float]]]
"""The points of each curve, by step."""


def tracked_run(path: Path, *trackers: dict[str, Any]) -> tuple[RunFolder, list[Tracker]]:
    """A finished run with trackers."""
    folder = RunFolder(path)
    write_run(folder)
    chosen = [Tracker.model_validate(tracker) for tracker in trackers]
    text = config(path).model_copy(update={"trackers": chosen}).model_dump_json(by_alias=True)
    folder.config.write_text(text, encoding="utf-8")
    return folder, chosen


def follow(
    folder: RunFolder, tracker: Tracker, client: TrackerClient | None = None, code: ExitCode = ExitCode.SUCCEEDED
) -> bool:
    """Send what is there, with one attempt; return whether all was sent."""
    ending = Ending()
    ending.tell(code, 0)
    written = read_document(folder.config, TrainerConfig)
    return Follower(folder, written, tracker, client or connect(folder, tracker), ending).run()


def points_of(folder: RunFolder) -> Points:
    """The points of metrics.jsonl."""
    points: Points = defaultdict(list)

    def add(value: Any, name: str, step: int) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(inner, f"{name}/{key}", step)
        elif value is not None:
            points[name].append((step, float(value)))

    for text in folder.metrics.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        step, split = line.pop("step"), line.pop("split")
        line.pop("endedAt")  # the time of a point, and no point of its own
        add(line, split, step)
    return points


def curves(points: Points) -> Points:
    """Without what belongs to the result."""
    return {name: sorted(values) for name, values in points.items() if not name.startswith("result/")}


def in_single_precision(points: Points) -> Points:
    """The points as TensorBoard stores them."""
    return {
        name: [(step, struct.unpack("f", struct.pack("f", value))[0]) for step, value in values]
        for name, values in points.items()
    }


def tensorboard(folder: RunFolder) -> Any:
    """TensorBoard's own reader of the run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return reader


def tensorboard_points(folder: RunFolder) -> Points:
    reader = tensorboard(folder)
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def mlflow_runs(url: str, experiment: str = "rft") -> Sequence[Any]:
    """The runs of MLflow, the newest first."""
    client = mlflow_client(url)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def mlflow_client(url: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=url)


def mlflow_points(url: str, run: Any) -> Points:
    client = mlflow_client(url)
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(each.step, each.value) for each in values] for name, values in history.items()}
