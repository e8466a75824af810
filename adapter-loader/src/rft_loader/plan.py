"""Decides what the loader does next, and what it says of each adapter. Pure: no clock, no files, no network.

For each adapter of the list, the first row that fits:

| the adapter | action |
|---|---|
| is being worked on | none |
| has not been looked at, or its time has come | Prepare: look at its address, fetch what is new, check it |
| has a version that the server does not serve, and loading it has not just failed | Load |
| otherwise | none |

An adapter that the server lists and the file does not: Unload. What the server serves is known by the folder that it
says it has loaded from: each version of an adapter has one of its own, so nothing has to be remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rft_api.adapter_protocol import AdapterReport, ListedAdapter

LOOK_SECONDS = 60.0
"""Time between two looks at an address whose adapter is served."""
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
KEPT_SECONDS = 600.0
"""How long a version stays on disk that is not served any more: requests in flight may still read it."""


@dataclass(frozen=True)
class Known:
    """What the loader knows of an adapter of the list."""

    uri: str
    version: Path | None = None
    """Folder of the newest version that was fetched and checked."""
    problem: str = ""
    """Why the last try to fetch, check or load it failed."""
    note: str = ""
    """What else there is to say of it."""
    failures: int = 0
    """Tries in a row that failed."""
    look_at: float = 0.0
    """When to look at the address again."""
    load_at: float = 0.0
    """When to load at the earliest."""


@dataclass(frozen=True)
class Prepare:
    """Fetch the newest version and check it."""

    name: str
    uri: str


@dataclass(frozen=True)
class Load:
    """Have the server serve a version."""

    name: str
    uri: str
    version: Path
    replaced: str | None
    """The folder of what the server serves under the name now."""


@dataclass(frozen=True)
class Unload:
    """Have the server forget a name."""

    name: str
    uri: str = ""


Action = Prepare | Load | Unload
Key = tuple[str, str]
"""Name and address."""


def plan(
    wanted: Sequence[ListedAdapter],
    known: Mapping[str, Known],
    busy: Set[Key],
    listed: Mapping[str, str] | None,
    now: float,
) -> list[Action]:
    """What to do next.

    Args:
        wanted: the list.
        known: what is known, for every adapter of the list.
        busy: what is being worked on.
        listed: the adapters that the server serves, with the folders that they were loaded from; none when it has not
            just answered.
        now: seconds.
    """
    actions: list[Action] = []
    for adapter in wanted:
        key, state = (adapter.name, adapter.uri), known[adapter.name]
        if key in busy:
            continue
        if now >= state.look_at:
            actions.append(Prepare(*key))
        elif listed is not None and state.version is not None and now >= state.load_at:
            serving = listed.get(adapter.name)
            if serving != str(state.version):
                actions.append(Load(*key, state.version, serving))
    working = {name for name, _ in busy}
    unwanted = sorted((listed or {}).keys() - {adapter.name for adapter in wanted} - working)
    return [*actions, *map(Unload, unwanted)]


def remember(wanted: Iterable[ListedAdapter], known: Mapping[str, Known]) -> dict[str, Known]:
    """What is known of the adapters of the list; nothing yet of a new one or a new address."""
    return {
        adapter.name: state
        if (state := known.get(adapter.name)) is not None and state.uri == adapter.uri
        else Known(adapter.uri)
        for adapter in wanted
    }


def prepared(known: Known, version: Path, note: str, served: bool, now: float) -> Known:
    """After fetching and checking. A failure to load counts until loading succeeds."""
    if served or known.load_at <= 0:
        known = replace(known, problem="", failures=0)
    return replace(known, version=version, note=note, look_at=now + LOOK_SECONDS)


def failed(known: Known, problem: str, loading: bool, now: float) -> Known:
    """After a try that failed; the next comes later each time."""
    pause = min(FIRST_PAUSE_SECONDS * 2 ** min(known.failures, 10), LONGEST_PAUSE_SECONDS)
    known = replace(known, problem=problem, failures=known.failures + 1, look_at=now + pause)
    return replace(known, load_at=now + pause) if loading else known


def postponed(known: Known, now: float) -> Known:
    """After a try to load that found no server; the adapter cannot help it."""
    return replace(known, load_at=now + FIRST_PAUSE_SECONDS / 2)


def loaded(known: Known) -> Known:
    """After loading; whether the server serves it now, its next list will tell."""
    return replace(known, problem="", failures=0, load_at=0.0)


def home_of(folder: Path, adapter: ListedAdapter) -> Path:
    """The folder of an adapter's versions: another one for another address."""
    return folder / f"{adapter.name}-{hashlib.sha256(adapter.uri.encode()).hexdigest()[:12]}"


def report(adapter: ListedAdapter, known: Known, home: Path, listed: Mapping[str, str] | None) -> AdapterReport:
    """What `GET /adapters` says of an adapter.

    Args:
        adapter: the adapter.
        known: what is known of it.
        home: the folder of its versions.
        listed: what the server said that it serves, last; none when it does not answer.
    """
    serving = (listed or {}).get(adapter.name)
    ours = serving is not None and Path(serving).parent == home
    if known.problem:
        message = known.problem
        if serving is not None:
            message += "; until then the name answers as before"
    elif ours:
        message = known.note
        if known.version is not None and serving != str(known.version):
            message = "loading a newer version"
    elif listed is None and known.version is not None:
        message = "waiting for the server"
    else:
        message = "fetching" if known.version is None else "loading"
    state: Literal["Loading", "Loaded", "Failed"] = "Failed" if known.problem else "Loaded" if ours else "Loading"
    return AdapterReport(name=adapter.name, uri=adapter.uri, state=state, message=message)


def needed(known: Iterable[Known], listed: Mapping[str, str]) -> set[Path]:
    """The versions that have to stay on disk."""
    return {state.version for state in known if state.version is not None} | set(map(Path, listed.values()))
