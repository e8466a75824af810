"""`rft_loader follow`, with a server that speaks vLLM's protocol and a real S3 server."""

import errno
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support.adapters import configuration, header, safetensors, write_adapter_bytes
from support.loader import LoaderProgram, write_list
from support.patience import PATIENCE_SECONDS, wait_until

import rft_loader.server
from rft_api.exit_codes import ExitCode
from rft_loader import follow
from rft_loader.follow import Follower, Settings
from rft_loader.problems import Problem
from rft_loader.room import Room
from rft_loader.source import fetch_files
from rft_loader.sources import MountedFolder
from rft_loader.validation import WEIGHTS
from rft_loader.versions import remove_versions


class Following:
    """The loop in this process, with a clock that tests move."""

    def __init__(self, folder, base, server):
        self.list, self.folder, self.base, self.server = folder / "adapters.json", folder / "adapters", base, server
        self.folder.mkdir(exist_ok=True)
        self.now = 0.0
        self.restart()

    def restart(self):
        settings = Settings(self.list, self.folder, self.base, self.server.url, 8)
        self.follower = Follower(settings, lambda: self.now)

    def settle(self, seconds=0):
        """Lets time pass, and the loop run for six seconds of it."""
        self.now += seconds
        for _ in range(6):  # with a question to the server among them
            self.follower.tick()
            self.wait()
            self.now += 1
        return self.states()

    def wait(self):
        """Waits for what the loop has begun."""
        wait_until(lambda: not self.follower._busy, lambda: self.follower._busy, pause=0.01)

    def states(self):
        return {item.name: (item.state, item.message) for item in self.follower.reports().adapters}

    def versions(self):
        return set(self.folder.glob("*/*"))


@pytest.fixture
def following(tmp_path, base, server, monkeypatch):
    # The list comes from this process, which may have to wait for a processor.
    monkeypatch.setattr(rft_loader.server, "LIST_SECONDS", PATIENCE_SECONDS)
    return Following(tmp_path, base, server)


LOADED = ("Loaded", "")


@pytest.mark.parametrize("is_large", [False, True])
def test_only_adapters_with_large_headers_take_turns(following, tmp_path, monkeypatch, is_large):
    running, counts, together = [], [], threading.Barrier(follow.LARGE_AT_ONCE if is_large else 8)

    def check(version, base, maximum_rank):  # in place of both checks
        running.append(version)
        counts.append(len(running))
        together.wait(PATIENCE_SECONDS)  # nobody ends before so many have begun
        time.sleep(0.05)  # one more would be seen now
        running.remove(version)

    monkeypatch.setattr(follow, "check_apart" if is_large else "check_adapter", check)
    size = (300 if is_large else 200) << 10
    weights = safetensors(json.dumps({**header(), "__metadata__": {"x": "x" * size}}).encode())
    write_adapter_bytes(tmp_path / "a", weights, json.dumps(configuration()).encode())
    write_list(following.list, {f"a{number}": tmp_path / "a" for number in range(8)})
    assert following.settle() == {f"a{number}": LOADED for number in range(8)}
    assert max(counts) == together.parties


def test_a_life_with_a_store(following, server, bucket, adapters):
    one, two = bucket.put(adapters / "one", "runs/one/best"), bucket.put(adapters / "two", "runs/two/best")
    write_list(following.list, {"a": one, "b": two})
    assert following.settle() == {"a": LOADED, "b": LOADED}
    assert sorted(server.adapters) == ["a", "b"]
    before = dict(server.adapters)
    server.requests.clear()
    assert following.settle(300) == {"a": LOADED, "b": LOADED}
    assert server.requests == [], "what is as it should be is left alone"

    # A new run wrote to the same address.
    bucket.put(adapters / "two", "runs/one/best")
    following.settle(61)
    assert server.requests == [("unload", "a"), ("load", "a")]
    assert server.adapters["a"] != before["a"], "another folder: vLLM keeps what it computed with the files of one"
    assert len(following.versions()) == 3, "requests in flight may still need the old version"
    following.settle(700)
    assert {str(path) for path in following.versions()} == set(server.adapters.values())

    # Another address under the same name; the other adapter goes.
    write_list(following.list, {"a": two})
    assert following.settle() == {"a": LOADED}
    assert sorted(server.adapters) == ["a"]
    following.settle(700)
    assert {str(path) for path in following.versions()} == set(server.adapters.values())
    assert len(list(following.folder.iterdir())) == 1

    # The server starts again and knows nothing; the loader starts again and finds all in place.
    server.adapters.clear()
    assert following.settle() == {"a": LOADED}
    server.requests.clear()
    following.restart()
    assert following.settle() == {"a": LOADED}
    assert server.requests == []


