"""What a plan looks at wakes it: references are read from manifests, and worlds are gathered from parsed objects."""

from __future__ import annotations

import pytest
from worlds_from_yaml import CASES, plan_objects, read_case, router_of

from rft_api.conditions import has_ended
from rft_operator.kube.kinds import KINDS, POD
from rft_operator.kube.store import Key, Store


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_what_a_plan_looks_at_wakes_it(file, monkeypatch):
    case = read_case(file)
    of, objects, now = case.pop("of"), case.pop("objects"), case.pop("now")
    router, key = router_of(objects), Key(*of.split("/"))
    looked_at: set[Key] = set()
    pods_of: set[Key] = set()
    get, children = Store.get, Store.children

    def recording_get(store, asked):
        looked_at.add(asked)
        return get(store, asked)

    def recording_children(store, owner, kind, *rest):
        pods_of.update({owner} if kind is POD else ())
        return children(store, owner, kind, *rest)

    monkeypatch.setattr(Store, "get", recording_get)
    monkeypatch.setattr(Store, "children", recording_children)
    plan_objects(of, objects, now, **case)
    ended = key.kind == "RFTJob" and has_ended((get(router.store, key) or {}).get("status", {}))
    # A job that has ended has no more use for its rewards; that jobs share a base endpoint is the endpoint's matter.
    unheard = {"RFTJob", "RewardFunction"} if ended else {"RFTJob"}
    assert looked_at >= {key}
    for other in looked_at - {key}:
        if other.kind not in unheard:
            obj = get(router.store, other) or {"metadata": {"name": other.name, "namespace": other.namespace}}
            assert key in router.affected(other.kind, obj), other
    for owner in pods_of:
        labels = KINDS[owner.kind].child_labels(owner.name)
        pod = {"metadata": {"name": "pod", "namespace": owner.namespace, "labels": labels}}
        assert key in router.affected("Pod", pod), owner
