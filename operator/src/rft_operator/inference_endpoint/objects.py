"""Builds the objects of an endpoint: a vLLM server with the adapter loader beside it, its Service, its adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rft_api.adapter_protocol import AdapterList, ListedAdapter
from rft_api.inference_endpoint import InferenceEndpoint, Serving
from rft_api.model import Json
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
    override_pod,
    scrape_annotations,
)
from rft_operator.settings import Settings

ADAPTERS_KEY = "adapters.json"
CPU_CACHE_SHARE = 0.25
"""Share of a CPU server's memory limit that holds the key-value cache."""
CPU_CACHE_DEFAULT = 268435456
DRAIN_SECONDS = 5
"""Time in which a stopping server still gets requests: it takes Kubernetes that long to route around it."""
FINISH_SECONDS = 30
"""Time that requests in flight have to finish."""


def serving_of(endpoint: InferenceEndpoint) -> Serving:
    """The server's settings, or their defaults."""
    return endpoint.spec.serving or Serving()


def adapter_address(endpoint: InferenceEndpoint) -> Address | None:
    """Where an adapter endpoint's weights are."""
    return Address("spec.adapter.uri", "adapter", endpoint.spec.adapter.uri) if endpoint.spec.adapter else None


def model_address(endpoint: InferenceEndpoint) -> Address | None:
    """Where the model of an endpoint with its own server is."""
    return Address("spec.model.uri", "model", endpoint.spec.model.uri) if endpoint.spec.model else None


def build_adapter_list(base: InferenceEndpoint, adapters: Sequence[InferenceEndpoint]) -> Json:
    """The ConfigMap that the loader follows: which adapters the server should serve, under which names."""
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
    """The Service of an endpoint; that of an adapter leads to its base's server."""
    name = endpoint.metadata.name
    return build_object(
        kinds.SERVICE,
        Owner.of(endpoint),
        names.server(name),
        {
            "spec": {
                "selector": kinds.INFERENCE_ENDPOINT.child_labels(endpoint.spec.base_endpoint or name),
                "ports": [{"name": "http", "port": names.SERVER_PORT, "targetPort": names.SERVER_PORT}],
            }
        },
    )


def build_server_deployment(
    endpoint: InferenceEndpoint, adapters: Sequence[InferenceEndpoint], settings: Settings
) -> Json:
    """The Deployment of an endpoint with its own server.

    Raises:
        AddressProblem: when a pod cannot open an address.
    """
    owner = Owner.of(endpoint)
    serving = serving_of(endpoint)
    model = model_address(endpoint)
    assert model is not None  # only endpoints with a model have a server
    addresses = [model, *(address for adapter in adapters if (address := adapter_address(adapter)) is not None)]
    mounts = Mounts.of(addresses)
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
        endpoint.spec.replicas,
        override_pod(template, serving.pod),
        # Fetching and loading a large model takes a while.
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
    ]  # fmt: skip
    if serving.max_model_length is not None:
        command += ["--max-model-len", str(serving.max_model_length)]
    if serving.max_adapters:
        command += ["--enable-lora", "--max-loras", str(serving.max_adapters)]
        command += ["--max-lora-rank", str(serving.max_adapter_rank)]
    if serving.gpus > 1:
        command += ["--tensor-parallel-size", str(serving.gpus)]
    if serving.precision != "Auto":
        command += ["--dtype", serving.precision.lower()]
    if not serving.gpus:
        # Without these vLLM plans with nearly all memory of the host.
        command += ["--enforce-eager", "--gpu-memory-utilization", "0.1"]
        command += ["--kv-cache-memory-bytes", str(_cpu_cache_bytes(serving))]
    return Container(
        name=names.SERVER,
        image=settings.images.server_cuda if serving.gpus else settings.images.server_cpu,
        command=command,
        env={
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_NO_USAGE_STATS": "1",
            # The loader has fetched what is needed.
            "HF_HUB_OFFLINE": "1",
        },
        ports={"http": names.SERVER_PORT},
        mounts=[{"name": "shared-memory", "mountPath": "/dev/shm"}, *mounts],
        resources={"limits": {serving.gpu_resource: str(serving.gpus)}} if serving.gpus else {},
        more={
            "readinessProbe": {
                "httpGet": {"path": "/health", "port": "http"},
                "periodSeconds": 5,
                "timeoutSeconds": 5,
            },
            "livenessProbe": {
                "httpGet": {"path": "/health", "port": "http"},
                "periodSeconds": 20,
                "timeoutSeconds": 10,
                "failureThreshold": 6,
            },
            "startupProbe": {
                "httpGet": {"path": "/health", "port": "http"},
                "periodSeconds": 5,
                "timeoutSeconds": 5,
                "failureThreshold": 720,
            },
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
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": "loader"},
                "periodSeconds": 20,
                "timeoutSeconds": 10,
            },
            # Its libraries take a while to load on a node that is busy with models.
            "startupProbe": {
                "httpGet": {"path": "/healthz", "port": "loader"},
                "periodSeconds": 5,
                "timeoutSeconds": 10,
                "failureThreshold": 60,
            },
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
    return int(quantity_value(str(limit)) * CPU_CACHE_SHARE) if limit else CPU_CACHE_DEFAULT
