"""Attacks of reward code and of completions: each is contained, and says by what; most succeed without the sandbox."""

import contextlib
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from reward_attacks import ATTACKS
from support.reward_server import PACKAGES

HERE = Path(__file__).parent
SOURCE = (HERE / "attack_code.py").read_text()
SPEC = {
    "timeout": "8s",
    "sandbox": {"memory": "256Mi"},
    "python": {"source": SOURCE, "requirements": ["numpy==2.*"]},
}
VICTIM = "a file of somebody else's"


class World:
    """What the attacks are after: a server, files and listeners around it, and whether all is as it was."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.victim = folder / "victim"
        self.open_folder = folder / "open"
        self.open_folder.mkdir()
        self.open_folder.chmod(0o777)
        self.reset()
        # A program that says whom it runs as, and would run as its owner.
        self.program = folder / "readable" / "whoami"
        shutil.copy("/usr/bin/id", self.program)
        self.program.chmod(0o4755)
        self.listeners = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "unix": socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
            "abstract": socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
            "datagrams": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        }
        self.listeners["udp"].bind(("127.0.0.1", 0))
        self.abstract = f"rft-attacked-{os.getpid()}-{server.process.pid}"
        self.listeners["abstract"].bind(f"\0{self.abstract}")
        for name in ("unix", "datagrams"):
            self.listeners[name].bind(str(folder / name))
            (folder / name).chmod(0o777)
        for name in ("unix", "abstract"):
            self.listeners[name].listen()
        for listener in self.listeners.values():
            listener.setblocking(False)
        self.workers = 6 if server.layer("namespaces") else 2
        server.wait_settled(self.workers)
        self.limits = self._limits()
        # Other tests of this machine may be installing other lists of packages.
        self.installed = [file.parent for file in PACKAGES.glob("*/INSTALLED.json")]
        self.packages = self._packages()

    def reset(self):
        """Puts the file that is attacked back."""
        self.victim.unlink(missing_ok=True)
        self.victim.write_text(VICTIM)
        self.victim.chmod(0o666)

    def described(self):
        """What attacks are told, so that none fails for want of an address."""
        return {
            "server": self.server.process.pid,
            "group": os.getpgid(self.server.process.pid),
            "workers": self.server.descendants(),
            "token": str(self.server.token_file),
            "manifest": str(self.server.folder / "function.json"),
            "scratches": str(self.folder / "scratch"),
            "victim": str(self.victim),
            "open": str(self.open_folder),
            # In a namespace a worker has a /tmp of its own.
            "closed": [] if self.server.layer("namespaces") else ["/tmp"],
            "program": str(self.program),
            "tcp": self.listeners["tcp"].getsockname()[1],
            "udp": self.listeners["udp"].getsockname()[1],
            "unix": str(self.folder / "unix"),
            "datagrams": str(self.folder / "datagrams"),
            "abstract": self.abstract,
            "others": ["innocent"],
        }

    def reached(self):
        """The listeners that somebody reached."""
        reached = []
        for name, listener in self.listeners.items():
            with contextlib.suppress(BlockingIOError):
                if name in ("udp", "datagrams"):
                    listener.recv(100)
                else:
                    listener.accept()[0].close()
                reached.append(name)
        return reached

    def _limits(self):
        process = self.server.process.pid
        return (
            resource.prlimit(process, resource.RLIMIT_NOFILE),
            os.getpriority(os.PRIO_PROCESS, process),
            os.sched_getscheduler(process),
        )

    def _packages(self):
        """The files that the code imports from packages, with their sizes and times."""
        files = [file for folder in self.installed for file in folder.rglob("*") if file.is_file()]
        return {file: (file.stat().st_size, file.stat().st_mtime) for file in files if "numpy" in file.parts}

    def check(self):
        """Asserts that nothing is changed, nothing is left, and the next request is answered."""
        assert self.server.process.poll() is None
        assert self.server.client.get("/healthz").status_code == 200
        self.server.wait_settled(self.workers)
        assert self._limits() == self.limits
        assert self.packages
        assert self._packages() == self.packages
        status = self.victim.stat()
        assert (self.victim.read_text(), status.st_mode & 0o777, status.st_nlink) == (VICTIM, 0o666, 1)
        assert status.st_mtime > 1
        assert not os.listxattr(self.victim)
        assert not list(self.open_folder.iterdir())
        assert not [path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).glob("written-*")]
        assert len(list((self.folder / "scratch").glob("rft-reward-*/worker-*"))) == 2  # those of the two workers
        assert not self.reached()
        assert "\nforged line" not in self.server.log()
        assert "INFO forged line" not in self.server.log().replace("\\n2026-01-01 00:00:00,000 INFO forged line", "")
        assert self.server.score_one("innocent")["aggregate_reward_score"] == 1.0


@contextlib.contextmanager
def world_of(server_class, launcher):
    folder = Path(tempfile.mkdtemp(prefix="rft-world-", dir="/var/tmp"))  # a worker may have a /tmp of its own
    folder.chmod(0o755)
    for name, mode in (("scratch", 0o777), ("readable", 0o755)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    spec = {**SPEC, "sandbox": {**SPEC["sandbox"], "readable": [str(folder / "readable")]}}
    environment = {"SECRET_OF_THE_SERVER": "kept", "TMPDIR": str(folder / "scratch")}
    server = server_class(folder / "server", spec, launcher=launcher, environment=environment).wait_ready()
    (folder / "server").chmod(0o755)
    try:
        yield World(server, folder)
        assert server.stop() == 0
    finally:
        server.process.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["namespaces", "pod"])
def world(request, reward_server):
    """With the kernel's namespaces; and without them, as in a pod with the default seccomp profile."""
    launcher = () if request.param == "namespaces" else (sys.executable, str(HERE / "without_namespaces.py"))
    with world_of(reward_server, launcher) as world:
        assert world.server.layer("namespaces") == (request.param == "namespaces")
        yield world


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacks_are_contained(world, build_sample, attack):
    command = f"{attack.name} {json.dumps(world.described())}"
    guilty = build_sample("guilty", command)
    if attack.alone:
        (guilty,) = world.server.score([guilty])
    else:
        # As a whole the batch has no scores: its samples are then tried one by one.
        first, guilty, last = world.server.score(
            [build_sample("first", "innocent"), guilty, build_sample("last", "innocent")]
        )
        assert (first.get("error"), first["aggregate_reward_score"]) == (None, 1.0)
        assert (last.get("error"), last["aggregate_reward_score"]) == (None, 1.0)
    assert guilty["aggregate_reward_score"] is None
    assert any(part in guilty["error"] for part in attack.says), guilty["error"]
    world.check()


