"""`rft_loader fetch`: models from a real S3 server, and from a hub."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from huggingface_hub import constants
from support.hub import REVISION, Hub
from support.loader import run_loader
from support.patience import PATIENCE_SECONDS

import rft_api.hub
from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_loader.fetch import fetch_model, fetch_newest_model
from rft_loader.problems import Problem
from rft_loader.sources import Sources

FETCHED = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def model(tmp_path, base):
    """A model with things beside it that must not be fetched."""
    folder = shutil.copytree(base, tmp_path / "model")
    for name in ("pytorch_model.bin", "model.gguf", "modeling_own.py", "README.md", "optimizer.pt"):
        (folder / name).write_bytes(b"never fetched")
    (folder / "original").mkdir()
    (folder / "original/consolidated.safetensors").write_bytes(b"never fetched")
    return folder


@pytest.fixture
def stored(bucket, model):
    """The model in a bucket, where tests may change it."""
    shutil.copytree(model, bucket.folder / "models/tiny")
    shutil.copytree(model, bucket.folder / "models/tiny-2")
    return bucket.folder / "models/tiny"


@pytest.fixture
def fetch(tmp_path, bucket):
    def run(uri=f"{bucket.uri}/models/tiny", **environment):
        return run_loader(
            "fetch", "--uri", uri, "--to", tmp_path / "to/base", environment={**bucket.environment, **environment}
        )

    return run


@pytest.fixture
def begin_fetch(tmp_path, bucket):
    """Starts the fetching of the stored model, and does not wait for its end."""

    def start():
        command = [sys.executable, "-m", "rft_loader", "fetch", "--uri", f"{bucket.uri}/models/tiny"]
        return subprocess.Popen(
            [*command, "--to", str(tmp_path / "to/base")],
            env={**os.environ, **bucket.environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def fetched(tmp_path):
    folder = tmp_path / "to"
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def shard(folder, count, size):
    """Replaces the weights by large shards with an index."""
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(size)
    weights = {f"layer.{number}": name for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return names


def test_a_model_from_a_store(tmp_path, stored, fetch, base):
    run = fetch()
    assert run.returncode == 0, run.stderr
    assert fetched(tmp_path) == {"base", *(f"base/{name}" for name in FETCHED)}
    assert (tmp_path / "to/base/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert "fetched model.safetensors: 1 of 1 files" in run.stderr
    shutil.rmtree(stored)
    again = fetch()
    assert again.returncode == 0, "a complete folder is left as it is"
    assert "complete already" in again.stderr


def test_only_the_files_of_the_index(tmp_path, stored, fetch):
    (stored / "consolidated.safetensors").write_bytes(b"a second copy")
    names = shard(stored, 2, 1000)
    assert fetch().returncode == 0
    found = {path.name for path in (tmp_path / "to/base").glob("*.safetensors")}
    assert found == set(names)


def test_killed_on_the_way_it_goes_on_where_it_was(tmp_path, stored, fetch, begin_fetch):
    names = shard(stored, 4, 150_000_000)
    process = begin_fetch()
    while "fetched model-00002" not in (line := process.stderr.readline()):
        assert line, "it ended too early"
    process.kill()
    process.wait(PATIENCE_SECONDS)
    assert not (tmp_path / "to/base").exists()
    (partial,) = (tmp_path / "to").iterdir()
    before = (partial / names[0]).stat()
    run = fetch()
    assert run.returncode == 0, run.stderr
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"base"}
    after = (tmp_path / "to/base" / names[0]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it was not fetched again"
    assert all((tmp_path / "to/base" / name).stat().st_size == 150_000_000 for name in names)


def test_told_to_end_it_ends_at_once(tmp_path, stored, begin_fetch):
    shard(stored, 2, 1_000_000_000)
    process = begin_fetch()
    assert "fetching" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == ExitCode.INTERRUPTED
    assert not (tmp_path / "to/base").exists()


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def drop_a_shard(folder):
    names = shard(folder, 3, 1000)
    (folder / names[1]).unlink()


def problem_of(uri, target):
    """Why there is no model at an address, found in this process: that is faster."""
    with pytest.raises(Problem) as raised:
        fetch_model(uri, Sources().open(uri), target)
    assert not target.exists()
    return raised.value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("config.json"), ["is no model", "no config.json"]),
        (remove("model.safetensors"), ["holds no *.safetensors", "is not loaded"]),
        (drop_a_shard, ["1 of the 3 files", "first model-00002-of-00003.safetensors"]),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), ["index.json cannot be read"]),
    ],
    ids=["no config", "pickle only", "a shard is missing", "broken index"],
)
def test_what_is_no_model_is_permanent(tmp_path, bucket, stored, change, words):
    change(stored)
    problem = problem_of(f"{bucket.uri}/models/tiny", tmp_path / "base")
    assert problem.permanent
    assert all(word in str(problem) for word in [f"{bucket.uri}/models/tiny: ", *words]), problem


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://no-such-bucket/x", "cannot list s3://no-such-bucket/x"),
        ("gs://bucket/x", "gs://bucket/x: gs:// cannot be fetched; use s3:// or hf://"),
        ("hf://one", "hf://one: must look like hf://OWNER/NAME"),
    ],
)
def test_addresses_that_cannot_be_opened_are_permanent(tmp_path, bucket, uri, words):
    problem = problem_of(uri, tmp_path / "base")
    assert problem.permanent
    assert words in str(problem)


def test_the_program_tells_permanent_from_passing(bucket, stored, fetch):
    nothing = fetch(f"{bucket.uri}/none")
    assert nothing.returncode == ExitCode.MODEL_INVALID
    assert nothing.stderr.splitlines()[-1] == f"error: {bucket.uri}/none: nothing is stored there"
    refused = fetch(AWS_SECRET_ACCESS_KEY="a-wrong-secret")
    assert refused.returncode == ExitCode.MODEL_INVALID
    assert refused.stderr.splitlines()[-1].startswith("error: cannot list s3://")
    away = fetch(AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    assert away.returncode == ExitCode.STORAGE_UNREACHABLE
    assert away.stderr.splitlines()[-1].startswith("error: cannot list s3://")
    for run in (nothing, refused, away):
        assert "Traceback" not in run.stderr
        assert "a-wrong-secret" not in run.stderr


@pytest.fixture
def hub(tmp_path, model):
    shutil.copytree(model, tmp_path / "hub/owner/tiny")
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.stop()


@pytest.fixture
def hub_here(hub, monkeypatch):
    """The hub, also for this process."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(rft_api.hub, "PAUSES", (0.1, 0.1))
    return hub


