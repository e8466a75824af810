"""Jobs' lives disturbed in every way that clusters know: each ends as an undisturbed one does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from audit import OPERATOR
from lives import REWARDS, STAGES, Disturbance, Life
from meddling import Meddler
from pretending import Operator, running_operator
from proxy import Proxy
from support.patience import wait_until

KILLS = 50
LEASE_LOST = "the Lease could not be renewed for"


@pytest.fixture(scope="module")
def undisturbed(patient_kubectl, operator_kubeconfig, tmp_path_factory) -> list[dict[str, Any]]:
    """What a life leaves when nothing disturbs it."""
    log = tmp_path_factory.mktemp("undisturbed") / "log"
    with running_operator(operator_kubeconfig, log), Life(patient_kubectl) as life:
        life.live()
        remains = life.remains()
    assert {"Job", "Deployment", "InferenceEndpoint"} <= {item["kind"] for item in remains}
    return remains


@pytest.fixture
def operator(operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Operator]:
    with running_operator(operator_kubeconfig, tmp_path / "log") as running:
        yield running


@contextlib.contextmanager
def revived(operator: Operator) -> Iterator[None]:
    """Starts an operator again that has ended, as Kubernetes does; it may end when it has lost its Lease, only."""
    with Disturbance(lambda _: operator.revive(), 0.2, 0.2):
        yield
    assert operator.starts - 1 == operator.log().count(LEASE_LOST), operator.log()


@contextlib.contextmanager
def lives_at(stages: Sequence[str], kubectl, undisturbed) -> Iterator[None]:
    """Lives that go on, from one stage each, when the context begins; they end with it, as the undisturbed one did."""
    together = threading.Barrier(len(stages) + 1)

    def live(life: Life, stage: str) -> None:
        try:
            life.live(lambda reached: together.wait() if reached == stage else None)
        except BaseException:
            together.abort()
            raise

    with contextlib.ExitStack() as stack:
        lives = [stack.enter_context(Life(kubectl)) for _ in stages]
        pool = stack.enter_context(ThreadPoolExecutor(len(lives)))
        ends = [pool.submit(live, life, stage) for life, stage in zip(lives, stages, strict=True)]
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        if together.broken:
            errors = [error for end in ends if (error := end.exception())]
            raise next(error for error in errors if not isinstance(error, threading.BrokenBarrierError))
        yield
        for end in ends:
            end.result()
        for life in lives:
            life.assert_ends_as(undisturbed)


def test_an_operator_killed_at_random_moments(patient_kubectl, undisturbed, operator):
    wait_until(lambda: leads(operator))
    operator.kill()
    # The second start: the first one may have read all its code from the disk.
    begun = time.monotonic()
    operator.start()
    wait_until(lambda: leads(operator))
    starting = time.monotonic() - begun

    def kill(random: Random) -> None:
        # About half of the time it is only starting. The other times it leads, however long starting takes by now.
        if random.random() < 0.5:
            wait_until(lambda: leads(operator))
            time.sleep(random.uniform(0, starting))
        operator.kill()
        operator.start()

    with Disturbance(kill, 0, starting) as kills:
        while kills.count < KILLS:
            with Life(patient_kubectl) as life:
                life.live()
                life.assert_ends_as(undisturbed)


def test_an_api_server_killed_and_started_again(plane, patient_kubectl, undisturbed, operator):
    with revived(operator), lives_at(STAGES, patient_kubectl, undisturbed):
        for _ in range(2):
            plane.api_server.kill()
            plane.api_server.start()
            plane.wait_until_ready()
            time.sleep(5)


def test_connections_cut_and_silent(plane, patient_kubectl, undisturbed, tmp_path):
    with Proxy(plane.port) as proxy:
        user = plane.authority.issue(OPERATOR)
        kubeconfig = plane.write_kubeconfig("proxied", user, port=proxy.port)

        def disturb(random):
            if random.random() < 0.2:
                proxy.swallow(3)
                time.sleep(random.uniform(0, 4))
            proxy.cut()

        with (
            running_operator(kubeconfig, tmp_path / "log") as operator,
            revived(operator),
            lives_at(STAGES[:3], patient_kubectl, undisturbed),
            Disturbance(disturb, 0.5, 1.5),
        ):
            time.sleep(15)


def test_somebody_else_who_writes_the_same_objects(patient_kubectl, undisturbed, operator, audit):
    with Life(patient_kubectl) as life:
        meddler = Meddler(patient_kubectl, life.namespace)
        with Disturbance(lambda _: life.kubelet.serve(REWARDS, "reward-server"), 0.3, 0.3):
            with Disturbance(meddler.meddle, 0, 0.3) as meddling:
                life.live()
                time.sleep(5)
                wait_until(lambda: meddling.count > 40, lambda: meddling.count)
            # How the rewards were at the job's end is a matter of chance here.
            life.assert_ends_as(undisturbed, but="RewardsReady")
        meddler.sign("at-last")

        def is_quiet() -> bool:
            versions, writes = life.versions(), audit.writes(life.namespace)
            time.sleep(5)
            return life.versions() == versions and audit.writes(life.namespace) == writes

        wait_until(is_quiet, watch=lambda: None)  # it answers the last change, and then writes nothing any more
        writes = audit.writes(life.namespace)
        assert set(meddler.signed().values()) == {("at-last", "at-last")}
        # Every change was answered once or twice, with a look at what else there is to do.
        assert len(writes) < 10 * meddling.count
        life.assert_ends_as(undisturbed, but="RewardsReady")


def test_two_operators_of_which_the_one_that_leads_hangs_and_the_other_is_killed(
    patient_kubectl, undisturbed, operator_kubeconfig, tmp_path
):
    with (
        running_operator(operator_kubeconfig, tmp_path / "first", "operator-0") as first,
        running_operator(operator_kubeconfig, tmp_path / "second", "operator-1") as second,
    ):
        wait_until(lambda: leads(first) or leads(second))
        hanging, other = (first, second) if leads(first) else (second, first)
        with revived(hanging), lives_at(STAGES[:3], patient_kubectl, undisturbed):
            hanging.pause()
            wait_until(lambda: leads(other))
            hanging.go_on()
            wait_until(lambda: hanging.starts == 2)  # it has seen that it leads no more
            other.kill()
            wait_until(lambda: leads(hanging))


def leads(operator: Operator) -> bool:
    return "rft_operator_leader 1.0" in operator.metrics()
