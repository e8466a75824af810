"""`rft track` on a run that somebody else has written: nothing goes where its folder says without the user's word."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from support.finished_runs import config
from support.patience import PATIENCE_SECONDS, wait_until
from support.tracked import tracked_run
from support.trainer import job_spec

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-store",
    "MLFLOW_TRACKING_TOKEN": "token-of-the-tracker",
    "TEAM_TOKEN": "token-of-the-team",
    "WANDB_API_KEY": "key-of-the-other-tracker",
}


class Recorder:
    """A server that stands for a tracker: it takes nothing, and keeps the Authorization of each request."""

    def __init__(self) -> None:
        self.authorizations: list[str | None] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.authorizations.append(self.headers["authorization"])
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name is the library's

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    started = Recorder()
    threading.Thread(target=started.server.serve_forever, daemon=True).start()
    yield started
    started.server.shutdown()
    started.server.server_close()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rft_cli.main", "track", *(str(argument) for argument in arguments)]


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command without a terminal, which ends by itself."""
    return subprocess.run(
        command(*arguments), env={**os.environ, **SECRETS}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


@contextmanager
def going_on(arguments: Sequence[object], answer: str | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal, on which the user answers; it is ended with what it has started."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), env={**os.environ, **SECRETS, "TERM": "xterm"}, stdin=terminal, stdout=terminal,
        stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        if answer is not None:
            os.write(controller, f"{answer}\n".encode())
        yield process, controller
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(controller)


def shown(controller: int) -> str:
    """Everything that the terminal shows until the command ends."""
    text = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while chunk := os.read(controller, 4096):
            text += chunk
    return text.decode()


@pytest.mark.parametrize("agreed", [(), ("--yes",)])
@pytest.mark.parametrize(
    ("tracker", "key"),
    [("mlflow", "AWS_SECRET_ACCESS_KEY"), ("mlflow", "WANDB_API_KEY"), ("wandb", "MLFLOW_TRACKING_TOKEN")],
)
def test_a_run_names_no_variable_of_something_else(recorder, tmp_path, tracker, key, agreed):
    place = {"uri": recorder.url} if tracker == "mlflow" else {"project": "stolen", "baseUrl": recorder.url}
    folder, _ = tracked_run(tmp_path / "run", {tracker: {**place, "tokenKey": key}})
    result = ended(folder.path, *agreed)
    assert result.returncode == 10
    assert f"be sent the value of the variable {key}, and a run's folder may only name" in result.stderr
    assert recorder.url in result.stderr
    assert "--manifest JOB.yaml" in result.stderr
    assert recorder.authorizations == []


def test_without_a_terminal_nothing_goes_where_the_folder_says(recorder, tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"mlflow": {"uri": recorder.url}})
    result = ended(folder.path)
    assert result.returncode == 10
    assert f"  MLflow at {recorder.url}, with the value of MLFLOW_TRACKING_TOKEN\n" in result.stderr
    assert "--yes" in result.stderr
    assert recorder.authorizations == []


def test_a_user_who_is_asked_may_refuse(recorder, tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"mlflow": {"uri": recorder.url}}, {"wandb": {"project": "p"}})
    with going_on([folder.path], "n") as (process, controller):
        text = shown(controller)
        assert process.wait(PATIENCE_SECONDS) == 10
    assert f"MLflow at {recorder.url}, with the value of MLFLOW_TRACKING_TOKEN" in text
    assert "Weights & Biases at https://api.wandb.ai, with the value of WANDB_API_KEY" in text
    assert "error: nothing was sent" in text
    assert recorder.authorizations == []


@pytest.mark.parametrize("way", ["answer", "flag"])
def test_a_user_who_agrees_sends_the_variables_of_this_tracker_only(recorder, tmp_path, way):
    folder, _ = tracked_run(tmp_path / "run", {"mlflow": {"uri": recorder.url}})
    arguments, answer = ([folder.path], "y") if way == "answer" else ([folder.path, "--yes"], None)
    with going_on(arguments, answer) as (process, _):
        wait_until(lambda: recorder.authorizations or process.poll() is not None)
        assert process.poll() is None
        senders = [
            child.environ()
            for child in psutil.Process(process.pid).children(recursive=True)
            if "rft_trainer.trackers" in child.cmdline()
        ]
    assert set(recorder.authorizations) == {"Bearer token-of-the-tracker"}
    assert [SECRETS.keys() & environment.keys() for environment in senders] == [{"MLFLOW_TRACKING_TOKEN"}]


def test_the_trackers_of_the_users_own_manifest_count_in_place_of_the_folders(recorder, tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"mlflow": {"uri": "http://127.0.0.1:9", "tokenKey": "WANDB_API_KEY"}})
    manifest = tmp_path / "job.yaml"
    write_job(manifest, [{"mlflow": {"uri": recorder.url, "tokenKey": "TEAM_TOKEN"}}])
    with going_on([folder.path, "--manifest", manifest]) as (process, _):
        wait_until(lambda: recorder.authorizations or process.poll() is not None)
        assert process.poll() is None
    assert set(recorder.authorizations) == {"Bearer token-of-the-team"}


def test_a_manifest_of_another_job_or_a_variable_that_is_not_there_is_refused(recorder, tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"tensorboard": {}})
    manifest = tmp_path / "job.yaml"
    write_job(manifest, [{"mlflow": {"uri": recorder.url, "tokenKey": "ABSENT_TOKEN"}}])
    missing = ended(folder.path, "--manifest", manifest)
    assert missing.returncode == 10
    assert f"MLflow at {recorder.url} needs the variable ABSENT_TOKEN (tokenKey), which is not there" in missing.stderr
    write_job(manifest, [], name="other")
    other = ended(folder.path, "--manifest", manifest)
    assert other.returncode == 10
    assert "there is no RFTJob amounts, which is the run's name, in the given files (defined: other)" in other.stderr
    assert recorder.authorizations == []


def test_event_files_of_tensorboard_leave_nothing_and_need_no_word(tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"tensorboard": {}})
    result = ended(folder.path)
    assert result.returncode == 0, result.stderr
    assert "TensorBoard has all of this run" in result.stdout


def test_what_is_wrong_with_a_folder_is_said_in_a_line(tmp_path):
    folder, _ = tracked_run(tmp_path / "run", {"tensorboard": {}})
    document = json.loads(folder.config.read_text()) | {f"field{number}": 0 for number in range(10_000)}
    folder.config.write_text(json.dumps(document))
    result = ended(folder.path)
    assert result.returncode == 15
    assert result.stderr.startswith(f"error: {folder.config} cannot be read: ")
    assert len(result.stderr) < 500
    assert ended(tmp_path / "none").stderr == f"error: {tmp_path}/none: there is no run\n"


def write_job(path: Path, trackers: list[dict[str, object]], name: str | None = None) -> None:
    """A manifest of the run's job, or of another one."""
    document = {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "RFTJob",
        "metadata": {"name": name or config(path).name},
        "spec": {**job_spec(path.parent, path.parent, path.parent), "trackers": trackers},
    }
    path.write_text(json.dumps(document), encoding="utf-8")  # whose texts are quoted
