"""The command of the operator: connect, serve metrics, watch, and reconcile while this replica is the leader."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import re
import socket
import sys
import uuid
from decimal import Decimal
from typing import Any

import httpx
import kopf
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from rft_api.bounds import Bounds
from rft_api.foreign.small_server import Page, SmallServer
from rft_api.model import format_location
from rft_api.price import AMOUNT_PATTERN
from rft_api.reward_function import Egress
from rft_operator.kube.cluster import connect
from rft_operator.kube.leader import Election, LeadershipLost
from rft_operator.pods.gateways import MAXIMUM_BYTES, Gateways
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.pods.transport import PodTransport
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.reconciler import Reconciler
from rft_operator.reconcile.resync import run_loop, wait_for_definitions
from rft_operator.reconcile.routing import Router
from rft_operator.reconcile.watches import build_registry, build_settings
from rft_operator.resources import RESOURCES
from rft_operator.settings import Images, PackageIndex, Settings
from rft_operator.status.allowance import LogLimit

log = logging.getLogger(__name__)

GC_THRESHOLD = 5000
"""Number of allocations after which the garbage collector runs."""
NESTING_LIMIT = 40_000
"""Levels of calls. The API server stores objects with 10,000 levels, and a watch that cannot read one never goes on."""
SWITCH_SECONDS = 0.001
"""Time for which the thread that makes the metrics computes until the event loop is heard again; Python's 5 ms would be
lost each time the loop waits for something meanwhile."""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, which is that of the process when `arguments` is None."""
    parser = argparse.ArgumentParser(prog="python -m rft_operator", description="Run the operator.")
    parser.add_argument("--trainer-image", required=True, help="image of the trainer's pods")
    parser.add_argument("--reward-image", required=True, help="image of the reward servers")
    parser.add_argument("--server-cuda-image", required=True, help="image of vLLM for GPUs")
    parser.add_argument("--server-cpu-image", required=True, help="image of vLLM for CPUs")
    parser.add_argument("--loader-image", required=True, help="image that fetches models and adapters")
    parser.add_argument(
        "--namespace", default=os.environ.get("POD_NAMESPACE", "default"), help="namespace of the operator itself"
    )
    parser.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="namespace to watch; may be given several times; all namespaces when it is not given",
    )
    parser.add_argument("--metrics-namespace", help="namespace of Prometheus, for network policies")
    parser.add_argument(
        "--exclusive-gateway",
        metavar="URL",
        help="base URL of the gateway for clients: the status of endpoints has it, and network policies let only the "
        "gateway, judges, the operator and Prometheus ask servers",
    )
    parser.add_argument("--package-index", metavar="URL", help="package index for reward code (PyPI)")
    parser.add_argument(
        "--package-egress",
        action="append",
        type=_parse_egress,
        metavar="CIDR:PORT",
        help="destination of the package index; may be given several times (0.0.0.0/0:443)",
    )
    parser.add_argument(
        "--bounds",
        type=_parse_bounds,
        default=Bounds(),
        metavar="JSON",
        help="what the fields pod and egress of manifests may ask for, as the chart's value bounds",
    )
    parser.add_argument(
        "--gpu-hour-price",
        type=_parse_amount,
        metavar="AMOUNT",
        help="what a GPU costs for an hour, as 2.50; the status of jobs then says what they have cost",
    )
    parser.add_argument(
        "--gateway-demand",
        action="append",
        type=_parse_gateway,
        default=[],
        metavar="URL",
        help="where gateways say what they are asked for, http://HOST:PORT: each address of the host is that of a "
        "gateway; may be given several times; endpoints with autoscale need it",
    )
    parser.add_argument("--metrics-port", type=int, default=8080, help="port of /metrics (8080)")
    parser.add_argument("--liveness-port", type=int, default=8081, help="port of /healthz (8081)")
    return parser.parse_args(arguments)


def _parse_egress(text: str) -> Egress:
    cidr, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} must look like 203.0.113.0/24:443")
    try:
        return Egress(cidr=cidr, port=int(port))
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error.errors()[0]['msg']}") from None


