"""Decides what the loader does next, and what it reports of each adapter. Pure: no clock, no files, no network.

For each adapter of the list, the first row that applies decides:

| the adapter | action |
|---|---|
| is busy: an action on it is running | none |
| has not been checked yet, or the next check is due | Prepare: list its files, fetch and check new ones |
| has a version that the server does not serve, and no recent failure to load it | Load |
| otherwise | none |

An adapter that the server serves and the list does not name is unloaded. The server names the folder that it has loaded
each adapter from. Each version of an adapter has a folder of its own, so the folder tells which version is served, and
the loader does not have to remember it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rft_api.adapter_protocol import AdapterReport, ListedAdapter

LOOK_SECONDS = 60.0
"""Time between two checks of an address whose adapter is served."""
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
KEPT_SECONDS = 600.0
"""How long a version stays on disk after the server stops serving it: requests in flight may still read it."""


@dataclass(frozen=True)
class AdapterState:
    """The loader's state of an adapter of the list."""

    uri: str
    version: Path | None = None
    """Folder of the newest version that was fetched and checked."""
    problem: str = ""
    """Why the last attempt to fetch, check or load it failed; empty after a success."""
    permanent: bool = False
    """Whether another attempt cannot help until somebody changes something; about the problem."""
    note: str = ""
    """A remark for the user about an adapter that has no problem."""
    failures: int = 0
    """Attempts in a row that failed."""
    look_at: float = 0.0
    """When the next check of the address is due, in seconds of the clock."""
    load_at: float = 0.0
    """The earliest time to load it, in seconds of the clock."""


@dataclass(frozen=True)
class Prepare:
    """Fetch the newest version and check it."""

    name: str
    uri: str


@dataclass(frozen=True)
class Load:
    """Make the server serve a version."""

    name: str
    uri: str
    version: Path
    replaced: str | None
    """The folder of the version that the server serves under the name now."""


@dataclass(frozen=True)
class Unload:
    """Make the server stop serving a name."""

    name: str
    uri: str = ""


Action = Prepare | Load | Unload
Key = tuple[str, str]
"""Name and address."""


def plan(
    adapters: Sequence[ListedAdapter],
    states: Mapping[str, AdapterState],
    busy: Set[Key],
    listed: Mapping[str, str] | None,
    now: float,
) -> list[Action]:
    """Return the actions to start now.

    Args:
        adapters: the adapters of the list.
        states: the state of every adapter of the list, by name.
        busy: the adapters that an action is running on.
        listed: the adapters that the server serves, with the folders that they were loaded from; None when it has not
            just answered.
        now: the time in seconds.
    """
    actions: list[Action] = []
    for adapter in adapters:
        key, state = (adapter.name, adapter.uri), states[adapter.name]
        if key in busy:
            continue
        if now >= state.look_at:
            actions.append(Prepare(*key))
        elif listed is not None and state.version is not None and now >= state.load_at:
            serving = listed.get(adapter.name)
            if serving != str(state.version):
                actions.append(Load(*key, state.version, serving))
    busy_names = {name for name, _ in busy}
    extra_names = sorted((listed or {}).keys() - {adapter.name for adapter in adapters} - busy_names)
    return [*actions, *map(Unload, extra_names)]


def keep_states(adapters: Iterable[ListedAdapter], states: Mapping[str, AdapterState]) -> dict[str, AdapterState]:
    """Return the states of the adapters of the list; an adapter that is new or has a new address gets a fresh state."""
    return {
        adapter.name: state
        if (state := states.get(adapter.name)) is not None and state.uri == adapter.uri
        else AdapterState(adapter.uri)
        for adapter in adapters
    }


def after_preparation(state: AdapterState, version: Path, note: str, served: bool, now: float) -> AdapterState:
    """Return the state after a version was fetched and checked; a failure to load stays until loading succeeds."""
    if served or state.load_at <= 0:
        state = replace(state, problem="", permanent=False, failures=0)
    return replace(state, version=version, note=note, look_at=now + LOOK_SECONDS)


def after_failure(state: AdapterState, problem: str, permanent: bool, loading: bool, now: float) -> AdapterState:
    """Return the state after a failed attempt; the pause before the next attempt doubles with each failure."""
    pause = min(FIRST_PAUSE_SECONDS * 2 ** min(state.failures, 10), LONGEST_PAUSE_SECONDS)
    failures = state.failures + 1
    state = replace(state, problem=problem, permanent=permanent, failures=failures, look_at=now + pause)
    return replace(state, load_at=now + pause) if loading else state


def after_no_answer(state: AdapterState, now: float) -> AdapterState:
    """Return the state after the server did not answer, which is no failure of the adapter."""
    return replace(state, load_at=now + FIRST_PAUSE_SECONDS / 2)


def after_loading(state: AdapterState) -> AdapterState:
    """Return the state after loading. Whether the server serves the adapter follows from the server's next list."""
    return replace(state, problem="", permanent=False, failures=0, load_at=0.0)


def home_of(folder: Path, adapter: ListedAdapter) -> Path:
    """Return the folder of an adapter's versions. Each address has a folder of its own."""
    return folder / f"{adapter.name}-{hashlib.sha256(adapter.uri.encode()).hexdigest()[:12]}"


def report(adapter: ListedAdapter, state: AdapterState, home: Path, listed: Mapping[str, str] | None) -> AdapterReport:
    """Return what `GET /adapters` reports of an adapter.

    Args:
        adapter: the adapter.
        state: its state.
        home: the folder of its versions.
        listed: the server's last list of adapters and their folders; None when it does not answer.
    """
    serving = (listed or {}).get(adapter.name)
    is_ours = serving is not None and Path(serving).parent == home
    if state.problem:
        message = state.problem
        if serving is not None:
            message += "; until then the name answers as before"
    elif is_ours:
        message = state.note
        if state.version is not None and serving != str(state.version):
            message = "loading a newer version"
    elif listed is None and state.version is not None:
        message = "waiting for the server"
    else:
        message = "fetching" if state.version is None else "loading"
    stage: Literal["Loading", "Loaded", "Failed"] = "Failed" if state.problem else "Loaded" if is_ours else "Loading"
    return AdapterReport(name=adapter.name, uri=adapter.uri, state=stage, message=message, permanent=state.permanent)


def needed_versions(states: Iterable[AdapterState], listed: Mapping[str, str]) -> set[Path]:
    """Return the versions that have to stay on disk: the newest of each adapter, and those that the server serves."""
    return {state.version for state in states if state.version is not None} | set(map(Path, listed.values()))
