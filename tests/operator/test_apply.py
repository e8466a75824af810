"""What is carried out of a plan, and what the log says of it: a line per write, with why."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from recording_cluster import RecordingCluster
from worlds_from_yaml import router_of

from rft_operator.kube import kinds
from rft_operator.kube.apply import Applier
from rft_operator.kube.plan import Deletion, DesiredObject, Plan
from rft_operator.kube.store import Key

OWNER = Key("RewardFunction", "n", "r")
METADATA = {
    "name": "r-reward",
    "namespace": "n",
    "labels": kinds.REWARD_FUNCTION.child_labels("r"),
    "ownerReferences": [{"kind": "RewardFunction", "name": "r", "uid": "u"}],
}


def service(port: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": METADATA, "spec": {"ports": [{"port": port}]}}


class Writes:
    """An applier over an API server that is a dictionary."""

    def __init__(self) -> None:
        self.router = router_of([])
        self.cluster = RecordingCluster(self.router.store)
        self._applier = self._start()

    def _start(self) -> Applier:
        return Applier(
            self.cluster, self.router.store, lambda writer, answer: self.router.store_response(writer, answer)
        )

    def restart(self) -> None:
        self._applier = self._start()

    def execute(self, **plan: Any) -> None:
        asyncio.run(self._applier.execute(OWNER, "u", Plan(**plan)))

    def write_status(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        obj = {"apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "status": before}
        asyncio.run(self._applier.write_status({**obj, "metadata": {**METADATA, "name": "r", "uid": "u"}}, after))


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def lines(caplog):
    """The lines since the last look."""
    caplog.set_level(logging.INFO, "rft_operator.kube.apply")

    def read() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return read


def test_every_write_is_logged_with_why(writes, lines):
    writes.execute(desired=[DesiredObject(service(1), "trainers use it")])
    assert lines() == ["RewardFunction n/r: created Service r-reward: trainers use it"]
    writes.execute(desired=[DesiredObject(service(1), "trainers use it")])
    assert (lines(), len(writes.cluster.sent)) == ([], 1)
    writes.execute(desired=[DesiredObject(service(2), "trainers use it")])
    assert lines() == ["RewardFunction n/r: updated Service r-reward: trainers use it"]
    changed = {**service(3), "metadata": {**METADATA, "uid": "s", "resourceVersion": "5000"}}
    writes.router.store_event("Service", "MODIFIED", changed)
    writes.execute(desired=[DesiredObject(service(2), "trainers use it")])
    (line,) = lines()
    assert "restored (after changes by others) Service r-reward" in line
    writes.restart()
    writes.execute(desired=[DesiredObject(service(2), "trainers use it")])
    (line,) = lines()
    assert "applied (for the first time since the operator started) Service r-reward" in line
    assert len(writes.cluster.sent) == 4


def test_what_others_add_is_left_alone_and_what_they_change_is_restored(writes, lines):
    def meddled(version: int, **metadata: Any) -> dict[str, Any]:
        return {**service(1), "metadata": {**METADATA, "uid": "s", "resourceVersion": str(version), **metadata}}

    labels, annotations = METADATA["labels"], {"deployment.kubernetes.io/revision": "1"}
    ours = {"note": "ours"}
    desired = {**service(1), "metadata": {**METADATA, "annotations": ours}}
    writes.execute(desired=[DesiredObject(desired, "trainers use it")])
    assert len(lines()) == 1
    added = meddled(5000, annotations={**ours, **annotations}, labels={**labels, "team": "a"})
    writes.router.store_event("Service", "MODIFIED", added)
    writes.execute(desired=[DesiredObject(desired, "trainers use it")])
    assert lines() == []
    changes: list[dict[str, Any]] = [{"annotations": {"note": "theirs"}}, {"annotations": {}}, {"labels": {}}]
    for version, change in enumerate(changes, start=6000):
        writes.router.store_event("Service", "MODIFIED", meddled(version, **{"annotations": ours, **change}))
        writes.execute(desired=[DesiredObject(desired, "trainers use it")])
        (line,) = lines()
        assert "restored (after changes by others)" in line


def test_what_is_created_once_and_what_is_deleted_is_logged_too(writes, lines):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {**METADATA, "name": "token"}}
    writes.execute(desired=[DesiredObject(secret, "it is asked for", create_only=True)])
    writes.execute(deletions=[Deletion(kinds.SERVICE, "r-reward", "s", "nobody needs it")])
    writes.execute(deletions=[Deletion(kinds.SERVICE, "gone", "s", "nobody needs it")])
    assert lines() == [
        "RewardFunction n/r: created Secret token: it is asked for",
        "RewardFunction n/r: deleted Service r-reward: nobody needs it",
    ]


def test_a_status_says_what_is_new_in_it(writes, lines):
    starting = {"conditions": [{"type": "Ready", "status": "False", "reason": "Starting"}]}
    writes.write_status({}, starting)
    writes.write_status(starting, {**starting, "url": "http://r"})
    writes.write_status(starting, starting)
    assert lines() == [
        "RewardFunction n/r: wrote the status: Ready is False (Starting)",
        "RewardFunction n/r: wrote the status: url",
    ]
