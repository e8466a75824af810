"""A server's temporary files: none is left when it ends, and the next one removes those of one that was killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = """
from helpers import bonus
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": bonus()} for s in event]
"""
SPEC = {
    "sandbox": {"processes": 1},
    "python": {"source": SOURCE, "files": {"helpers.py": "def bonus():\n    return 0.5\n"}},
}
NEST = "import os\nfor _ in range(3000):\n    os.mkdir('inner')\n    os.chdir('inner')"


@pytest.fixture
def temporary():
    """A folder for temporary files in which the user of workers can reach them, unlike in those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="rft-temporary-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(temporary, start_server):
    def start():
        """Start a server; return it and its folder."""
        before = set(temporary.iterdir())
        server = start_server(SPEC, environment={"TMPDIR": str(temporary)}).wait_ready()
        (folder,) = set(temporary.iterdir()) - before
        return server, folder

    return start


def test_a_server_that_is_told_to_end_leaves_nothing(start, temporary):
    server, folder = start()
    assert server.score_one("x")["aggregate_reward_score"] == 0.5
    assert len(list(folder.glob("worker-*"))) == 1
    assert (folder / "code" / "helpers.py").exists()
    assert server.stop() == 0
    assert list(temporary.iterdir()) == []


def test_what_a_killed_server_leaves_is_removed_by_the_next(start, temporary):
    killed, left = start()
    running, kept = start()
    killed.process.kill()
    killed.process.wait()
    assert (left / "code" / "helpers.py").exists()
    # Code may have left folders in folders, more than a program can go into by calling itself.
    (worker,) = left.glob("worker-*")
    subprocess.run([sys.executable, "-c", NEST], cwd=worker, check=True)
    _, own = start()
    assert set(temporary.iterdir()) == {kept, own}
    assert running.score_one("x")["aggregate_reward_score"] == 0.5
