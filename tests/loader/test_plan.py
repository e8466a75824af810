"""What the loader decides, as a table."""

from pathlib import Path

import pytest

from rft_api.adapter_protocol import ListedAdapter
from rft_loader import plan
from rft_loader.plan import Known, Load, Prepare, Unload

URI = "s3://bucket/run/best"
NOW = 1000.0
FOLDER = Path("/models/adapters")
A = ListedAdapter(name="a", uri=URI)
HOME = plan.home_of(FOLDER, A)
OLD, NEW = HOME / "old", HOME / "new"
READY = Known(URI, NEW, look_at=NOW + 30)


@pytest.mark.parametrize(
    ("known", "busy", "listed", "actions"),
    [
        pytest.param(Known(URI), set(), {}, [Prepare("a", URI)], id="new"),
        pytest.param(Known(URI), set(), None, [Prepare("a", URI)], id="new, server away"),
        pytest.param(Known(URI), {("a", URI)}, {}, [], id="busy"),
        pytest.param(Known(URI), {("a", "s3://before")}, {}, [Prepare("a", URI)], id="busy with the address before"),
        pytest.param(READY, set(), {}, [Load("a", URI, NEW, None)], id="ready"),
        pytest.param(READY, set(), None, [], id="ready, server away"),
        pytest.param(READY, set(), {"a": str(NEW)}, [], id="served"),
        pytest.param(READY, set(), {"a": str(OLD)}, [Load("a", URI, NEW, str(OLD))], id="older version served"),
        pytest.param(READY, {("a", URI)}, {"a": str(OLD)}, [], id="being replaced"),
        pytest.param(
            Known(URI, NEW, look_at=NOW), set(), {"a": str(NEW)}, [Prepare("a", URI)], id="time to look again"
        ),
        pytest.param(
            Known(URI, problem="no", failures=1, look_at=NOW + 1), set(), {}, [], id="failed, not yet its time"
        ),
        pytest.param(Known(URI, problem="no", look_at=NOW), set(), {}, [Prepare("a", URI)], id="failed, its time"),
        pytest.param(
            Known(URI, NEW, "refused", look_at=NOW + 9, load_at=NOW + 9), set(), {}, [], id="refused, not yet its time"
        ),
        pytest.param(
            Known(URI, NEW, "refused", look_at=NOW + 9, load_at=NOW),
            set(),
            {},
            [Load("a", URI, NEW, None)],
            id="refused, its time",
        ),
        pytest.param(
            Known(URI, OLD, "the newer one is broken", look_at=NOW + 9),
            set(),
            {},
            [Load("a", URI, OLD, None)],
            id="server restarted while a newer version fails",
        ),
    ],
)
def test_a_wanted_adapter(known, busy, listed, actions):
    assert plan.plan([A], {"a": known}, busy, listed, NOW) == actions


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
    known = {"a": Known(URI, problem="no", look_at=NOW + 5), "b": Known(b.uri)}
    assert plan.plan([A, b], known, set(), {}, NOW) == [Prepare("b", b.uri)]


def test_another_address_is_looked_at_anew():
    known = plan.remember([A], {"a": Known("s3://before", OLD), "gone": Known("s3://gone")})
    assert known == {"a": Known(URI)}
    assert plan.remember([A], {"a": READY}) == {"a": READY}


def test_pauses_grow_to_five_minutes():
    known, pauses = Known(URI), []
    for _ in range(5000):
        known = plan.failed(known, "no", loading=False, now=0.0)
        pauses.append(known.look_at)
    assert pauses[:7] == [10, 20, 40, 80, 160, 300, 300]
    assert set(pauses[6:]) == {300}


def test_a_refusal_is_told_until_loading_succeeds():
    refused = plan.failed(READY, "no room", loading=True, now=NOW)
    fetched = plan.prepared(refused, NEW, "", served=False, now=NOW + 10)
    assert fetched.problem == "no room"
    assert plan.loaded(fetched).problem == ""
    broken = plan.failed(Known(URI), "no such bucket", loading=False, now=NOW)
    assert plan.prepared(broken, NEW, "", served=False, now=NOW + 10).problem == ""


@pytest.mark.parametrize(
    ("known", "listed", "state", "message"),
    [
        (Known(URI), {}, "Loading", "fetching"),
        (Known(URI), None, "Loading", "fetching"),
        (READY, {}, "Loading", "loading"),
        (READY, None, "Loading", "waiting for the server"),
        (READY, {"a": str(NEW)}, "Loaded", ""),
        (READY, {"a": str(OLD)}, "Loaded", "loading a newer version"),
        (READY, {"a": "/models/adapters/a-other/new"}, "Loading", "loading"),
        (Known(URI), {"a": str(NEW)}, "Loaded", ""),
        (Known(URI, problem="broken"), {}, "Failed", "broken"),
        (Known(URI, OLD, "broken"), {"a": str(OLD)}, "Failed", "broken; until then the name answers as before"),
    ],
)
def test_what_is_said(known, listed, state, message):
    said = plan.report(A, known, HOME, listed)
    assert said.to_json_object() == {"name": "a", "uri": URI, "state": state, "message": message}
