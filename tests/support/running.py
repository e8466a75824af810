"""A pytest plugin: when no test has begun or ended for a while, a line says which ones run, and for how long.

It is for `make test`, in which several processes test. One process alone captures what is written while a test runs.
"""

from __future__ import annotations

import threading
import time

import pytest

LONGEST_SILENCE = 10.0
"""Seconds."""


class Running:
    """The tests that are running now, of all processes."""

    def __init__(self, terminal: pytest.TerminalReporter):
        self._terminal = terminal
        self._begun: dict[str, float] = {}
        self._over = 0
        self._news = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def pytest_sessionstart(self) -> None:
        """Begins to watch, before tests are collected."""
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._begun[nodeid] = time.monotonic()
        self._news.set()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended."""
        self._begun.pop(nodeid, None)
        self._over += 1
        self._news.set()

    def pytest_sessionfinish(self) -> None:
        """Nothing runs any more."""
        self._ended.set()
        self._news.set()

    def _repeat(self) -> None:
        while not self._ended.is_set():
            self._news.clear()
            if not self._news.wait(LONGEST_SILENCE):
                self._terminal.ensure_newline()
                self._terminal.write_line(self._describe())

    def _describe(self) -> str:
        now = time.monotonic()
        longest_first = sorted(self._begun.items(), key=lambda item: item[1])
        names = [f"{name} ({now - begun:.0f} s)" for name, begun in longest_first]
        return f"{self._over} tests have run; {', '.join(names) or 'none'} running"


@pytest.hookimpl(trylast=True)  # pytest makes its terminal reporter in the same hook
def pytest_configure(config: pytest.Config) -> None:
    """Watch in the process that has the terminal and starts the others."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and getattr(config.option, "dist", "no") != "no":
        config.pluginmanager.register(Running(terminal))
