"""An operator that looks after some namespaces: it needs no permissions in others, and leaves them alone."""

from __future__ import annotations

import json

from audit import OPERATOR
from lives import Life, bind, job, wait_for
from pretending import running_operator

from rft_operator.kube.permissions import build_role, build_watch_role

OTHER = "rft-operator-of-some"


def test_only_the_listed_namespaces_are_looked_after(plane, patient_kubectl, audit, tmp_path):
    kubectl = patient_kubectl
    with Life(kubectl) as first, Life(kubectl) as second, kubectl.namespace("not-listed") as left_alone:
        listed = [first.namespace, second.namespace]
        for role in (build_role("default"), *map(build_watch_role, listed)):
            bind(kubectl, role, OPERATOR)
        kubeconfig = plane.write_kubeconfig(OTHER, plane.authority.issue(OPERATOR))
        kubectl.apply(job(), namespace=left_alone)
        arguments = [f"--watch-namespace={name}" for name in listed]
        with running_operator(kubeconfig, tmp_path / "log", arguments=arguments) as operator:
            first.live()
            second.live()
            # A watch that began before has news, and so has the list of a new start.
            kubectl.delete("rftjob", "job", f"--namespace={first.namespace}")
            operator.kill()
            kubectl.apply(job(suspend=True), namespace=first.namespace)
            operator.start()
            wait_for(kubectl, first.namespace, "rftjob/job", "Succeeded", "Suspended")
            found = kubectl.get("rftjob", "job", f"--namespace={left_alone}")
    assert "status" not in found
    requests = audit.requests()
    assert {request.namespace for request in requests} <= {*listed, "default"}
    assert [request for request in requests if request.code == 403] == [], json.dumps(operator.log()[-3000:])
