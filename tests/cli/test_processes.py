"""The programs of a run: what the command line makes of what they say."""

from __future__ import annotations

import http.server
import threading

import pytest
from support.manifests import python_reward
from support.wheels import build_wheel

from rft_api.exit_codes import ExitCode, RunError
from rft_api.readiness import NotReady, NotReadyReason, Readiness
from rft_cli import processes
from rft_cli.processes import RewardServer, ask_readiness
from rft_cli.score import load_function


@pytest.fixture
def url(request):
    """Of a server that gives one answer to everything."""
    status, readiness = request.param

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(readiness.model_dump_json().encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def saying(reason: NotReadyReason, message: str) -> tuple[int, Readiness]:
    return 503, Readiness(reasons=[NotReady(reason=reason, message=message)])


@pytest.mark.parametrize("url", [saying(NotReadyReason.WORKERS_STARTING, "test 1: reworded")], indirect=True)
def test_workers_that_start_are_waited_for(url):
    assert ask_readiness("amount", url) is False


@pytest.mark.parametrize("url", [(200, Readiness())], indirect=True)
def test_a_server_that_is_ready(url):
    assert ask_readiness("amount", url) is True


@pytest.mark.parametrize(
    "url",
    [
        saying(NotReadyReason.TEST_FAILED, "the workers are starting"),
        saying(NotReadyReason.WORKERS_FAILING, "the workers are starting"),
    ],
    indirect=True,
)
def test_failures_end_the_run_whatever_their_words(url):
    with pytest.raises(RunError, match=r"RewardFunction amount is not ready:\n  the workers are starting") as refused:
        ask_readiness("amount", url)
    assert refused.value.code is ExitCode.REWARD_FAILING


def test_a_server_that_does_not_answer_yet_is_waited_for():
    assert ask_readiness("amount", "http://127.0.0.1:1") is False


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A reward whose code needs a package that has to be installed."""
    build_wheel(tmp_path / "wheels", "answers", "1.5", {"answers.py": "VALUE = 1\n"})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(processes, "PACKAGES", tmp_path / "packages")
    manifest = tmp_path / "reward.yaml"
    code = "import answers\n\ndef lambda_handler(event, context): ...\n"
    manifest.write_text(python_reward("answers", code, "requirements: [answers]\n"))
    return load_function(manifest)


def test_while_packages_are_installed_the_caller_can_say_so(tmp_path, function):
    calls = []
    RewardServer(function, tmp_path, tmp_path / "log", lambda: calls.append("installing")).stop()
    assert calls
    calls.clear()
    for file in ("answers.token", "answers.json"):
        (tmp_path / file).unlink()
    (tmp_path / "wheels" / "answers-1.5-py3-none-any.whl").unlink()
    RewardServer(function, tmp_path, tmp_path / "log").stop()  # they are installed already


def test_an_installation_that_is_interrupted_leaves_no_program(tmp_path, function):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RewardServer(function, tmp_path, tmp_path / "log", interrupt)
    assert not [path for path in (tmp_path / "packages").glob("*") if path.is_dir() and path.suffix != ".partial"]


def test_packages_that_cannot_be_installed_are_named(tmp_path, function):
    (tmp_path / "wheels" / "answers-1.5-py3-none-any.whl").unlink()
    with pytest.raises(RunError, match="RewardFunction answers: the packages answers could not be installed") as error:
        RewardServer(function, tmp_path, tmp_path / "log")
    assert error.value.code is ExitCode.CONFIGURATION_INVALID