def test_a_mounted_folder(following, server, adapters):
    write_list(following.list, {"a": adapters / "one"})
    assert following.settle() == {"a": LOADED}
    first = Path(server.adapters["a"])
    checked = (first / WEIGHTS).read_bytes()
    # Whoever may write to the volume may write to a file that was checked: the server never sees that.
    (adapters / "one" / WEIGHTS).write_bytes(b"of somebody else")
    assert (first / WEIGHTS).read_bytes() == checked
    assert following.settle(61)["a"][0] == "Failed"
    assert server.adapters["a"] == str(first)
    shutil.copy(adapters / "two" / WEIGHTS, adapters / "one")
    assert following.settle(61) == {"a": LOADED}
    assert server.adapters["a"] != str(first)
    following.settle(700)
    assert not first.exists()
    assert (adapters / "one/adapter_config.json").exists(), "only the copy is removed"
    shutil.rmtree(adapters / "one")
    state, message = following.settle(61)["a"]
    assert state == "Loaded"
    assert message == f"what was fetched before is served, because: {adapters / 'one'}: there is no such folder"


def test_links_do_not_lead_out_of_the_volume_of_an_adapter(following, server, adapters):
    """The base endpoint allows one claim, and mounts others beside it, for its model or other adapters."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as volume:  # a mount of its own
        folder = Path(volume) / "mine"
        shutil.copytree(adapters / "one", folder)
        (folder / WEIGHTS).rename(folder / "weights")
        (folder / WEIGHTS).symlink_to("weights")
        write_list(following.list, {"inside": folder})
        assert following.settle() == {"inside": LOADED}
        (folder / "weights").unlink()
        for target in (adapters / "two" / WEIGHTS, Path("../../../..") / (adapters / "two" / WEIGHTS)):
            (folder / WEIGHTS).unlink()
            (folder / WEIGHTS).symlink_to(target)
            write_list(following.list, {"outside": folder})
            state, message = following.settle(700)["outside"]
            assert (state, message) == (
                "Failed",
                f"{folder / WEIGHTS}: is a link that leads out of its volume; copy the file itself there",
            )
        shutil.rmtree(folder)
        folder.symlink_to(adapters / "two")
        write_list(following.list, {"folder": folder})
        state, message = following.settle(700)["folder"]
        assert state == "Failed"
        assert message.startswith(f"{folder / 'adapter_config.json'}: is a link that leads out of its volume")
        assert server.adapters == {}


@pytest.mark.parametrize(("name", "size"), [("adapter_config.json", 2 << 20), (WEIGHTS, 1 << 40)])
def test_a_file_that_is_too_large_is_not_copied(following, adapters, name, size):
    """A sparse file costs its owner nothing, and would fill the disk of everybody on the node."""
    os.truncate(adapters / "one" / name, size)
    write_list(following.list, {"a": adapters / "one"})
    state, message = following.settle()["a"]
    assert state == "Failed"
    assert f"{name} is larger than " in message
    assert not list(following.folder.rglob("adapter_*"))


def test_holes_stay_holes(following, adapters):
    """Thirty adapters that cost their owner nothing filled the disk of everybody on the node with zeros."""
    weights = adapters / "one" / WEIGHTS
    weights.write_bytes((90_000_000).to_bytes(8, "little"))
    os.truncate(weights, 16 << 30)
    write_list(following.list, {"a": adapters / "one"})
    state, message = following.settle()["a"]
    assert state == "Failed"
    assert "headers have at most 32 MiB" in message
    (copy,) = following.folder.rglob(WEIGHTS)
    assert copy.stat().st_size == 16 << 30
    assert copy.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "parts", [["data", "hole"], ["hole", "data"], ["data", "hole", "data"], ["hole"], ["data"], []]
)
def test_a_copy_of_a_mounted_file_is_the_same(tmp_path, parts):
    size = 1 << 20
    with (tmp_path / "source").open("wb") as file:
        for part in parts:
            if part == "data":
                file.write(os.urandom(size))
            else:
                file.seek(size, os.SEEK_CUR)
        file.truncate(size * len(parts))
    folder = MountedFolder(tmp_path)
    (listed,) = folder.files()
    (tmp_path / "copies").mkdir()
    folder.fetch(listed, tmp_path / "copies")
    assert (tmp_path / "copies/source").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_copy_that_broke_off_is_made_again(tmp_path, monkeypatch):
    """It had the size of the whole file, so that the rest of it was zeros."""
    (tmp_path / "source").write_bytes(os.urandom(3 << 20))
    folder, copies = MountedFolder(tmp_path), tmp_path / "copies"
    real = os.sendfile

    def full_disk(target, source, offset, count):
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(target, source, offset, 1 << 20)

    monkeypatch.setattr(os, "sendfile", full_disk)
    with pytest.raises(Problem, match="No space left"):
        fetch_files(folder, folder.files(), copies)
    monkeypatch.setattr(os, "sendfile", real)
    fetch_files(folder, folder.files(), copies)
    assert (copies / "source").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_copied_leaves_nothing(tmp_path, monkeypatch, change):
    path, real = tmp_path / "source", os.sendfile
    path.write_bytes(os.urandom(3 << 20))
    folder, copies = MountedFolder(tmp_path), tmp_path / "copies"
    listed = folder.files()

    def write_meanwhile(target, source, offset, count):
        if not offset:
            path.write_bytes(bytes({"longer": 4 << 20, "shorter": 1 << 20, "other": 3 << 20}[change]))
            return real(target, source, offset, 1 << 20)
        return real(target, source, offset, count)

    monkeypatch.setattr(os, "sendfile", write_meanwhile)
    with pytest.raises(Problem, match="source changed while it was copied") as raised:
        fetch_files(folder, listed, copies)
    assert not raised.value.permanent
    assert not list(copies.iterdir())


def test_versions_go_although_their_adapter_is_looked_at_again_and_again(tmp_path):
    home = tmp_path / "a-0123"
    old, partial = home / "old", home / "new.partial"
    for folder in (old, partial):
        folder.mkdir(parents=True)
    since = {}
    for minute in range(10):
        for busy in (set(), {home}):
            remove_versions(tmp_path, set(), busy, since, minute * 60.0, 600.0)
    assert old.exists()
    remove_versions(tmp_path, set(), set(), since, 600.0, 600.0)
    assert not old.exists()
    assert partial.exists(), "what is being fetched waits from its last attempt on"
    remove_versions(tmp_path, set(), set(), since, 1200.0, 600.0)
    assert not home.exists()


def test_a_copy_that_goes_on_counts_once(tmp_path):
    room, partial = Room(tmp_path, 1 << 20), tmp_path / "a" / "new.partial"
    partial.mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(bytes(600 << 10))
    with room.reserve("s3://b/a", partial, 700 << 10), pytest.raises(Problem, match="takes 400 KiB"):
        room.reserve("s3://b/b", tmp_path / "b", 400 << 10).__enter__()


def test_the_copies_of_all_adapters_take_bounded_room(following, bucket, adapters):
    one, two = bucket.put(adapters / "one", "runs/one/best"), bucket.put(adapters / "two", "runs/two/best")
    size = sum(file.stat().st_size for file in (adapters / "one").iterdir())
    following.follower._room = Room(following.folder, size * 3 // 2 + (16 << 10))
    (following.folder / "other").mkdir()
    (following.folder / "other" / "file").write_bytes(bytes(size))
    write_list(following.list, {"a": one})
    state, message = following.settle()["a"]
    assert state == "Failed"
    assert message.startswith(f"{one}: takes ")
    assert message.endswith("that they may; remove adapters, or serve some on another base")
    shutil.rmtree(following.folder / "other")
    assert following.settle(61) == {"a": LOADED}
    write_list(following.list, {"a": one, "b": two})
    states = following.settle()
    assert states["a"] == LOADED
    assert states["b"][0] == "Failed"
    # What is no longer listed leaves its room to others.
    write_list(following.list, {"b": two})
    following.settle(700)
    assert following.settle(700) == {"b": LOADED}


def test_a_store_that_is_away(following, server, bucket, s3, adapters, monkeypatch):
    uri = bucket.put(adapters / "one", "one")
    write_list(following.list, {"a": uri})
    following.settle()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # Both begin anew, and the store does not answer: what was fetched before is served.
    server.adapters.clear()
    following.restart()
    state, message = following.settle()["a"]
    assert state == "Loaded"
    assert message.startswith(f"what was fetched before is served, because: cannot list {uri}")
    assert sorted(server.adapters) == ["a"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    following.restart()
    assert following.settle() == {"a": LOADED}


def test_a_start_with_a_new_server_leaves_the_newest_versions_only(following, server, bucket, adapters, monkeypatch):
    """Starts that end within ten minutes would otherwise leave a copy each, until there is no room for more."""
    uri, others = bucket.put(adapters / "one", "run"), {"other": adapters / "two", "mine": adapters / "one"}
    write_list(following.list, {"a": uri, **others})
    following.settle()
    first = server.adapters["a"]
    bucket.put(adapters / "two", "run")
    following.settle(61)
    newest = server.adapters["a"]
    (Path(newest).parent / "next.partial").mkdir()
    write_list(following.list, {"a": uri, "mine": adapters / "one"})
    following.restart()
    following.follower.remove_older_versions()
    assert first != newest
    assert {str(path) for path in following.versions()} == {newest, server.adapters["mine"]}
    assert len(list(following.folder.iterdir())) == 2
    # What has stayed is served while the store does not answer.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    server.adapters.clear()
    assert following.settle()["a"][1].startswith("what was fetched before is served, because: ")
    assert server.adapters["a"] == newest


def test_nothing_is_removed_while_the_list_cannot_be_read(following, adapters):
    write_list(following.list, {"a": adapters / "one"})
    following.settle()
    versions = following.versions()
    following.list.unlink()
    following.restart()
    following.follower.remove_older_versions()
    assert following.versions() == versions


def test_what_fails_says_whether_it_may_pass(following, server, bucket, adapters, monkeypatch):
    server.refusals["refused"] = "no room for another"
    away = bucket.put(adapters / "one", "one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    write_list(following.list, {"away": away, "wide": adapters / "wide", "refused": adapters / "one"})
    states = following.settle()
    assert {state for state, _ in states.values()} == {"Failed"}
    reports = following.follower.reports().adapters
    assert {item.name: item.permanent for item in reports} == {"away": False, "wide": True, "refused": True}


def test_failing_adapters_do_not_disturb_others(following, server, bucket, adapters):
    (adapters / "two/adapter_model.safetensors").rename(adapters / "two/adapter_model.bin")
    pickle, good = bucket.put(adapters / "two", "two"), bucket.put(adapters / "one", "one")
    server.refusals["refused"] = "no room for another"
    write_list(
        following.list,
        {"good": good, "pickle": pickle, "wide": adapters / "wide", "none": f"{bucket.uri}/none", "refused": good},
    )
    states = following.settle()
    assert states["good"] == LOADED
    assert states["pickle"][0] == "Failed"
    assert f"{pickle}: holds no adapter_model.safetensors (adapter_model.bin is not loaded" in states["pickle"][1]
    assert "rank 16 is above the 8" in states["wide"][1]
    assert states["none"] == ("Failed", f"{bucket.uri}/none: nothing is stored there")
    assert states["refused"] == ("Failed", "the server refuses it (HTTP 500): no room for another")
    assert sorted(server.adapters) == ["good"]
    # Each is tried again later, and serves once it is mended.
    following.settle(10)
    following.settle(20)
    assert server.requests.count(("load", "refused")) == 3
    assert server.requests.count(("load", "good")) == 1
    server.refusals.clear()
    bucket.put(adapters / "one", "none")
    states = following.settle(300)
    assert states["refused"] == states["none"] == LOADED
    assert states["pickle"][0] == states["wide"][0] == "Failed"


def test_a_newer_version_that_is_refused(following, server, adapters):
    write_list(following.list, {"a": adapters / "one"})
    following.settle()
    served = server.adapters["a"]
    content = (adapters / "one/adapter_model.safetensors").read_bytes()
    (adapters / "one/adapter_model.safetensors").write_bytes(content[:-1])
    state, message = following.settle(61)["a"]
    assert state == "Failed"
    assert message.startswith(f"{adapters / 'one'}: adapter_model.safetensors: has {len(content) - 1} bytes")
    assert message.endswith("until then the name answers as before")
    assert server.adapters["a"] == served
    # One that passes the checks, and that the server does not take: it gets back what it had.
    (adapters / "one/adapter_model.safetensors").write_bytes(content)
    real_load = following.follower._server._load

    def refuse_new(name, folder):
        server.refusals = {} if folder == served else {"a": "no"}
        real_load(name, folder)

    following.follower._server._load = refuse_new
    assert following.settle(301)["a"][0] == "Failed"
    assert server.adapters["a"] == served


def test_a_slow_adapter_does_not_delay_others(following, server, adapters, monkeypatch):
    slow, waiting = threading.Event(), threading.Event()
    real_open = following.follower._sources.open

    def open_slowly(uri):
        if uri.endswith("two"):
            waiting.set()
            slow.wait()
        return real_open(uri)

    monkeypatch.setattr(following.follower._sources, "open", open_slowly)
    write_list(following.list, {"fast": adapters / "one", "slow": adapters / "two"})

    def is_loaded():
        following.follower.tick()
        following.now += 5
        return following.states().get("fast") == LOADED

    wait_until(is_loaded, following.states, pause=0.05)
    wait_until(waiting.is_set)
    assert following.states()["slow"] == ("Loading", "fetching")
    slow.set()
    assert following.settle() == {"fast": LOADED, "slow": LOADED}


def test_what_ends_while_the_server_answers_is_not_done_twice(following, server, adapters, monkeypatch):
    client, allowed = following.follower._server, threading.Event()
    real_load, real_list = client.load, client.adapters

    def load(*arguments):
        allowed.wait()
        real_load(*arguments)

    def list_and_let_end():
        listed = real_list()
        allowed.set()
        following.wait()
        return listed

    monkeypatch.setattr(client, "load", load)
    write_list(following.list, {"a": adapters / "one"})
    following.follower.tick()
    following.wait()
    following.follower.tick()  # begins to load
    monkeypatch.setattr(client, "adapters", list_and_let_end)
    following.now += 5
    following.follower.tick()
    following.wait()
    assert server.requests == [("load", "a")]


def test_a_list_that_cannot_be_read_changes_nothing(following, server, adapters, caplog):
    server.adapters["stays"] = "/until/the/list/is/known"
    assert following.settle() == {}
    assert sorted(server.adapters) == ["stays"]
    write_list(following.list, {"a": adapters / "one"})
    assert following.settle() == {"a": LOADED}
    assert sorted(server.adapters) == ["a"]
    for broken in ('{"adapters": [{"na', '{"adapters": [{"name": "a"}]}', '{"adapters": 1}', ""):
        following.list.write_text(broken)
        caplog.clear()
        assert following.settle(5) == {"a": LOADED}
        assert len([r for r in caplog.records if "going on with the list as it was" in r.message]) == 1
    following.list.unlink()
    assert following.settle() == {"a": LOADED}
    write_list(following.list, {})
    assert following.settle() == {}
    assert server.adapters == {}


def test_the_base_models_name_is_never_unloaded(following, server):
    write_list(following.list, {})
    following.settle()
    assert server.requests == []


def test_a_server_that_is_away(following, server, adapters):
    server.stop()
    write_list(following.list, {"a": adapters / "one"})
    assert following.settle() == {"a": ("Loading", "waiting for the server")}
    server.start()
    assert following.settle(5) == {"a": LOADED}
    server.stop()
    assert following.settle(5) == {"a": ("Loading", "waiting for the server")}
    server.start()
    assert following.settle(5) == {"a": LOADED}


def test_the_program_restarts_and_ends(tmp_path, base, server, bucket, adapters):
    uri = bucket.put(adapters / "one", "one")
    loader = LoaderProgram(tmp_path / "loader", base, server.url, bucket.environment)
    # As Kubernetes replaces it: a link to another folder.
    for name, names in (("first", {"a": uri}), ("second", {"a": uri, "b": adapters / "two"})):
        (tmp_path / name).mkdir()
        write_list(tmp_path / name / "adapters.json", names)
    (tmp_path / "data").symlink_to("first")
    loader.list.symlink_to(tmp_path / "data/adapters.json")
    loader.start()
    loader.wait_for(lambda adapters: adapters.get("a", {}).get("state") == "Loaded")
    (tmp_path / "data-new").symlink_to("second")
    (tmp_path / "data-new").rename(tmp_path / "data")
    loader.wait_for(lambda adapters: adapters.get("b", {}).get("state") == "Loaded")
    assert server.requests == [("load", "a"), ("load", "b")]
    loader.stop(9)
    loader.start()
    loader.wait_for(lambda adapters: all(item["state"] == "Loaded" for item in adapters.values()) and adapters)
    assert loader.adapters()["a"] == {"name": "a", "uri": uri, "state": "Loaded", "message": "", "permanent": False}
    assert loader.stop() == ExitCode.INTERRUPTED
    assert server.requests == [("load", "a"), ("load", "b")], "nothing was loaded again"
    assert loader.log.count("fetching s3://") == 1
    assert "Traceback" not in loader.log
    assert bucket.environment["AWS_SECRET_ACCESS_KEY"] not in loader.log
