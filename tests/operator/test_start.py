"""An operator that starts before its custom resource definitions are there: it waits for them and then watches."""

from __future__ import annotations

import time

from lives import ROOT, apply_crds, job, wait_for
from pretending import running_operator


def test_definitions_may_come_after_the_operator(plane, operator_kubeconfig, namespace_there, tmp_path):
    kubectl = plane.kubectl
    kubectl("delete", "-f", str(ROOT / "crds"), timeout=300)
    with running_operator(operator_kubeconfig, tmp_path / "log") as operator:
        deadline = time.monotonic() + 180
        while "waiting for the custom resource definitions of inferenceendpoints" not in operator.log():
            assert time.monotonic() < deadline, operator.log()
            time.sleep(0.2)
        apply_crds(kubectl)
        for name in ("first", "second"):
            # The second one is found by a watch: everything is read anew only every ten minutes.
            kubectl.apply({**job(suspend=True), "metadata": {"name": name}}, namespace=namespace_there)
            wait_for(kubectl, namespace_there, f"rftjob/{name}", "Succeeded", "Suspended")
