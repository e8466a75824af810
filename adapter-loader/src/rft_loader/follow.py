"""Keeps a server's adapters as the list says: looks at what is, decides (`plan`), acts."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rft_api.adapter_protocol import AdapterReports, ListedAdapter
from rft_loader import plan
from rft_loader.adapter_list import AdapterFile
from rft_loader.base_model import read_base_model
from rft_loader.plan import Action, Key, Known, Load, Prepare, Unload
from rft_loader.problems import Problem
from rft_loader.server import Server, ServerAway, ServerRefused
from rft_loader.sources import Sources
from rft_loader.validation import check_adapter
from rft_loader.versions import prepare_version, remove_versions

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LIST_SECONDS = 5.0
"""Time between two questions to a server of which nothing is wanted."""

Outcome = Callable[[Known], Known]


@dataclass(frozen=True)
class Settings:
    """What the loader was told on its command line."""

    adapters: Path
    """The list."""
    folder: Path
    """Where versions of adapters are kept."""
    base: Path
    """The base model."""
    server: str
    """URL of the server."""
    maximum_rank: int
    """The largest rank that the server takes."""


class Follower:
    """The loop. Each adapter is worked on in a thread of its own, so that none waits for another."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic):
        self._settings = settings
        self._clock = clock
        self._list = AdapterFile(settings.adapters)
        self._server = Server(settings.server)
        self._sources = Sources()
        self._base = read_base_model(settings.base)
        self._wake = threading.Event()
        # The lock guards what the threads of adapters write: the next two.
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._busy: set[Key] = set()
        self._listed: dict[str, str] | None = None
        self._list_at = 0.0
        self._answered = True
        self._unneeded_since: dict[Path, float] = {}

    def run(self) -> None:
        """Goes on until the process ends."""
        while True:
            self._wake.clear()
            self.tick()
            self._wake.wait(TICK_SECONDS)

    def tick(self) -> None:
        """One look at everything, and what follows from it."""
        changed = self._list.refresh()
        wanted = self._list.adapters
        if wanted is None:
            return
        now = self._clock()
        with self._lock:
            self._known = plan.remember(wanted, self._known)
            # What ends while the server answers is not in its answer yet: it waits for the next one.
            working = set(self._busy)
        fresh = self._ask_server(now) if changed or now >= self._list_at else None
        if fresh is not None:
            self._remove_versions(fresh, now)
        with self._lock:
            actions = plan.plan(wanted, self._known, self._busy | working, fresh, now)
            self._busy |= {(action.name, action.uri) for action in actions}
        for action in actions:
            threading.Thread(target=self._act, args=(action,), name=action.name, daemon=True).start()

    def reports(self) -> AdapterReports:
        """What `GET /adapters` answers."""
        wanted = self._list.adapters or []
        with self._lock:
            known, listed = plan.remember(wanted, self._known), self._listed
        folder = self._settings.folder
        reports = [plan.report(item, known[item.name], plan.home_of(folder, item), listed) for item in wanted]
        return AdapterReports(adapters=reports)

    def _ask_server(self, now: float) -> dict[str, str] | None:
        self._list_at = now + LIST_SECONDS
        try:
            listed = self._server.adapters()
        except ServerAway as error:
            if self._answered:
                log.info("waiting for the server at %s: %s", self._settings.server, error)
            self._answered, self._listed = False, None
            return None
        if not self._answered:
            log.info("the server answers; it serves %s", ", ".join(sorted(listed)) or "no adapters")
        self._answered, self._listed = True, listed
        return listed

    def _act(self, action: Action) -> None:
        """Runs in a thread of its own."""
        try:
            outcome = self._outcome(action)
        except ServerAway as error:
            log.info("%s: the server does not answer: %s", action.name, error)
            outcome = functools.partial(plan.postponed, now=self._clock())
        except Exception as error:
            if not isinstance(error, (Problem, ServerRefused, OSError)):
                log.exception("%s", action)
            outcome = self._failure(action, str(error) or type(error).__name__)
        with self._lock:
            self._busy.discard((action.name, action.uri))
            known = self._known.get(action.name)
            # The address may be another one by now.
            if outcome is not None and known is not None and known.uri == action.uri:
                self._known[action.name] = outcome(known)
        if not isinstance(action, Unload):
            self._list_at = 0.0
            self._wake.set()

    def _outcome(self, action: Action) -> Outcome | None:
        """Does what was decided; returns what is known afterwards.

        Raises:
            Problem, ServerAway, ServerRefused, OSError: when it cannot be done.
        """
        if isinstance(action, Prepare):
            home = plan.home_of(self._settings.folder, ListedAdapter(name=action.name, uri=action.uri))
            version, note = prepare_version(action.uri, self._sources.open(action.uri), home, self._check)
            if note:
                log.warning("%s: %s", action.name, note)
            served = (self._listed or {}).get(action.name) == str(version)
            return functools.partial(plan.prepared, version=version, note=note, served=served, now=self._clock())
        if isinstance(action, Load):
            self._server.load(action.name, str(action.version), action.replaced)
            log.info("%s is served from %s (%s)", action.name, action.uri, action.version)
            return plan.loaded
        self._server.unload(action.name)
        log.info("%s is no longer served", action.name)
        return None

    def _failure(self, action: Action, text: str) -> Outcome:
        log.error("%s: %s", action.name, text)
        return functools.partial(plan.failed, problem=text, loading=isinstance(action, Load), now=self._clock())

    def _check(self, version: Path) -> None:
        check_adapter(version, self._base, self._settings.maximum_rank)

    def _remove_versions(self, listed: dict[str, str], now: float) -> None:
        with self._lock:
            folder = self._settings.folder
            busy = {plan.home_of(folder, ListedAdapter(name=name, uri=uri)) for name, uri in self._busy if uri}
            needed = plan.needed(self._known.values(), listed)
        remove_versions(folder, needed, busy, self._unneeded_since, now, plan.KEPT_SECONDS)
