"""Build the objects of an endpoint: the Deployment of vLLM and the adapter loader, the Service, the adapter list."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rft_api import vllm_server
from rft_api.adapter_protocol import AdapterList, ListedAdapter
from rft_api.inference_endpoint import InferenceEndpoint, Serving, serving_of
from rft_api.model import Json
from rft_api.object_labels import SERVER_PORT_NAME
from rft_api.quantities import quantity_value
from rft_operator.inference_endpoint import names
from rft_operator.kube import kinds
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.pods import paths
from rft_operator.pods.addresses import Address, Mounts, locate
from rft_operator.pods.template import (
    Container,
    build_container,
    build_deployment,
    build_pod_template,
    http_probe,
    override_pod,
    scrape_annotations,
)
from rft_operator.settings import Settings

ADAPTERS_KEY = "adapters.json"
"""Key of the adapter list in its ConfigMap."""
CPU_CACHE_SHARE = 0.25
"""Fraction of the memory limit of a CPU server that its key-value cache uses."""
CPU_CACHE_DEFAULT = 268435456
"""Number of bytes of the key-value cache of a CPU server without a memory limit."""
DRAIN_SECONDS = 5
"""Seconds for which a stopping server still receives requests, until Kubernetes has updated the endpoints."""
FINISH_SECONDS = 30
"""Seconds that requests in flight have to finish."""


def adapter_address(endpoint: InferenceEndpoint) -> Address | None:
    """Return the address of an adapter; None for an endpoint with a model."""
    return Address("spec.adapter.uri", "adapter", endpoint.spec.adapter.uri) if endpoint.spec.adapter else None


def model_address(endpoint: InferenceEndpoint) -> Address | None:
    """Return the address of a model; None for an endpoint with an adapter."""
    return Address("spec.model.uri", "model", endpoint.spec.model.uri) if endpoint.spec.model else None


def build_adapter_list(base: InferenceEndpoint, adapters: Sequence[InferenceEndpoint]) -> Json:
    """Build the ConfigMap with the list of adapters, which the loader reads."""
    name = base.metadata.name
    entries = [
        ListedAdapter(name=adapter.metadata.name, uri=locate(adapter.spec.adapter.uri))
        for adapter in sorted(adapters, key=lambda adapter: adapter.metadata.name)
        if adapter.spec.adapter is not None
    ]
    return build_object(
        kinds.CONFIG_MAP,
        Owner.of(base),
        names.adapter_list(name),
        {"data": {ADAPTERS_KEY: json.dumps(AdapterList(adapters=entries).to_json_object(), indent=1) + "\n"}},
    )


def build_endpoint_service(endpoint: InferenceEndpoint) -> Json:
    """Build the Service of an endpoint; that of an adapter selects the pods of its base endpoint."""
    name = endpoint.metadata.name
    return build_object(
        kinds.SERVICE,
        Owner.of(endpoint),
        names.server(name),
        {
            "spec": {
                "selector": kinds.INFERENCE_ENDPOINT.child_labels(endpoint.spec.base_endpoint or name),
                "ports": [{"name": SERVER_PORT_NAME, "port": names.SERVER_PORT, "targetPort": names.SERVER_PORT}],
            }
        },
    )


def build_server_deployment(endpoint: InferenceEndpoint, replicas: int, settings: Settings) -> Json:
    """Build the Deployment of an endpoint with a server of its own.

    Its pods depend on this endpoint alone: what adapters say does not change the pods of their base.

    Args:
        endpoint: the endpoint.
        replicas: the number of pods.
        settings: the settings of the operator.

    Raises:
        AddressProblem: when a pod cannot open an address.
    """
    owner = Owner.of(endpoint)
    serving = serving_of(endpoint)
    model = model_address(endpoint)
    assert model is not None  # only endpoints with a model have a server of their own
    sources = serving.adapter_sources if serving.max_adapters else []
    claims = [source for source in sources if source.startswith("pvc://")]
    mounts = Mounts.of([model, *(Address("spec.serving.adapterSources", "adapter", claim) for claim in claims)])
    scheme, _ = model.split()
    fetched = scheme != "pvc"
    folder = f"{names.MODELS}/base" if fetched else locate(model.uri)
    labels = kinds.INFERENCE_ENDPOINT.child_labels(owner.name)
    shared = [{"name": "models", "mountPath": names.MODELS}, *mounts.volume_mounts()]
    containers = [build_container(_server(endpoint, folder, shared, settings))]
    more: Json = {"terminationGracePeriodSeconds": DRAIN_SECONDS + FINISH_SECONDS + 25}
    if serving.max_adapters:
        containers.append(build_container(_loader(endpoint, folder, shared, settings)))
    if fetched:
        more["initContainers"] = [build_container(_fetcher(endpoint, folder, shared, settings))]
    template = build_pod_template(
        labels,
        scrape_annotations(names.SERVER_PORT),
        containers,
        [
            {"name": "models", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            *([_adapters_volume(owner.name)] if serving.max_adapters else []),
            *mounts.volumes(),
        ],
        **more,
    )
    return build_deployment(
        owner,
        names.server(owner.name),
        labels,
        replicas,
        override_pod(template, serving.pod),
        # Fetching and loading a large model takes long.
        progressDeadlineSeconds=3600,
    )


def _adapters_volume(name: str) -> Json:
    return {"name": "adapters", "configMap": {"name": names.adapter_list(name)}}


def _server(endpoint: InferenceEndpoint, folder: str, mounts: list[Json], settings: Settings) -> Container:
    serving = serving_of(endpoint)
    # On CPUs a program of the image chooses the precision that the node's processor is fast in, and starts vLLM.
    command = [
        "python", "-m", "vllm.entrypoints.openai.api_server" if serving.gpus else "rft_trainer.cpu_server",
        "--model", folder,
        "--served-model-name", endpoint.metadata.name,
        "--host", "0.0.0.0",
        "--port", str(names.SERVER_PORT),
        "--shutdown-timeout", str(FINISH_SECONDS),
        *vllm_server.SAFE_ARGUMENTS,
        *vllm_server.METERED_ARGUMENTS,
        *vllm_server.serving_arguments(serving),
    ]  # fmt: skip
    if not serving.gpus:
        command += vllm_server.cpu_arguments(_cpu_cache_bytes(serving))
    return Container(
        name=names.SERVER,
        image=settings.images.server_cuda if serving.gpus else settings.images.server_cpu,
        command=command,
        env={**vllm_server.LOADER_ENVIRONMENT, **vllm_server.ENVIRONMENT},
        ports={"http": names.SERVER_PORT},
        mounts=[{"name": "shared-memory", "mountPath": "/dev/shm"}, *mounts],
        resources={"limits": {serving.gpu_resource: str(serving.gpus)}} if serving.gpus else {},
        more={
            "readinessProbe": http_probe("/health", "http", 5, timeout=5),
            "livenessProbe": http_probe("/health", "http", 20, timeout=10, failures=6),
            "startupProbe": http_probe("/health", "http", 5, timeout=5, failures=720),
            "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        },
    )


def _loader(endpoint: InferenceEndpoint, folder: str, mounts: list[Json], settings: Settings) -> Container:
    return Container(
        name="loader",
        image=settings.images.loader,
        command=[
            "python",
            "-m",
            "rft_loader",
            "follow",
            "--adapters",
            f"{paths.CONFIGURATION}/{ADAPTERS_KEY}",
            "--folder",
            f"{names.MODELS}/adapters",
            "--base",
            folder,
            "--server",
            f"http://127.0.0.1:{names.SERVER_PORT}",
            "--maximum-rank",
            str(serving_of(endpoint).max_adapter_rank),
            "--port",
            str(names.LOADER_PORT),
        ],
        ports={"loader": names.LOADER_PORT},
        mounts=[{"name": "adapters", "mountPath": paths.CONFIGURATION, "readOnly": True}, *mounts],
        credentials=endpoint.spec.credentials,
        more={
            "livenessProbe": http_probe("/healthz", "loader", 20, timeout=10),
            # Importing its libraries takes long on a node that is busy loading models.
            "startupProbe": http_probe("/healthz", "loader", 5, timeout=10, failures=60),
        },
    )


def _fetcher(endpoint: InferenceEndpoint, folder: str, mounts: list[Json], settings: Settings) -> Container:
    assert endpoint.spec.model is not None
    return Container(
        name="fetch",
        image=settings.images.loader,
        command=["python", "-m", "rft_loader", "fetch", "--uri", endpoint.spec.model.uri, "--to", folder],
        mounts=mounts,
        credentials=endpoint.spec.credentials,
    )


def _cpu_cache_bytes(serving: Serving) -> int:
    resources = serving.pod.resources if serving.pod is not None else None
    limit = ((resources or {}).get("limits") or {}).get("memory")
    try:
        return int(quantity_value(str(limit)) * CPU_CACHE_SHARE) if limit else CPU_CACHE_DEFAULT
    except (ValueError, OverflowError):  # Kubernetes says what is wrong with it, or takes a rare form such as 1e10
        return CPU_CACHE_DEFAULT
