"""What a submission uploads where, and what its manifests say then: pure functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rft_api.addresses import job_addresses
from rft_api.exit_codes import RunError
from rft_api.job_status import RFTJobStatus
from rft_api.manifests import load_manifests
from rft_api.storage_error import StorageError
from rft_cli.submit.job_state import end_of, exit_code, progress_of, read_status
from rft_cli.submit.plan import (
    LocalInput,
    job_document,
    plan_uploads,
    reward_document,
    stored_name,
    uploads_address,
)
from rft_cli.submit.uploads import explained

TRAIN = ("spec", "data", "train", 0, "uri")
MODEL = ("spec", "model", "uri")
UPLOADS = "s3://bucket/runs/rft-uploads"
JOB = """\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {name: digits, labels: {team: a}, annotations: {note: mine}}
spec:
  model: {uri: model}
  data:
    train: [{name: digits, uri: train.jsonl, reward: share}]
  compute: {gpusPerNode: 0}
  output: {uri: out}
---
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata: {name: share}
spec:
  combine:
    terms:
    - {name: right, python: {sourceFrom: {file: code.py}, handler: score}}
    - {name: brief, builtin: {name: Format, format: {maximumCharacters: 2}}}
"""


@pytest.mark.parametrize(
    ("output", "address"),
    [
        ("s3://bucket/runs/digits", UPLOADS),
        ("s3://bucket/runs/digits/", UPLOADS),
        ("s3://bucket/digits", "s3://bucket/rft-uploads"),
    ],
)
def test_uploads_are_beside_the_output_and_never_below_it(output, address):
    assert uploads_address(output) == address
    assert not address.startswith(output.rstrip("/") + "/")


@pytest.mark.parametrize(
    "output", ["out", "pvc://claim/x", "s3://bucket", "s3://bucket/", "s3://b/a b", "s3://b/rft-uploads/x", "s3:///x"]
)
def test_other_outputs_are_refused(output):
    with pytest.raises(ValueError, match="must"):
        uploads_address(output)


def inputs(folder: Path) -> list[LocalInput]:
    (folder / "job.yaml").write_text(JOB)
    (folder / "code.py").write_text("def score(event, context):\n    return []\n")
    (job,) = load_manifests([folder / "job.yaml"]).jobs
    addresses = {address.location: address for address in job_addresses(job)}
    model, train = folder / "my model", folder / "train.jsonl"
    return [
        LocalInput(addresses[MODEL], model, {"a": model / "a", "config.json": model / "config.json"}),
        LocalInput(addresses[TRAIN], train, {"": train}),
    ]


def digests(items: list[LocalInput], **changes: str) -> dict[Path, str]:
    files = [path for item in items for path in item.files.values()]
    return {path: f"sha256:{changes.get(path.name, path.name)}" for path in files}


def test_addresses_have_the_digests_of_what_they_hold(tmp_path):
    items = inputs(tmp_path)
    sizes = dict.fromkeys(digests(items), 1)
    plan = plan_uploads(items, digests(items), sizes, UPLOADS)
    model = plan.addresses[MODEL]
    assert plan.addresses[TRAIN] == f"{UPLOADS}/sha256-train.jsonl/train.jsonl"
    assert model.startswith(f"{UPLOADS}/sha256-")
    assert model.endswith("/my_model")
    assert [upload.uri for upload in plan.uploads] == [f"{model}/a", f"{model}/config.json", plan.addresses[TRAIN]]
    other = plan_uploads(items, digests(items, a="other"), sizes, UPLOADS)
    assert other.addresses[MODEL] != model
    assert other.addresses[TRAIN] == plan.addresses[TRAIN]


def test_a_file_that_several_sources_read_is_uploaded_once(tmp_path):
    items = inputs(tmp_path)
    plan = plan_uploads([*items, *items], digests(items), dict.fromkeys(digests(items), 1), UPLOADS)
    assert len(plan.uploads) == 3


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("train.jsonl", "train.jsonl"),
        ("my data (2).jsonl.gz", "my_data_2_.jsonl.gz"),
        ("..", "input"),
        ("ä" * 300, "_"),
        ("x" * 300 + ".jsonl.gz", "x" * 91 + ".jsonl.gz"),
    ],
)
def test_names_in_addresses_are_usual_and_keep_their_endings(name, stored):
    assert stored_name(name) == stored


def test_a_job_is_applied_as_it_is_written_but_for_its_addresses(tmp_path):
    inputs(tmp_path)
    manifests = load_manifests([tmp_path / "job.yaml"])
    document = manifests.origins["RFTJob", "digits"].document
    changed = job_document(document, {TRAIN: "s3://b/t", MODEL: "s3://b/m"}, "s3://b/out", "team")
    assert changed == {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "RFTJob",
        "metadata": {"name": "digits", "namespace": "team", "labels": {"team": "a"}, "annotations": {"note": "mine"}},
        "spec": {
            "model": {"uri": "s3://b/m"},
            "data": {"train": [{"name": "digits", "uri": "s3://b/t", "reward": "share"}]},
            "compute": {"gpusPerNode": 0},
            "output": {"uri": "s3://b/out"},
            "suspend": False,
        },
    }
    assert document["spec"]["model"] == {"uri": "model"}


def test_the_code_of_files_stands_in_the_manifest_of_a_reward(tmp_path):
    inputs(tmp_path)
    manifests = load_manifests([tmp_path / "job.yaml"])
    document = manifests.origins["RewardFunction", "share"].document
    changed = reward_document(document, manifests.reward_functions["share"], "team")
    right, brief = changed["spec"]["combine"]["terms"]
    assert right == {
        "name": "right",
        "python": {"source": "def score(event, context):\n    return []\n", "handler": "score"},
    }
    assert brief == {"name": "brief", "builtin": {"name": "Format", "format": {"maximumCharacters": 2}}}


def status(reason: str, state: str = "Unknown", message: str = "", **fields: Any) -> dict[str, Any]:
    condition = {
        "type": "Succeeded", "status": state, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return {"conditions": [condition], **fields}


def test_the_progress_of_a_job_in_a_cluster():
    running = status(
        "Running", progress={"phase": "Training", "step": 3, "totalSteps": 8, "reward": "0.5", "eta": "1m5s"}
    )
    progress = progress_of(RFTJobStatus.model_validate(running))
    assert (progress.phase, progress.message) == ("Training", "")
    assert (progress.done, progress.planned, progress.unit, progress.total_steps) == (3, 8, "steps", 8)
    assert (progress.reward, progress.eta_seconds) == (0.5, 65)
    for message, shown in (("Training", ""), ("Training: saving", "saving"), ("waiting for pods", "waiting for pods")):
        running = status("Running", message=message, progress={"phase": "Training", "step": 3, "totalSteps": 8})
        progress = progress_of(RFTJobStatus.model_validate(running))
        assert (progress.phase, progress.message) == ("Training", shown)
    waiting = progress_of(RFTJobStatus.model_validate(status("WaitingForRewards", message="amount is not Ready")))
    assert (waiting.phase, waiting.message) == ("Starting", "WaitingForRewards: amount is not Ready")
    assert progress_of(RFTJobStatus()).message == "waiting for the operator"
    done = status("Succeeded", "True", progress={"phase": "Done", "step": 8, "totalSteps": 8})
    assert progress_of(RFTJobStatus.model_validate(done)).phase == "Done"
    retrying = status("Retrying", progress={"phase": "Training", "step": 3, "totalSteps": 8})
    assert progress_of(RFTJobStatus.model_validate(retrying)).phase == "Starting"


def test_fields_that_a_newer_operator_adds_are_left_out_and_others_are_not_guessed():
    job = {"metadata": {"name": "a"}, "status": status("Running", progress={"phase": "Training", "step": 3, "new": 1})}
    job["status"] |= {"new": {}}
    job["status"]["conditions"][0]["new"] = 1
    assert progress_of(read_status(job)).step == 3
    job["status"]["conditions"][0]["status"] = "Perhaps"
    with pytest.raises(RunError, match=r"the status of RFTJob a cannot be read"):
        end_of(job)


def test_the_end_of_a_job_in_a_cluster():
    assert end_of({"status": status("Running")}) is None
    assert end_of({}) is None
    end = end_of({"status": status("DataInvalid", "False")})
    assert end is not None
    assert [int(exit_code(reason)) for reason in (end.reason, "RetriesExhausted")] == [11, 1]


@pytest.mark.parametrize("request_failed", [True, False])
def test_credentials_are_a_hint_about_requests_that_failed_however_the_sentence_reads(request_failed):
    error = StorageError("cannot say it in other words", request_failed=request_failed)
    with pytest.raises(RunError, match="cannot say it in other words") as refusal, explained():
        raise error
    assert ("AWS_PROFILE" in refusal.value.message) == request_failed
