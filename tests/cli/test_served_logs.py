"""`rft serve --logs`: the options of the log, and the gateway that is started with it."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from support.conversation_logs import read
from support.patience import PATIENCE_SECONDS
from support.vllm_bytes import VllmBytes

from rft_api.exit_codes import ExitCode, RunError
from rft_cli import processes
from rft_cli.served_logs import log_of
from rft_cli.served_models import ServedModels
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import Gateway

MESSAGES = [{"role": "user", "content": "I am jane@example.org"}]


def test_conversations_of_both_models_are_kept(tmp_path, monkeypatch):
    # It uploads before it ends, which may take longer here than a user would wait.
    monkeypatch.setattr(processes, "STOP_SECONDS", PATIENCE_SECONDS)
    logs = log_of(str(tmp_path / "logs"), None, [r"\S+@\S+"])
    files = ServingFolder(tmp_path / "serving")
    with VllmBytes("tuned", "base") as server, files.lock():
        token = files.prepare("default")
        files.write_routes(ServedModels("tuned", "base", "/model", None).routes(server.url, logs))
        server.behaviour.finish = "stop"
        gateway = Gateway(files, "127.0.0.1", 0)
        try:
            assert gateway.wait_until_ready(threading.Event())
            body = {"model": "tuned", "messages": MESSAGES, "max_tokens": 2}
            headers = {"authorization": f"Bearer {token}"}
            answer = httpx.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_SECONDS
            )
            assert answer.is_success
        finally:
            gateway.program.stop()
    [prompt], _ = read(tmp_path / "logs")
    assert prompt.messages == [{"role": "user", "content": "I am [redacted]"}]
    assert prompt.answer == "w0 w1 "


def test_without_an_address_nothing_is_kept():
    assert log_of(None, None, None) is None


def test_addresses_are_those_of_this_machine_or_of_s3(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, bucket = log_of("logs", "0.5", None), log_of("s3://bucket/logs", None, None)
    assert folder is not None
    assert bucket is not None
    assert (folder.uri, folder.fraction) == (str(Path.cwd() / "logs"), 0.5)
    assert (bucket.uri, bucket.fraction) == ("s3://bucket/logs", 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, "0.5", None), "--logs-fraction has no meaning without --logs"),
        ((None, None, ["x"]), "--logs-redact has no meaning without --logs"),
        (("logs", "2", None), "--logs-fraction: must be from 0 to 1"),
        (("logs", "half", None), "--logs-fraction: must look like"),
        (("s3://", None, None), "--logs s3://: must be a folder, or s3://BUCKET/PREFIX"),
        (("S3://bucket/logs", None, None), "--logs S3://bucket/logs: must be a folder, or s3://BUCKET/PREFIX"),
        (("ftp://host/logs", None, None), "--logs ftp://host/logs: must be a folder, or s3://BUCKET/PREFIX"),
        (("s3://bucket/a b", None, None), "--logs: must match"),
        (("logs", None, ["("]), "--logs-redact (: is not a regular expression that RE2 knows"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(RunError) as refusal:
        log_of(*options)
    assert refusal.value.code is ExitCode.CONFIGURATION_INVALID
    assert message in refusal.value.message
