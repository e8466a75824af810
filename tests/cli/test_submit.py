"""`rft submit` and its companions, with a real API server and a real S3 server; the test writes the job's status."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster.control_plane import Cluster
from cluster.kubectl import CRDS, Kubectl
from support.counting_proxy import CountingProxy
from support.finished_runs import write_run
from support.patience import wait_until
from support.rft_program import RftProgram

from rft_api.render import RewardAddress, render_trainer_config
from rft_api.resumable_upload import PART_BYTES
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer.inputs import fetch_inputs

JOB = """\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {name: digits}
spec:
  model: {uri: model}
  data:
    train: [{name: digits, uri: data/train.jsonl, reward: share}]
    validation: [{name: digits, uri: "configmap://prompts/validation.jsonl", reward: share}]
    test: [{name: digits, uri: data/test.jsonl, reward: share}]
  compute: {gpusPerNode: 0}
  output: {uri: OUTPUT}
  credentials: {secretName: s3-credentials}
---
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata: {name: share}
spec:
  python: {sourceFrom: {file: code.py}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prompts}
data:
  validation.jsonl: |
    {"messages": [{"role": "user", "content": "31"}], "reference_answer": "13"}
---
apiVersion: v1
kind: Secret
metadata: {name: s3-credentials}
"""
CODE = "def lambda_handler(event, context):\n    return []\n"


@pytest.fixture(scope="module")
def definitions(api_server: Cluster) -> None:
    """The API server knows our kinds."""
    api_server.kubectl.apply_definitions(CRDS)


@pytest.fixture
def cluster(
    api_server: Cluster, definitions: None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cluster:
    """A cluster with the definitions of our kinds, which kubectl finds as it finds a user's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").symlink_to(api_server.kubectl.binary)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "kubectl-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use(tmp_path, monkeypatch, api_server, namespace=namespace)
    return api_server


def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, user: str = "", **context: str) -> None:
    """Makes a kubeconfig the user's: with other fields of its context, or for a user whom it impersonates."""
    config = json.loads(cluster.kubeconfig.read_text())
    config["contexts"][0]["context"].update(context)
    if user:
        config["users"][0]["user"]["as"] = user
    file = tmp_path / f"kubeconfig-{user}.json"
    file.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(file))