def test_a_model_from_the_hub(tmp_path, hub, base):
    def fetch(uri):
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
        return run_loader("fetch", "--uri", uri, "--to", tmp_path / "to/base", environment=environment)

    missing = fetch("hf://owner/none")
    assert missing.returncode == ExitCode.MODEL_INVALID
    words = "error: hf://owner/none: the hub has no such model, or HF_TOKEN may not read it"
    assert missing.stderr.splitlines()[-1] == words
    hub.failures = 1
    run = fetch("hf://owner/tiny@main")
    assert run.returncode == 0, run.stderr
    assert fetched(tmp_path) == {"base", *(f"base/{name}" for name in FETCHED)}
    assert (tmp_path / "to/base/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert all(REVISION in path for path in hub.requests if "resolve" in path), "one commit, whatever happens meanwhile"
    for ended in (missing, run):
        assert "Traceback" not in ended.stderr
        assert "hf_secret" not in ended.stderr


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://owner/tiny@v7", "hf://owner/tiny@v7: the model has no such revision"),
        ("hf://owner/closed", "hf://owner/closed: the model is gated"),
        ("hf://owner/a..b", "hf://owner/a..b: must look like hf://OWNER/NAME"),
    ],
)
def test_what_the_hub_has_not_is_permanent(tmp_path, hub_here, uri, words):
    hub_here.gated.add("owner/closed")
    problem = problem_of(uri, tmp_path / "base")
    assert problem.permanent
    assert words in str(problem)


def test_a_hub_that_is_away_may_come_back(tmp_path, hub_here, caplog):
    hub_here.failures = 1000
    busy = problem_of("hf://owner/tiny", tmp_path / "base")
    hub_here.stop()
    away = problem_of("hf://owner/tiny", tmp_path / "base")
    assert not busy.permanent
    assert not away.permanent
    assert "503" in str(busy)
    assert "hf://owner/tiny: the hub cannot be reached" in str(away)
    assert caplog.text.count("trying again") == 4


def test_the_newest_is_fetched_again_only_when_the_model_has_changed(tmp_path, bucket, model):
    shutil.rmtree(model / "original")
    bucket.put(model, "models/tiny")

    def fetch(*options, **environment):
        arguments = ("fetch", "--uri", f"{bucket.uri}/models/tiny", "--to", tmp_path / "to/base", *options)
        return run_loader(*arguments, environment={**bucket.environment, **environment})

    target = tmp_path / "to/base/config.json"
    assert fetch("--newest").returncode == 0
    before = target.stat()
    (model / "README.md").write_text("no part of the model")
    bucket.put(model, "models/tiny")
    again = fetch("--newest")
    assert again.returncode == 0
    assert "complete already" in again.stderr
    assert target.stat().st_ino == before.st_ino
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "note": "another"}))
    bucket.put(model, "models/tiny")
    assert fetch().returncode == 0
    assert "note" not in target.read_text(), "without --newest, a complete folder is left as it is"
    away = fetch("--newest", AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 0, away.stderr
    assert "what was fetched before is used, because: cannot " in away.stderr
    assert "note" not in target.read_text()
    assert fetch("--newest").returncode == 0
    assert "another" in target.read_text()


class FailingWeights:
    """A source whose weights cannot be read."""

    def __init__(self, source):
        self.files = source.files
        self._source = source

    def fetch(self, file, folder):
        if file.name == "model.safetensors":
            raise Problem("the store has gone away", permanent=False)
        self._source.fetch(file, folder)


def test_the_model_before_stays_until_the_newest_is_complete(tmp_path, bucket, model):
    shutil.rmtree(model / "original")
    uri, target = bucket.put(model, "models/tiny"), tmp_path / "to/base"
    target.parent.mkdir()
    fetch_newest_model(uri, Sources().open(uri), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "note": "another"}))
    bucket.put(model, "models/tiny")
    with pytest.raises(Problem, match="the store has gone away"):
        fetch_newest_model(uri, FailingWeights(Sources().open(uri)), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    fetch_newest_model(uri, Sources().open(uri), target)
    assert "another" in (target / "config.json").read_text()
    assert {path.name for path in target.parent.iterdir()} == {"base", "base.revision"}
