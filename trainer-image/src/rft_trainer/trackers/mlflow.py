"""Sends a run to a tracking server of MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence

from rft_api.exact_json import parse_text
from rft_api.exit_codes import ExitCode
from rft_api.trackers import MLflowTracker
from rft_trainer.trackers.follower import Contents, RunIdentity
from rft_trainer.trackers.records import LINE_MARKS, RESULT_MARKS, Line, Result, Table

# The package reads these when it is imported. The follower itself tries again, and MLflow would wait for minutes.
os.environ |= {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

from mlflow import MlflowClient, MlflowException
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag

_IDENTITY, _GENERATION, _REPLACED, _TABLES = "rft.run", "rft.generation", "rft.replaced", "mlflow.loggedArtifacts"
_MOST_POINTS = 900
"""The server takes 1,000 metrics at once."""
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 6000
_LONGEST_NAME = 250


class MLflowTrackingClient:
    """The run of MLflow that stands for a run. The metrics of a line go with one request, which takes all or none.

    Args:
        tracker: the tracking server.
    """

    answers_at_close = False

    def __init__(self, tracker: MLflowTracker):
        self._tracker = tracker
        if tracker.token_key is not None:
            os.environ["MLFLOW_TRACKING_TOKEN"] = os.environ[tracker.token_key]
        self._client = MlflowClient(tracking_uri=tracker.uri)
        self._run = ""
        self._tables: list[str] = []

    def open(self, run: RunIdentity) -> Contents:
        """Find the run by its identity, or create it; record the configuration; return what it has."""
        experiment = self._experiment()
        there = self._runs(experiment, run)
        current = there.pop(run.generation, None)
        for earlier in there.values():
            if _REPLACED not in earlier.data.tags:
                self._client.set_tag(earlier.info.run_id, _REPLACED, f"by generation {run.generation}")
                self._client.set_terminated(earlier.info.run_id, RunStatus.to_string(RunStatus.KILLED))
        if current is None:
            name = self._tracker.run_name or run.name
            current = self._client.create_run(
                experiment,
                run_name=name if run.generation == 1 else f"{name} ({run.generation})",
                tags={
                    _IDENTITY: run.identity,
                    _GENERATION: str(run.generation),
                    "rft.job": run.name,
                    "rft.namespace": run.namespace,
                },
            )
        self._run = current.info.run_id
        self._tables = [table["path"] for table in parse_text(current.data.tags.get(_TABLES, "[]"))]
        self._client.update_run(self._run, RunStatus.to_string(RunStatus.RUNNING))
        parameters = [Param(_key(name), value[:_LONGEST_PARAMETER]) for name, value in run.parameters.items() if value]
        new = [parameter for parameter in parameters if parameter.key not in current.data.params]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + _MOST_PARAMETERS])
        counts = [len(self._client.get_metric_history(self._run, key)) for key in LINE_MARKS]
        has_result = any(self._client.get_metric_history(self._run, key) for key in RESULT_MARKS)
        return Contents(sum(counts), has_result, f"{self._tracker.uri}/#/experiments/{experiment}/runs/{self._run}")

    def send(self, lines: Sequence[Line]) -> None:
        """Log the metrics of lines, several with each request; tables of samples go first, under the step's name."""
        metrics: list[Metric] = []
        for line in lines:
            if line.samples is not None:
                self._send_table(line.samples, f"samples/step-{line.step}.json")
            of_line = _metrics(line.points, line.step, line.moment)
            if len(metrics) + len(of_line) > _MOST_POINTS:
                self._send_metrics(metrics)
                metrics = []
            metrics += of_line
        self._send_metrics(metrics)

    def send_result(self, result: Result) -> None:
        """Log the tables of the result, and then its numbers."""
        self._send_table(result.comparison, "result.json")
        if result.samples is not None:
            self._send_table(result.samples, "samples/before-and-after.json")
        self._send_metrics(_metrics(result.points, result.step, time.time()))

    def close(self, code: ExitCode) -> None:
        """Set the status of the run; a run that will be resumed counts as killed until then."""
        status = RunStatus.FAILED if code.permanent else RunStatus.KILLED
        status = RunStatus.FINISHED if code == ExitCode.SUCCEEDED else status
        self._client.set_terminated(self._run, RunStatus.to_string(status))

    def _experiment(self) -> str:
        name = self._tracker.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                experiment = self._client.get_experiment_by_name(name)  # another run has created it meanwhile
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise ValueError(f"the experiment {name} has been deleted; restore it, or name another one")
        return str(experiment.experiment_id)

    def _runs(self, experiment: str, run: RunIdentity) -> dict[int, Run]:
        """Return the runs of MLflow that stand for a run, by their generation."""
        runs = self._client.search_runs([experiment], f"tags.`{_IDENTITY}` = '{run.identity}'")
        return {int(each.data.tags[_GENERATION]): each for each in runs}

    def _send_metrics(self, metrics: Sequence[Metric]) -> None:
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def _send_table(self, table: Table, path: str) -> None:
        """Store a table as a file that MLflow shows as a table; one of the same name is replaced."""
        self._client.log_text(self._run, json.dumps({"columns": table.columns, "data": table.rows}), path)
        if path not in self._tables:
            self._tables.append(path)
            tables = json.dumps([{"path": name, "type": "table"} for name in self._tables])
            self._client.log_batch(self._run, tags=[RunTag(_TABLES, tables)])


def _metrics(points: dict[str, float], step: int, moment: float) -> list[Metric]:
    return [Metric(_key(name), value, int(moment * 1000), step) for name, value in points.items()]


def _key(name: str) -> str:
    """Return a name of a metric or parameter that MLflow takes; other names have other ones.

    It takes letters, digits, `_-. :/`, and paths that are not shortened, such as `a//b`. Other characters become their
    code between colons.
    """
    parts = []
    for part in name.split("/"):
        encoded = re.sub(r"[^\w\-. ]", _code, part)
        parts.append(encoded if encoded.strip(".") else f":{part.replace('.', '2e')}:")
    key = "/".join(parts)
    if len(key) <= _LONGEST_NAME:
        return key
    return f"{key[: _LONGEST_NAME - 9]}:{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _code(match: re.Match[str]) -> str:
    return f":{ord(match[0]):x}:"