@dataclass
class Project:
    """Manifests with everything local, and a bucket."""

    folder: Path
    bucket: Path
    kubectl: Kubectl
    namespace: str

    @property
    def output(self) -> str:
        return f"s3://{self.bucket.name}/runs/digits"

    @property
    def manifest(self) -> Path:
        return self.folder / "job.yaml"

    def change(self, old: str, new: str) -> None:
        text = self.manifest.read_text()
        assert old in text
        self.manifest.write_text(text.replace(old, new))

    def uploads(self) -> dict[str, Path]:
        """What is uploaded, by the name in the folder of its digest."""
        folder = self.bucket / "runs" / "rft-uploads"
        return {file.relative_to(folder).as_posix().partition("/")[2]: file for file in folder.glob("sha256-*/**/*.*")}

    def job(self, name: str = "digits") -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.get("rftjob", name, f"--namespace={self.namespace}")
        return found

    def write_status(self, reason: str, state: str = "Unknown", message: str = "", **fields: Any) -> None:
        """Writes a status, as the operator would."""
        condition = {
            "type": "Succeeded", "status": state, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        patch = json.dumps({"status": {"conditions": [condition], **fields}})
        place = [f"--namespace={self.namespace}", "--subresource=status", "--type=merge"]
        self.kubectl("patch", "rftjob", "digits", *place, f"--patch={patch}")


@pytest.fixture
def project(tmp_path: Path, bucket: Path, cluster: Cluster, namespace: str) -> Project:
    folder = tmp_path / "project"
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (model / "tokenizer.json").write_text("{}")
    (model / "notes.md").write_text("not uploaded")
    (model / "model.safetensors").write_bytes(random.Random(0).randbytes(4 * PART_BYTES + 1000))
    (folder / "data").mkdir()
    for split in ("train", "test"):
        row = {"messages": [{"role": "user", "content": split}], "reference_answer": "1"}
        (folder / "data" / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "code.py").write_text(CODE)
    (folder / "job.yaml").write_text(JOB.replace("OUTPUT", f"s3://{bucket.name}/runs/digits"))
    return Project(folder, bucket, cluster.kubectl, namespace)


def test_everything_local_is_uploaded_once_and_applied(rft, project):
    result = rft("submit", project.manifest, "--detach")
    assert result.returncode == 0, result.stderr
    assert "Uploading 5 of 5 files" in result.stdout
    assert "RFTJob digits: created" in result.stdout
    assert "Secret s3-credentials" in result.stderr
    assert "left to kubectl apply" in result.stderr
    uploads = project.uploads()
    assert set(uploads) == {
        "model/config.json", "model/tokenizer.json", "model/model.safetensors", "train.jsonl", "test.jsonl",
    }  # fmt: skip
    assert uploads["model/model.safetensors"].read_bytes() == (project.folder / "model/model.safetensors").read_bytes()
    spec = project.job()["spec"]
    stored = {f"s3://{file.relative_to(project.bucket.parent)}" for file in uploads.values()}
    assert f"{spec['model']['uri']}/config.json" in stored
    assert spec["data"]["train"][0]["uri"] in stored
    assert spec["data"]["test"][0]["uri"] in stored
    assert spec["data"]["validation"][0]["uri"] == "configmap://prompts/validation.jsonl"
    place = f"--namespace={project.namespace}"
    reward = project.kubectl.get("rewardfunction", "share", place)
    assert reward["spec"]["python"] == {"source": CODE, "handler": "lambda_handler"}
    assert "31" in project.kubectl.get("configmap", "prompts", place)["data"]["validation.jsonl"]
    version, times = project.job()["metadata"]["resourceVersion"], {f: f.stat().st_mtime_ns for f in uploads.values()}

    again = rft("submit", project.manifest, "--detach")
    assert again.returncode == 0, again.stderr
    assert "nothing is uploaded" in again.stdout
    assert "RFTJob digits: unchanged" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in project.uploads().values()} == times
    assert project.job()["metadata"]["resourceVersion"] == version


def fetched(project: Project, scratch: Path) -> TrainerConfig:
    """The configuration of the submitted job's trainer, with the paths to which the trainer has copied its inputs."""
    reward = project.kubectl.get("rewardfunction", "share", f"--namespace={project.namespace}")
    functions = {"share": RewardFunction.model_validate(reward)}
    job = RFTJob.model_validate(project.job())
    return fetch_inputs(render_trainer_config(job, functions, {"share": RewardAddress("", None)}, str), scratch)