@pytest.fixture(scope="module")
def unprotected(reward_server):
    """A server to which the kernel grants none of the layers."""
    launcher = (sys.executable, str(HERE / "without_layers.py"))
    with world_of(reward_server, launcher) as world:
        assert world.server.metric("rft_reward_isolated") == 0
        for layer in ("namespaces", "landlock_files", "landlock_network", "landlock_signals", "seccomp"):
            assert not world.server.layer(layer)
        for warning in ("system calls are not filtered", "reward code reads", "reward code can end"):
            assert warning in world.server.log()
        yield world


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.succeeds_without], ids=lambda attack: attack.name
)
def test_attacks_succeed_without_the_sandbox(unprotected, attack):
    for _ in range(5):
        # The attack before may have killed workers, which the server replaces, or be about to.
        unprotected.server.wait_settled(unprotected.workers)
        row = unprotected.server.score_one(f"{attack.name} {json.dumps(unprotected.described())}")
        if "the worker was killed" not in (row.get("error") or ""):
            break
    assert row["aggregate_reward_score"] == 99.0, row
    unprotected.reset()
    unprotected.reached()


def test_both_ways_of_confining_close_everything(world):
    assert world.server.metric("rft_reward_isolated") == 1
    for layer in ("landlock_files", "landlock_network", "landlock_signals", "seccomp", "unprivileged"):
        assert world.server.layer(layer)
