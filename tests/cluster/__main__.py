"""`make cluster`: the whole test cluster for a person to play with, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time

from cluster.build import find_binaries
from cluster.control_plane import ControlPlane
from cluster.kubectl import CRDS
from cluster.node import Node, clean_up, why_impossible
from cluster.object_store import ObjectStore
from cluster.prometheus import Prometheus
from cluster.runs import RunFolder, remove_abandoned
from cluster.versions import CONTROL_PLANE, NODE


def report(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--no-node", action="store_true", help="pods stay pending; needs no root")
    arguments = parser.parse_args()
    impossible = why_impossible()
    with_node = not arguments.no_node and not impossible
    # A closed terminal or a kill ends it as Ctrl-C does, which a shell's background jobs do not heed by default.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    remove_abandoned(clean_up)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        run = RunFolder()
        stack.callback(run.remove)
        names = (*CONTROL_PLANE, "versitygw", "prometheus", *(NODE if with_node else ()))
        binaries = find_binaries(names, report)
        plane = ControlPlane(run.path / "control-plane", binaries)
        stack.callback(plane.stop)
        plane.start()
        report("The control plane is up")
        plane.kubectl.apply_definitions(CRDS)
        if with_node:
            node = Node(run.path / "node", plane, binaries, report)
            stack.callback(node.stop)
            node.start()
            report("The node is ready")
        store = ObjectStore(run.path / "s3", binaries["versitygw"])
        stack.callback(store.stop)
        store.start()
        prometheus = Prometheus(run.path / "prometheus", binaries["prometheus"])
        stack.callback(prometheus.stop)
        prometheus.start()
        show(plane, store, prometheus, impossible if not with_node else None)
        while True:
            time.sleep(1)
            for server in (plane.etcd, plane.api_server, plane.controller_manager, plane.scheduler):
                server.check()


def show(plane: ControlPlane, store: ObjectStore, prometheus: Prometheus, without_node: str | None) -> None:
    credentials = "\n".join(f"    export {name}={value}" for name, value in store.environment().items())
    pods = f"\nPods stay pending: there is no node here ({without_node})\n" if without_node else ""
    report(f"""
The cluster runs, with the CRDs of this repository applied. In another terminal:

    export KUBECONFIG={plane.kubeconfig}
    alias kubectl={plane.kubectl.binary}
    kubectl get nodes,crds

S3 at {store.url} (for pods: {store.pod_url}); a bucket is a folder in {store.buckets}

{credentials}

Prometheus at {prometheus.url}
{pods}
Logs are in {plane.kubeconfig.parents[1]}. Ctrl-C ends and removes everything.
""")


if __name__ == "__main__":
    main()
