"""Base models on the Hugging Face hub: one commit for a whole run, fetched once by a machine, and what can go wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest
from huggingface_hub import constants
from support.hub import REVISION, Hub, ask_hub
from support.tiny import write_model
from support.trainer import TrainerProgram, hyperparameters, job_spec, pause_after, render

import rft_api.hub
from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.summary import Provenance
from rft_trainer.base_model import BaseModel, fetch_base_model, local_base_model, pin_base_model

LATER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def hub(tmp_path, model):
    shutil.copytree(model, tmp_path / "hub/owner/tiny")
    (tmp_path / "hub/owner/tiny/pytorch_model.bin").write_bytes(b"never fetched")
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.stop()


@pytest.fixture
def hub_here(hub, tmp_path, monkeypatch):
    """The hub, with an empty cache, also for this process."""
    ask_hub(hub, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rft_api.hub, "PAUSES", (0.1, 0.1))
    return hub


@pytest.fixture
def config(tmp_path, data):
    spec = job_spec(tmp_path, data, tmp_path / "out")
    return render(spec, tmp_path, "http://127.0.0.1:1", None).model_copy(update={"model": "owner/tiny"})


def move(hub, tmp_path):
    """Another model takes the place of the first."""
    write_model(tmp_path / "later/owner/tiny", seed=9)
    hub.move(LATER, tmp_path / "later")


def test_a_run_keeps_its_commit_though_the_branch_moves(tmp_path, hub, model, data, rewards):
    spec = job_spec(
        model, data, tmp_path / "out",
        tuning={"type": "LoRA", "rank": 4},
        compute={"gpusPerNode": 0, "processesPerNode": 2},
        hyperparameters=hyperparameters(microBatchSize=4, maxSteps=6),
    )  # fmt: skip
    config = render(spec, tmp_path / "run", rewards.url, rewards.token_file)
    config = config.model_copy(update={"model": "owner/tiny"})
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    pausing = environment | pause_after(3, tmp_path)
    stopped = TrainerProgram(config, tmp_path / "run", free_port(), environment=pausing)
    stopped.wait_for_line(3)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log
    move(hub, tmp_path)
    # Another machine goes on: it has nothing in its cache.
    environment["HF_HOME"] = str(tmp_path / "another-home")
    resumed = TrainerProgram(config, tmp_path / "run", free_port(), environment=environment)
    assert resumed.succeed().base_revision == REVISION
    provenance = Provenance.model_validate_json(resumed.folder.provenance.read_text())
    assert provenance.model == {"repository": "owner/tiny", "revision": REVISION}
    adapter = json.loads((resumed.folder.best / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("owner/tiny", REVISION)
    weights = [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    assert weights == [f"GET /owner/tiny/resolve/{REVISION}/model.safetensors"] * 2, "once for each machine"
    assert not any("pytorch_model" in request for request in hub.requests)


def test_data_comes_from_the_hub(tmp_path, hub, model, data, rewards):
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (data / f"{split}.jsonl").read_text().splitlines()]
        (tmp_path / "hub/owner/digits/data").mkdir(parents=True, exist_ok=True)
        file = tmp_path / f"hub/owner/digits/data/{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxSteps=2))
    for split, sources in spec["data"].items():
        sources[0] |= {"uri": "hf://datasets/owner/digits", "split": split}
    config = render(spec, tmp_path / "run", rewards.url, rewards.token_file)
    program = TrainerProgram(config, tmp_path / "run", free_port(), environment={"HF_ENDPOINT": hub.url})
    summary = program.succeed()
    assert summary.base.sources.keys() == {"digits"}
    files = [request for request in hub.requests if request.startswith("GET") and "parquet" in request]
    assert len(files) == 3, "each split is copied once, and alone"
    assert "hf://datasets/owner/digits" in program.folder.config.read_text()


def fetch(config) -> BaseModel:
    commit = pin_base_model(config)
    seen = []
    fetch_base_model(config, commit, lambda done, total: seen.append((done, total)))
    assert not seen or seen[-1][0] == seen[-1][1]
    return local_base_model(config, commit)


@pytest.mark.parametrize(("revision", "commit"), [("", LATER), ("@main", LATER), (f"@{REVISION}", REVISION)])
def test_a_revision_is_a_commit_from_then_on(tmp_path, hub_here, config, revision, commit):
    move(hub_here, tmp_path)
    base = fetch(config.model_copy(update={"model": f"owner/tiny{revision}"}))
    assert (base.name, base.commit) == ("owner/tiny", commit)
    assert base.folder.endswith(commit)


def test_a_hub_that_is_away_is_tried_again_later_unless_there_is_a_copy(tmp_path, hub_here, config, caplog):
    hub_here.failures = 1000
    with pytest.raises(RunError, match="the hub answers HTTP 503") as raised:
        pin_base_model(config)
    assert raised.value.code is ExitCode.STORAGE_UNREACHABLE
    hub_here.failures = 0
    base = fetch(config)
    hub_here.stop()
    assert fetch(config) == base
    assert "the hub cannot be reached" in caplog.text
    assert f"using commit {REVISION} from this machine's cache" in caplog.text
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="the hub cannot be reached") as raised:
        pin_base_model(config)
    assert raised.value.code is ExitCode.STORAGE_UNREACHABLE


def test_a_copy_that_is_not_whole_is_not_taken(tmp_path, hub_here, config):
    base = fetch(config)
    next((tmp_path / "cache").rglob("snapshots/*/model.safetensors")).unlink()
    hub_here.stop()
    with pytest.raises(RunError, match="the hub cannot be reached"):
        fetch_base_model(config, base.commit, lambda done, total: None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/none", "hf://owner/none: the hub has no such model, or HF_TOKEN may not read it"),
        ("owner/tiny@v7", "hf://owner/tiny@v7: the model has no such revision"),
        ("owner/gated", "hf://owner/gated: the model is gated; accept its terms on the hub and set HF_TOKEN"),
        ("owner/expired", "hf://owner/expired: the hub does not know HF_TOKEN (HTTP 401); it may have expired"),
        ("owner/closed", "hf://owner/closed: HF_TOKEN may not read it (HTTP 403); give the token that permission"),
        ("no-model", "model no-model: no such folder, and not of the form hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
    ],
)
def test_what_the_hub_refuses_is_refused_for_good(hub_here, config, name, words):
    hub_here.gated.add("owner/gated")
    hub_here.refusals["owner/expired"] = (401, "Invalid credentials in Authorization header")
    hub_here.refusals["owner/closed"] = (403, "Forbidden")
    with pytest.raises(RunError) as raised:
        pin_base_model(config.model_copy(update={"model": name}))
    assert raised.value.code is ExitCode.MODEL_INVALID
    assert words in raised.value.message


def test_a_file_that_comes_in_part_is_fetched_again(hub_here, config, model):
    hub_here.cut = 2
    base = fetch(config)
    assert [file.read_bytes() for file in sorted(model.glob("*.safetensors"))] == [
        (model.__class__(base.folder) / file.name).read_bytes() for file in sorted(model.glob("*.safetensors"))
    ]


def test_what_is_no_model_is_named(tmp_path, hub_here, config):
    (tmp_path / "hub/owner/tiny/model.safetensors").unlink()
    with pytest.raises(RunError, match=r"hf://owner/tiny: holds no \*.safetensors \(pytorch_model.bin is not loaded\)"):
        fetch(config)


FULL_CACHE = """
import sys
from pathlib import Path
from rft_api.exit_codes import RunError
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import fetch_base_model
config = TrainerConfig.model_validate_json(Path(sys.argv[1]).read_text())
try:
    fetch_base_model(config, sys.argv[2], lambda done, total: None)
except RunError as error:
    print(error.code.name, error.message)
"""


def test_a_cache_without_room(tmp_path, hub, config):
    (tmp_path / "job.json").write_text(config.model_dump_json())
    home = tmp_path / "home"
    home.mkdir()
    command = ["unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=100k tmpfs {home} && exec "$@"', "sh"]
    command += ["env", f"HF_HOME={home}", f"HF_ENDPOINT={hub.url}", sys.executable, "-c", FULL_CACHE]
    run = subprocess.run([*command, str(tmp_path / "job.json"), REVISION], capture_output=True, text=True, check=False)
    assert run.stdout.startswith(f"OUTPUT_FAILED hf://owner/tiny: cannot be kept in {home}/hub: the disk is full"), run