def _parse_amount(text: str) -> Decimal:
    if not re.fullmatch(AMOUNT_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} must be an amount below 1000000, such as 2.50")
    return Decimal(text)


def _parse_gateway(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if url.scheme != "http" or not url.host or url.raw_path != b"/":
        raise argparse.ArgumentTypeError(f"{text!r} must look like http://HOST:PORT")
    return text


def _parse_bounds(text: str) -> Bounds:
    try:
        return Bounds.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = format_location(first["loc"])
        raise argparse.ArgumentTypeError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the operator until it is told to stop; return the exit code."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("aiohttp.access", "httpx", "kopf"):
        logging.getLogger(name).setLevel(logging.WARNING)
    limit = LogLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)
    settings = Settings(
        images=Images(
            trainer=options.trainer_image,
            reward=options.reward_image,
            server_cuda=options.server_cuda_image,
            server_cpu=options.server_cpu_image,
            loader=options.loader_image,
        ),
        namespace=options.namespace,
        metrics_namespace=options.metrics_namespace,
        namespaces=tuple(sorted(set(options.watch_namespace))),
        exclusive_gateway=options.exclusive_gateway,
        bounds=options.bounds,
        gpu_hour_price=options.gpu_hour_price,
        gateway_demand=tuple(options.gateway_demand),
        package_index=PackageIndex(options.package_index or None, tuple(options.package_egress or PackageIndex.egress)),
    )
    # Parsed objects are large and have no reference cycles; searching them for cycles took a quarter of the CPU time.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_SECONDS)
    sys.setrecursionlimit(NESTING_LIMIT)
    metrics = Metrics(RESOURCES)
    page = Page(CONTENT_TYPE_LATEST, lambda: generate_latest(metrics.registry))
    SmallServer("0.0.0.0", options.metrics_port, {"/metrics": page})
    code = 0
    try:
        asyncio.run(operate(settings, metrics, f"http://0.0.0.0:{options.liveness_port}/healthz"))
    except* LeadershipLost as lost:
        log.error("%s", lost.exceptions[0])
        code = 1
    return code


async def operate(settings: Settings, metrics: Metrics, liveness: str) -> None:
    """Watch, and reconcile while this replica is the leader.

    Returns when kopf is told to stop.

    Args:
        settings: the settings of the operator.
        metrics: the published metrics.
        liveness: the URL at which kopf serves its liveness endpoint.

    Raises:
        LeadershipLost: when this replica could not renew the Lease.
    """
    async with (
        connect() as cluster,
        httpx.AsyncClient(trust_env=False, transport=PodTransport()) as client,
        httpx.AsyncClient(trust_env=False, transport=PodTransport(2 * MAXIMUM_BYTES)) as gateway_client,
    ):
        await wait_for_definitions(cluster)
        router = Router(RESOURCES)
        metrics.observe(router.store)
        limits = Limits()
        loop, pods = Loop(limits), PodClient(client, limits)
        gateways = Gateways(gateway_client, settings.gateway_demand, limits, loop.enqueue)
        reconciler = Reconciler(RESOURCES, cluster, pods, gateways, router, loop.enqueue, metrics, settings)
        # A container that is restarted in its pod is the same replica: it need not wait for its own Lease to expire.
        identity = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"

        async def reconcile_all() -> None:
            metrics.leader.set(1)
            async with asyncio.TaskGroup() as work:
                work.create_task(run_loop(cluster, settings.namespaces, router, loop, reconciler.reconcile))
                work.create_task(gateways.follow())

        registry = build_registry(router, loop)
        async with asyncio.TaskGroup() as tasks:
            election = tasks.create_task(Election(cluster, settings.namespace, identity).lead(reconcile_all))

            # kopf would otherwise wait for these tasks, because it takes them for tasks of its own.
            @kopf.on.cleanup(registry=registry)
            async def release_leadership(**_: Any) -> None:
                election.cancel()
                await asyncio.wait([election])

            await kopf.operator(
                registry=registry,
                settings=build_settings(),
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                standalone=True,
                # Only peering uses it, which is off. The default would ask for the user's name, which images lack.
                identity=identity,  # type: ignore[arg-type]  # a NewType that kopf does not export
                liveness_endpoint=liveness,
            )
