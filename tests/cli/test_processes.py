"""The programs of a run: what the command line makes of what they say."""

from __future__ import annotations

import http.server
import threading

import pytest

from rft_api.exit_codes import ExitCode, RunError
from rft_api.readiness import NotReady, NotReadyReason, Readiness
from rft_cli.processes import ask_readiness


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