def test_the_trainer_reads_what_was_local(rft, project, tmp_path):
    assert rft("submit", project.manifest, "--detach").returncode == 0
    config = fetched(project, tmp_path / "scratch")
    copy, model = Path(config.model), project.folder / "model"
    assert {file.name for file in copy.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert all(file.read_bytes() == (model / file.name).read_bytes() for file in copy.iterdir())
    assert config.data.test is not None
    for source, name in ((config.data.train[0], "train"), (config.data.test[0], "test")):
        assert Path(source.uri).read_bytes() == (project.folder / "data" / f"{name}.jsonl").read_bytes()


def test_of_a_folder_of_data_the_files_that_are_read_are_uploaded(rft, project, tmp_path):
    project.change("uri: data/train.jsonl", "uri: data, split: train")
    project.change("uri: data/test.jsonl", "uri: data/., split: test")
    (project.folder / "data" / "README.md").write_text("not uploaded")
    result = rft("submit", project.manifest, "--detach")
    assert result.returncode == 0, result.stderr
    assert {name for name in project.uploads() if "model" not in name} == {"data/train.jsonl", "data/test.jsonl"}
    config = fetched(project, tmp_path / "scratch")
    assert [file.name for file in Path(config.data.train[0].uri).iterdir()] == ["train.jsonl"]


def test_an_interrupted_upload_goes_on(rft, project, s3, monkeypatch):
    proxy = CountingProxy(int(s3.url.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    proxy.limit = 3 * PART_BYTES
    with RftProgram("submit", project.manifest, "--detach") as program:
        wait_until(lambda: proxy.is_holding or program.has_ended, lambda: proxy.sent)
        assert not program.has_ended, program.errors
        program.interrupt()
        proxy.limit = None
        assert program.finish() == 75, program.errors
        assert program.errors.endswith("the same command goes on from there.\n")
    assert "model/model.safetensors" not in project.uploads()
    assert "digits" not in project.kubectl("get", "rftjobs", f"--namespace={project.namespace}")
    sent = proxy.sent
    done = rft("submit", project.manifest, "--detach")
    assert done.returncode == 0, done.stderr
    whole = project.folder / "model" / "model.safetensors"
    assert project.uploads()["model/model.safetensors"].read_bytes() == whole.read_bytes()
    assert proxy.sent - sent < whole.stat().st_size - PART_BYTES  # some parts were there already
    sent = proxy.sent
    assert rft("submit", project.manifest, "--detach").returncode == 0
    assert proxy.sent - sent < 100_000
    proxy.close()


@contextmanager
def operated(project: Project, operate: Callable[[], None]) -> Iterator[None]:
    """Does what an operator does with the job once it is there; if that fails, deletes it: nobody waits for it."""
    place = f"--namespace={project.namespace}"

    def run() -> None:
        project.kubectl.wait_for("rftjob", "digits", place, until=lambda _: True)
        try:
            operate()
        except BaseException:
            project.kubectl("delete", "rftjob", "digits", place)
            raise

    operator = threading.Thread(target=run)
    operator.start()
    yield
    operator.join()


def test_the_job_is_shown_until_it_ends_and_its_report_follows(rft, project):
    def operate() -> None:
        project.write_status("Running", progress={"phase": "Training", "step": 30, "totalSteps": 60})
        write_run(RunFolder(project.bucket / "runs" / "digits"))
        result = {
            "baselineReward": "0.4500", "bestReward": "0.7500", "gain": "+0.3000", "interval": "+0.1 to +0.5",
            "checkpoint": f"{project.output}/best",
        }  # fmt: skip
        progress = {"phase": "Done", "step": 60, "totalSteps": 60}
        project.write_status("Succeeded", "True", progress=progress, result=result)

    with operated(project, operate):
        result = rft("submit", project.manifest)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert re.search(r"step 60/60 · reward 0\.\d+", result.stdout)
    assert "10 held-out prompts base warm-up tuned difference" in text
    assert f"→ {project.output}/best" in result.stdout
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["output"] == project.output
    assert line["tunedReward"] == 0.75

    report = rft("report", f"{project.output}/")
    assert report.returncode == 0, report.stderr
    assert "10 held-out prompts base warm-up tuned difference" in " ".join(report.stdout.split())
    assert not list((project.folder.parent / "cache").rglob("*.safetensors"))

    listed = rft("jobs")
    assert listed.returncode == 0, listed.stderr
    assert "+0.3000" in listed.stdout
    assert "Succeeded" in listed.stdout


def test_a_job_that_is_deleted_ends_the_command(rft, project):
    place = f"--namespace={project.namespace}"
    with operated(project, lambda: project.kubectl.delete("rftjob", "digits", place)):
        result = rft("submit", project.manifest)
    assert result.returncode == 75
    assert f"RFTJob digits in namespace {project.namespace} has been deleted" in result.stderr


def test_a_job_that_fails_ends_the_command_with_its_code(rft, project):
    assert rft("submit", project.manifest, "--detach").returncode == 0
    project.write_status("DataInvalid", "False", "train.jsonl:1: has no \x1b[31mmessages")
    result = rft("submit", project.manifest)
    assert result.returncode == 11
    assert "has ended without a result: DataInvalid: train.jsonl:1: has no \\x1b[31mmessages" in result.stderr
    assert "rft logs digits" in result.stderr
    assert "--replace" not in result.stderr
    uid = project.job()["metadata"]["uid"]
    project.write_status("RetriesExhausted", "False", "attempt 4 failed")
    result = rft("submit", project.manifest)
    assert result.returncode == 1
    assert "rft submit --replace creates it again" in result.stderr
    assert "deleted and created" in rft("submit", project.manifest, "--replace", "--detach").stdout
    assert project.job()["metadata"]["uid"] != uid


def test_what_differs_is_said_and_nothing_is_changed_unasked(rft, project):
    assert rft("submit", project.manifest, "--detach").returncode == 0
    project.change("compute: {gpusPerNode: 0}", "compute: {gpusPerNode: 0}\n  algorithm: DAPO")
    (project.folder / "code.py").write_text(CODE + "# better\n")
    before = project.uploads()
    result = rft("submit", project.manifest, "--detach")
    assert result.returncode == 10
    assert "RFTJob digits exists already, and differs:\n  algorithm: GRPO there, DAPO here\n" in result.stderr
    assert "rft cancel digits" in result.stderr
    assert (
        "RewardFunction share exists already, and differs:\n  spec.python.source, line 3: nothing there, # better here"
        in result.stderr
    )
    assert project.job()["spec"]["algorithm"] == "GRPO"
    assert project.uploads() == before
    refused = rft("submit", project.manifest, "--detach", "--replace")
    assert refused.returncode == 10
    assert "It has not ended" in refused.stderr
    assert "RewardFunction" not in refused.stderr
    uid = project.job()["metadata"]["uid"]
    project.write_status("DataInvalid", "False")
    assert "or delete that one by --replace" in rft("submit", project.manifest, "--detach").stderr
    replaced = rft("submit", project.manifest, "--detach", "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert "RFTJob digits: deleted and created" in replaced.stdout
    assert "RewardFunction share: changed" in replaced.stdout
    assert project.job()["spec"]["algorithm"] == "DAPO"
    assert project.job()["metadata"]["uid"] != uid


def test_what_others_have_set_does_not_pass_for_what_is_submitted(rft, project):
    place = f"--namespace={project.namespace}"
    assert rft("submit", project.manifest, "--detach").returncode == 0
    for patch in (
        ("rftjob/digits", '{"spec": {"algorithm": "DAPO"}}'),
        ("rewardfunction/share", '{"spec": {"timeout": "60s"}}'),
    ):
        project.kubectl("patch", patch[0], place, "--type=merge", f"--patch={patch[1]}")
    result = rft("submit", project.manifest, "--detach")
    assert "  algorithm: DAPO there, GRPO here\n" in result.stderr
    assert "  spec.timeout: 60s there, 30s here\n" in result.stderr
    project.write_status("DataInvalid", "False")
    result = rft("submit", project.manifest, "--detach", "--replace")
    assert result.returncode == 10
    assert "Another program has set these fields, and they would stay" in result.stderr
    assert project.job()["spec"]["algorithm"] == "DAPO"


def test_other_data_under_the_same_name_is_another_run(rft, project):
    assert rft("submit", project.manifest, "--detach").returncode == 0
    with (project.folder / "data" / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "2"}], "reference_answer": "2"}\n')
    result = rft("submit", project.manifest, "--detach")
    assert result.returncode == 10
    assert "data.train[0].uri: s3://" in result.stderr


def test_a_job_is_cancelled_and_resumed(rft, project):
    assert rft("submit", project.manifest, "--detach").returncode == 0
    result = rft("cancel", "digits")
    assert result.returncode == 0, result.stderr
    assert f"What it has written stays in {project.output}." in " ".join(result.stdout.split())
    assert project.job()["spec"]["suspend"] is True
    project.write_status("Suspended")
    resumed = rft("submit", project.manifest, "--detach")
    assert "RFTJob digits: changed" in resumed.stdout, resumed.stderr
    assert project.job()["spec"]["suspend"] is False
    project.write_status("Succeeded", "True")
    ended = rft("cancel", "digits")
    assert ended.returncode == 10
    assert "has ended already: Succeeded" in ended.stderr


def stand_in(project: Project, words: str) -> None:
    """Has a shell run some words before kubectl does what it is asked for, or in its place."""
    kubectl = project.folder.parent / "bin" / "kubectl"
    kubectl.unlink()
    kubectl.write_text(f'#!/bin/sh\n{words}\nexec {project.kubectl.binary} "$@"\n')
    kubectl.chmod(0o755)


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(rft, project):
    with RftProgram("submit", project.manifest, "--context", "test") as program:
        program.wait_for("starting")
        program.interrupt()
        assert program.finish() == 75, program.errors
        errors = program.errors
    assert f"RFTJob digits goes on in namespace {project.namespace} of context test.\n" in errors
    for command in (["jobs"], ["logs", "digits"], ["cancel", "digits"]):
        command += ["-n", project.namespace, "--context=test"]
        assert f"rft {' '.join(command)} " in errors
    assert rft(*command).returncode == 0
    assert project.job()["spec"]["suspend"] is True


def test_ctrl_c_while_objects_are_applied_says_which_one_may_be_there(rft, project):
    reached = project.folder / "reached"
    # The third object is the job: it only says that it has come so far.
    words = f"""case "$*" in
    *--dry-run*) ;;
    apply*) touch "{project.folder}/applied-$$"
        if [ "$(ls {project.folder}/applied-* | wc -l)" = 3 ]; then touch {reached}; exec sleep infinity; fi ;;
esac"""
    stand_in(project, words)
    with RftProgram("submit", project.manifest) as program:
        wait_until(lambda: reached.exists() or program.has_ended, lambda: program.output)
        assert not program.has_ended, program.errors
        program.interrupt()
        assert program.finish() == 75, program.errors
        assert "RewardFunction share: created" in program.output
        said = "Stopped while RFTJob digits was applied, which may be there now or not: see rft jobs "
        assert f"{said}-n {project.namespace}. The same command goes on from there." in program.errors
    assert rft("submit", project.manifest, "--detach").stdout.endswith("stops it.\n")


def test_logs_are_those_of_the_newest_attempt(rft, project):
    def write_container(pod: str, **states: Any) -> None:
        """Writes what a kubelet says of the trainer's container."""
        container = {"name": "trainer", "image": "", "imageID": "", "ready": False, "restartCount": 0, **states}
        patch = json.dumps({"status": {"containerStatuses": [container]}})
        place = [f"--namespace={project.namespace}", "--subresource=status", "--type=merge"]
        project.kubectl("patch", "pod", pod, *place, f"--patch={patch}")

    assert rft("submit", project.manifest, "--detach").returncode == 0
    result = rft("logs", "digits")
    assert result.returncode == 10
    assert "has no pod of a trainer, so there is no log: the operator has not looked at it yet" in result.stderr
    assert "there is no RFTJob other in namespace" in rft("logs", "other").stderr
    for attempt in (2, 10, 9):
        labels = {
            "app.kubernetes.io/component": "trainer", "rft.dev/owner": "digits", "rft.dev/attempt": str(attempt),
            "batch.kubernetes.io/job-completion-index": "0",
        }  # fmt: skip
        container = {"name": "trainer", "image": "example.com/none"}
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{attempt}", "labels": labels},
            "spec": {"containers": [container]},
        }  # fmt: skip
        project.kubectl.apply(pod, namespace=project.namespace)
    # No kubelet runs, so a program stands for `kubectl logs` that says what it is asked for.
    stand_in(project, """[ "$1" = logs ] && echo "$@" && printf '\\033[31mred\\n' && exit""")
    write_container("pod-10", state={"waiting": {"reason": "ContainerCreating"}})
    project.write_status("Starting", message="pods are starting")
    early = rft("logs", "digits")
    assert early.returncode == 10
    assert "pod-10, whose trainer has not started, so there is no log: Starting: pods are starting" in early.stderr
    write_container("pod-10", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    log = rft("logs", "digits", "-f")
    assert log.returncode == 0, log.stderr
    asked, red = log.stdout.splitlines()
    assert asked == f"logs pod-10 --namespace={project.namespace} --container=trainer --follow"
    assert red == "\\x1b[31mred"


def test_permissions_are_those_of_the_user(rft, project, cluster, tmp_path, monkeypatch):
    use(tmp_path, monkeypatch, cluster, user="nobody", namespace=project.namespace)
    for command in (["submit", project.manifest], ["jobs"], ["cancel", "digits"], ["logs", "digits"]):
        result = rft(*command)
        assert result.returncode == 10
        assert 'User "nobody" cannot' in result.stderr
        assert "ask for a role that allows it" in result.stderr
    assert project.uploads() == {}


def test_a_kubeconfig_or_a_context_that_is_missing(rft, project, tmp_path, monkeypatch):
    result = rft("submit", project.manifest, "--context", "other")
    assert result.returncode == 10
    assert "context other" in result.stderr
    assert "; kubectl config get-contexts lists the contexts of " in result.stderr
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = rft("jobs")
    assert result.returncode == 10
    assert f"{tmp_path / 'none'} names no cluster; name a context" in result.stderr
    result = rft("submit", project.manifest, "-n", "missing", "--kubeconfig", project.kubectl.kubeconfig)
    assert result.returncode == 10
    assert 'namespaces "missing" not found' in result.stderr
    assert project.uploads() == {}


def test_a_bucket_that_may_not_be_written(rft, project, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    result = rft("submit", project.manifest, "--detach")
    assert result.returncode == 15
    assert "uploads use the credentials of your environment" in result.stderr
    assert "No resources found" in project.kubectl.run("get", "rftjobs", f"--namespace={project.namespace}").stderr


def test_manifests_that_a_cluster_cannot_use(rft, project):
    project.change(f"output: {{uri: {project.output}}}", "output: {uri: ../runs}")
    result = rft("submit", project.manifest)
    assert result.returncode == 10
    assert f"{project.manifest}:11: spec.output.uri: must be s3://BUCKET/PREFIX" in result.stderr
    assert rft("submit", project.manifest, "--output", project.output, "--detach").returncode == 0
    assert project.job()["spec"]["output"]["uri"] == project.output
    project.change("metadata: {name: share}", "metadata: {name: share, namespace: other}")
    result = rft("submit", project.manifest, "--output", project.output)
    assert f"{project.manifest}:16: metadata.namespace: is other, and the job is submitted to" in result.stderr
    (project.folder / "model" / "model.safetensors").unlink()
    result = rft("submit", project.manifest, "--output", project.output)
    assert f"{project.manifest}:5: spec.model.uri: " in result.stderr
    assert "holds no *.safetensors" in result.stderr


def test_a_cluster_without_our_kinds(cluster):
    from rft_cli.kubectl import Kubectl, KubectlError
    from rft_cli.submit.objects import plan_objects

    document = {"apiVersion": "rft.dev/v9", "kind": "RFTJob", "metadata": {"name": "a", "namespace": "default"}}
    with pytest.raises(KubectlError, match=r"context test does not know the resources of rft.dev: install"):
        plan_objects(Kubectl(), [document], replace=False)


def test_it_is_a_plugin_of_kubectl(cluster, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(["kubectl", "rft", "jobs"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("There are no jobs in namespace ")
    usage = subprocess.run(["kubectl", "rft", "submit", "--help"], capture_output=True, text=True, check=True).stdout
    assert "Usage: kubectl rft submit" in usage


def test_what_is_submitted_may_be_read_from_several_files(rft, project):
    documents = project.manifest.read_text().split("---\n")
    project.manifest.write_text(documents[0])
    reward = project.folder / "reward.yaml"
    reward.write_text("---\n".join(documents[1:]))
    result = rft("submit", project.manifest)
    assert f"{project.manifest}:7: spec.data.train[0].reward: RewardFunction share is not defined" in result.stderr
    assert rft("submit", project.manifest, reward, "--detach").returncode == 0
