"""An operator that starts before its custom resource definitions are there: it waits for them and then watches."""

from __future__ import annotations

from cluster.kubectl import CRDS
from lives import job, wait_for
from pretending import running_operator
from support.patience import wait_until


def test_definitions_may_come_after_the_operator(plane, operator_kubeconfig, namespace_there, tmp_path):
    kubectl = plane.kubectl
    kubectl.delete("-f", str(CRDS))
    with running_operator(operator_kubeconfig, tmp_path / "log") as operator:
        waiting = "waiting for the custom resource definitions of inferenceendpoints"
        wait_until(lambda: waiting in operator.log(), explain=operator.log)
        kubectl.apply_definitions(CRDS)
        for name in ("first", "second"):
            # The second one is found by a watch: everything is read anew only every ten minutes.
            kubectl.apply({**job(suspend=True), "metadata": {"name": name}}, namespace=namespace_there)
            wait_for(kubectl, namespace_there, f"rftjob/{name}", "Succeeded", "Suspended")
