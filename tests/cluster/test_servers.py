"""The S3 server and Prometheus, and that nothing outlives a run, however it ends."""

from __future__ import annotations

import fcntl
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
from support.patience import PATIENCE_SECONDS, wait_until

from cluster import runs
from cluster.node import clean_up
from cluster.other_runs import OtherRun
from cluster.runs import RunFolder, remove_abandoned


def curl(s3, *arguments: str) -> subprocess.CompletedProcess[str]:
    sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{s3.access_key}:{s3.secret_key}"]
    # curl 7 does not send the digest that S3 wants.
    header = ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    return subprocess.run(["curl", "--silent", "--fail", *sign, *header, *arguments], capture_output=True, text=True)


def test_objects_are_written_and_read(s3, tmp_path):
    bucket = s3.make_bucket("written")
    (tmp_path / "a").write_text("content", encoding="utf-8")
    assert curl(s3, "--upload-file", str(tmp_path / "a"), f"{s3.url}/written/folder/a").returncode == 0
    assert (bucket / "folder" / "a").read_text(encoding="utf-8") == "content"
    (bucket / "b").write_text("by hand", encoding="utf-8")
    assert curl(s3, f"{s3.url}/written/b").stdout == "by hand"
    assert "<Key>folder/a</Key>" in curl(s3, f"{s3.url}/written?list-type=2&prefix=folder").stdout


def test_strangers_read_nothing(s3):
    (s3.make_bucket("private") / "a").write_text("content", encoding="utf-8")
    assert httpx.get(f"{s3.url}/private/a", trust_env=False, timeout=PATIENCE_SECONDS).status_code == 403


def test_objects_survive_a_restart(s3):
    (s3.make_bucket("restarted") / "a").write_text("content", encoding="utf-8")
    s3.stop()
    s3.start()
    assert curl(s3, f"{s3.url}/restarted/a").stdout == "content"


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b'rft_example{split="train"} 0.25\n')

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_prometheus_scrapes_what_it_is_told(prometheus):
    server = HTTPServer(("127.0.0.1", 0), Metrics)
    Thread(target=server.serve_forever, daemon=True).start()
    prometheus.scrape([{"job_name": "example", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}])
    (sample,) = prometheus.wait_for('rft_example{split="train"}')
    assert sample["value"][1] == "0.25"
    prometheus.scrape([])
    server.shutdown()


def test_prometheus_finds_targets_through_the_api_server(prometheus, api_server):
    discovery = {"role": "endpoints", "kubeconfig_file": str(api_server.kubeconfig)}
    prometheus.scrape([{"job_name": "cluster", "kubernetes_sd_configs": [discovery]}])

    def targets() -> str:
        return httpx.get(f"{prometheus.url}/api/v1/targets", trust_env=False, timeout=PATIENCE_SECONDS).text

    wait_until(lambda: "kubernetes" in targets(), explain=targets)
    prometheus.scrape([])


def test_the_api_server_restarts_with_its_state(api_server, namespace):
    api_server.kubectl("create", "configmap", "kept", "--from-literal=a=b", f"--namespace={namespace}")
    api_server.api_server.kill()
    assert api_server.kubectl.run("get", "--raw=/readyz").returncode != 0
    api_server.api_server.start()
    api_server.wait_until_ready()
    assert api_server.kubectl.get("configmap", "kept", f"--namespace={namespace}")["data"] == {"a": "b"}
    api_server.controller_manager.check()


KILLED = """
import sys, time
from pathlib import Path
from cluster.build import find_binaries
from cluster.control_plane import ControlPlane
from cluster.node import clean_up
from cluster.runs import RunFolder
from cluster.versions import CONTROL_PLANE
run = RunFolder()
plane = ControlPlane(run.path / "control-plane", find_binaries(CONTROL_PLANE, print))
plane.start()
print(f"\\n{run.path}", flush=True)
time.sleep(10**6)
"""


def test_a_killed_run_leaves_nothing(api_server):
    """Its programs end with it, the next run removes its folder; runs that live are left alone."""
    run = OtherRun(KILLED, 8)
    assert len(run.programs) == 8  # four programs, each with its keeper
    remove_abandoned(clean_up)
    assert run.folder.exists()
    run.kill()
    api_server.kubectl("get", "--raw=/readyz")


def test_a_run_removes_its_folder():
    run = RunFolder()
    assert run.path.is_dir()
    run.remove()
    assert not run.path.exists()


def test_a_run_that_just_begins_is_not_taken_for_one_that_was_killed(monkeypatch, tmp_path):
    """Several processes begin theirs at the same time, and each looks for what killed ones have left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lock, removed = fcntl.flock, []

    def lock_late(file, how):
        if how == fcntl.LOCK_EX:
            removed.extend(remove_abandoned(lambda folder: None))
        lock(file, how)

    monkeypatch.setattr(runs.fcntl, "flock", lock_late)
    run = RunFolder()
    assert removed == []
    assert run.path.exists()
    run.remove()
