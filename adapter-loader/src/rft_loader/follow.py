"""Reconciles a server's adapters with the list: observes the server, decides what to do (`plan`), and does it."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rft_api.adapter_protocol import AdapterReports, ListedAdapter
from rft_api.foreign.text import one_line
from rft_api.system_errors import may_pass
from rft_loader import plan
from rft_loader.adapter_list import AdapterFile
from rft_loader.base_model import read_base_model
from rft_loader.check_process import check_apart
from rft_loader.plan import Action, AdapterState, Key, Load, Prepare, Unload
from rft_loader.problems import Problem
from rft_loader.room import Room
from rft_loader.server import Server, ServerAway, ServerRefused
from rft_loader.sources import Sources
from rft_loader.tensors import has_large_header
from rft_loader.validation import WEIGHTS, check_adapter
from rft_loader.versions import complete_versions, prepare_version, remove_versions

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LIST_SECONDS = 5.0
"""Time between two requests for the server's list of adapters while nothing has changed."""

LARGE_AT_ONCE = 1
"""Adapters with a large header that are checked at the same time: each takes a processor and up to half a gigabyte
meanwhile. The others wait for nobody."""

Outcome = Callable[[AdapterState], AdapterState]
"""Turns an adapter's state before an action into its state after it."""


@dataclass(frozen=True)
class Settings:
    """The settings from the loader's command line."""

    adapters: Path
    """The file with the list of adapters."""
    folder: Path
    """The folder in which versions of adapters are kept."""
    base: Path
    """The folder of the base model."""
    server: str
    """URL of the server."""
    maximum_rank: int
    """The largest rank that the server takes."""
    new_server: bool = False
    """Whether the server starts together with the loader, so that nobody reads the versions on disk."""


class Follower:
    """Reconciles again and again. Each action runs in its own thread, so that no adapter waits for another one.

    Only adapters that take much memory to check take turns.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic):
        self._settings = settings
        self._clock = clock
        self._list = AdapterFile(settings.adapters)
        self._server = Server(settings.server)
        self._sources = Sources()
        self._room = Room(settings.folder)
        self._base = read_base_model(settings.base)
        self._wake = threading.Event()
        self._large = threading.Semaphore(LARGE_AT_ONCE)
        # The lock guards the two attributes below it, which the threads of actions write.
        self._lock = threading.Lock()
        self._states: dict[str, AdapterState] = {}
        self._busy: set[Key] = set()
        self._listed: dict[str, str] | None = None
        self._list_at = 0.0
        self._answered = True
        self._unneeded_since: dict[Path, float] = {}

    def run(self) -> None:
        """Reconcile until the process ends."""
        if self._settings.new_server:
            self.remove_older_versions()
        while True:
            self._wake.clear()
            self.tick()
            self._wake.wait(TICK_SECONDS)

    def remove_older_versions(self) -> None:
        """Remove all versions but the newest of each adapter of the list, which is served if its address is away."""
        self._list.refresh()
        if self._list.adapters is not None:
            folder = self._settings.folder
            homes = [plan.home_of(folder, adapter) for adapter in self._list.adapters]
            needed = {version for home in homes for version in complete_versions(home)[:1]}
            remove_versions(folder, needed, set(), {}, now=0.0, keep=0.0)

    def tick(self) -> None:
        """Reconcile once: read the list, ask the server for its adapters if it is time, and start the actions."""
        changed = self._list.refresh()
        adapters = self._list.adapters
        if adapters is None:
            return
        now = self._clock()
        with self._lock:
            self._states = plan.keep_states(adapters, self._states)
            # An action that ends while the server answers may be missing from this answer. Its adapter therefore counts
            # as busy until the next answer.
            busy = set(self._busy)
        listed = self._ask_server(now) if changed or now >= self._list_at else None
        if listed is not None:
            self._remove_versions(listed, now)
        with self._lock:
            actions = plan.plan(adapters, self._states, self._busy | busy, listed, now)
            self._busy |= {(action.name, action.uri) for action in actions}
        for action in actions:
            threading.Thread(target=self._act, args=(action,), name=action.name, daemon=True).start()

    def reports(self) -> AdapterReports:
        """Return the body of the answer to `GET /adapters`."""
        adapters = self._list.adapters or []
        with self._lock:
            states, listed = plan.keep_states(adapters, self._states), self._listed
        folder = self._settings.folder
        reports = [plan.report(item, states[item.name], plan.home_of(folder, item), listed) for item in adapters]
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
        """Do an action and store the state of its adapter afterwards; run in a thread of its own."""
        try:
            outcome = self._outcome(action)
        except ServerAway as error:
            log.info("%s: the server does not answer: %s", action.name, error)
            outcome = functools.partial(plan.after_no_answer, now=self._clock())
        except Exception as error:
            if not isinstance(error, (Problem, ServerRefused, OSError)):
                log.exception("%s", action)
            outcome = self._failure(action, error)
        with self._lock:
            self._busy.discard((action.name, action.uri))
            state = self._states.get(action.name)
            # The list may have changed the adapter's address meanwhile.
            if outcome is not None and state is not None and state.uri == action.uri:
                self._states[action.name] = outcome(state)
        if not isinstance(action, Unload):
            self._list_at = 0.0
            self._wake.set()

    def _outcome(self, action: Action) -> Outcome | None:
        """Do an action; return how it changes the state of its adapter, None after `Unload`.

        Raises:
            Problem, ServerAway, ServerRefused, OSError: when it cannot be done.
        """
        if isinstance(action, Prepare):
            home = plan.home_of(self._settings.folder, ListedAdapter(name=action.name, uri=action.uri))
            version, note = prepare_version(action.uri, self._sources.open(action.uri), home, self._room, self._check)
            if note:
                log.warning("%s: %s", action.name, note)
            served = (self._listed or {}).get(action.name) == str(version)
            return functools.partial(
                plan.after_preparation, version=version, note=note, served=served, now=self._clock()
            )
        if isinstance(action, Load):
            self._server.load(action.name, str(action.version), action.replaced)
            log.info("%s is served from %s (%s)", action.name, action.uri, action.version)
            return plan.after_loading
        self._server.unload(action.name)
        log.info("%s is no longer served", action.name)
        return None

    def _failure(self, action: Action, error: Exception) -> Outcome:
        text = one_line(str(error) or type(error).__name__)  # it may be what a server or a file says
        log.error("%s: %s", action.name, text)
        return functools.partial(
            plan.after_failure,
            problem=text,
            permanent=_is_permanent(error),
            loading=isinstance(action, Load),
            now=self._clock(),
        )

    def _check(self, version: Path) -> None:
        if has_large_header(version / WEIGHTS):
            base = None if self._base is None else self._settings.base
            with self._large:
                check_apart(version, base, self._settings.maximum_rank)
        else:
            check_adapter(version, self._base, self._settings.maximum_rank)

    def _remove_versions(self, listed: dict[str, str], now: float) -> None:
        with self._lock:
            folder = self._settings.folder
            busy = {plan.home_of(folder, ListedAdapter(name=name, uri=uri)) for name, uri in self._busy if uri}
            needed = plan.needed_versions(self._states.values(), listed)
        remove_versions(folder, needed, busy, self._unneeded_since, now, plan.KEPT_SECONDS)


def _is_permanent(error: Exception) -> bool:
    """Return whether a retry cannot help until somebody changes something."""
    if isinstance(error, (Problem, ServerRefused)):
        return error.permanent
    return not (isinstance(error, OSError) and may_pass(error))
