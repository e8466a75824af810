"""What the loader decides, as a table."""

from dataclasses import replace
from pathlib import Path

import pytest

from rft_api.adapter_protocol import AdapterReport, ListedAdapter
from rft_loader import plan
from rft_loader.plan import AdapterState, Load, Prepare, Unload

URI = "s3://bucket/run/best"
NOW = 1000.0
FOLDER = Path("/models/adapters")
A = ListedAdapter(name="a", uri=URI)
HOME = plan.home_of(FOLDER, A)
OLD, NEW = HOME / "old", HOME / "new"
READY = AdapterState(URI, NEW, look_at=NOW + 30)


@pytest.mark.parametrize(
    ("state", "busy", "listed", "actions"),
    [
        pytest.param(AdapterState(URI), set(), {}, [Prepare("a", URI)], id="new"),
        pytest.param(AdapterState(URI), set(), None, [Prepare("a", URI)], id="new, server away"),
        pytest.param(AdapterState(URI), {("a", URI)}, {}, [], id="busy"),
        pytest.param(
            AdapterState(URI), {("a", "s3://before")}, {}, [Prepare("a", URI)], id="busy with the address before"
        ),
        pytest.param(READY, set(), {}, [Load("a", URI, NEW, None)], id="ready"),
        pytest.param(READY, set(), None, [], id="ready, server away"),
        pytest.param(READY, set(), {"a": str(NEW)}, [], id="served"),
        pytest.param(READY, set(), {"a": str(OLD)}, [Load("a", URI, NEW, str(OLD))], id="older version served"),
        pytest.param(READY, {("a", URI)}, {"a": str(OLD)}, [], id="being replaced"),
        pytest.param(
            AdapterState(URI, NEW, look_at=NOW), set(), {"a": str(NEW)}, [Prepare("a", URI)], id="time to look again"
        ),
        pytest.param(
            AdapterState(URI, problem="no", failures=1, look_at=NOW + 1), set(), {}, [], id="failed, not yet its time"
        ),
        pytest.param(
            AdapterState(URI, problem="no", look_at=NOW), set(), {}, [Prepare("a", URI)], id="failed, its time"
        ),
        pytest.param(
            AdapterState(URI, NEW, "refused", look_at=NOW + 9, load_at=NOW + 9),
            set(),
            {},
            [],
            id="refused, not yet its time",
        ),
        pytest.param(
            AdapterState(URI, NEW, "refused", look_at=NOW + 9, load_at=NOW),
            set(),
            {},
            [Load("a", URI, NEW, None)],
            id="refused, its time",
        ),
        pytest.param(
            AdapterState(URI, OLD, "the newer one is broken", look_at=NOW + 9),
            set(),
            {},
            [Load("a", URI, OLD, None)],
            id="server restarted while a newer version fails",
        ),
    ],
)
def test_the_actions_for_an_adapter_of_the_list(state, busy, listed, actions):
    assert plan.plan([A], {"a": state}, busy, listed, NOW) == actions


@pytest.mark.parametrize(
    ("busy", "listed", "actions"),
    [
        (set(), {"x": "/x", "y": "/y"}, [Unload("x"), Unload("y")]),
        ({("x", "")}, {"x": "/x"}, []),
        ({("x", "s3://before")}, {"x": "/x"}, []),
        (set(), {}, []),
        (set(), None, []),
    ],
)
def test_what_is_not_wanted_is_unloaded(busy, listed, actions):
    assert plan.plan([], {}, busy, listed, NOW) == actions


def test_a_failing_adapter_changes_nothing_for_others():
    b = ListedAdapter(name="b", uri="s3://bucket/b")
    states = {"a": AdapterState(URI, problem="no", look_at=NOW + 5), "b": AdapterState(b.uri)}
    assert plan.plan([A, b], states, set(), {}, NOW) == [Prepare("b", b.uri)]


def test_another_address_is_looked_at_anew():
    states = plan.keep_states([A], {"a": AdapterState("s3://before", OLD), "gone": AdapterState("s3://gone")})
    assert states == {"a": AdapterState(URI)}
    assert plan.keep_states([A], {"a": READY}) == {"a": READY}


def test_pauses_grow_to_five_minutes():
    state, pauses = AdapterState(URI), []
    for _ in range(5000):
        state = plan.after_failure(state, "no", permanent=False, loading=False, now=0.0)
        pauses.append(state.look_at)
    assert pauses[:7] == [10, 20, 40, 80, 160, 300, 300]
    assert set(pauses[6:]) == {300}


def test_a_refusal_is_told_until_loading_succeeds():
    refused = plan.after_failure(READY, "no room", permanent=True, loading=True, now=NOW)
    fetched = plan.after_preparation(refused, NEW, "", served=False, now=NOW + 10)
    assert fetched.problem == "no room"
    assert plan.after_loading(fetched) == replace(READY, look_at=fetched.look_at)
    broken = plan.after_failure(AdapterState(URI), "no such bucket", permanent=True, loading=False, now=NOW)
    mended = plan.after_preparation(broken, NEW, "", served=False, now=NOW + 10)
    assert (mended.problem, mended.permanent) == ("", False)


@pytest.mark.parametrize(
    ("adapter_state", "listed", "state", "message"),
    [
        (AdapterState(URI), {}, "Loading", "fetching"),
        (AdapterState(URI), None, "Loading", "fetching"),
        (READY, {}, "Loading", "loading"),
        (READY, None, "Loading", "waiting for the server"),
        (READY, {"a": str(NEW)}, "Loaded", ""),
        (READY, {"a": str(OLD)}, "Loaded", "loading a newer version"),
        (READY, {"a": "/models/adapters/a-other/new"}, "Loading", "loading"),
        (AdapterState(URI), {"a": str(NEW)}, "Loaded", ""),
        (AdapterState(URI, problem="broken"), {}, "Failed", "broken"),
        (AdapterState(URI, OLD, "broken"), {"a": str(OLD)}, "Failed", "broken; until then the name answers as before"),
    ],
)
def test_the_report(adapter_state, listed, state, message):
    report = plan.report(A, adapter_state, HOME, listed)
    assert report.to_json_object() == {
        "name": "a", "uri": URI, "state": state, "message": message, "permanent": False,
    }  # fmt: skip


def test_a_report_says_whether_another_attempt_cannot_help():
    state = plan.after_failure(AdapterState(URI), "no such bucket", permanent=True, loading=False, now=NOW)
    assert plan.report(A, state, HOME, {}).permanent
    passing = plan.after_failure(state, "no answer", permanent=False, loading=False, now=NOW)
    assert not plan.report(A, passing, HOME, {}).permanent


def test_a_report_of_an_older_loader_can_be_read():
    assert not AdapterReport(name="a", uri=URI, state="Failed").permanent
