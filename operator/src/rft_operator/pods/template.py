"""Build what all pods have in common. Pod Security `restricted` admits them, and users can override parts of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rft_api.model import Json
from rft_api.resource import PodOverrides, SecretReference
from rft_operator.kube.kinds import DEPLOYMENT
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.pods import paths

USER = 65532
"""User of processes, and the group of all of them; volumes are writable for the group."""


@dataclass(frozen=True)
class Container:
    """A container."""

    name: str
    image: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    mounts: list[Json] = field(default_factory=list)
    resources: Json = field(default_factory=dict)
    credentials: SecretReference | None = None
    more: Json = field(default_factory=dict)
    """Further fields of the container, such as probes."""


def http_probe(path: str, port: str, period: int, timeout: int | None = None, failures: int | None = None) -> Json:
    """Build a probe that requests a path of a named port.

    Args:
        path: the path of the URL.
        port: the name of the port.
        period: seconds between two requests.
        timeout: seconds in which the container has to answer; None for the default of Kubernetes, 1.
        failures: failed requests in a row after which the probe has failed; None for the default of Kubernetes, 3.
    """
    probe: Json = {"httpGet": {"path": path, "port": port}, "periodSeconds": period}
    if timeout is not None:
        probe["timeoutSeconds"] = timeout
    if failures is not None:
        probe["failureThreshold"] = failures
    return probe


def build_container(container: Container) -> Json:
    """Build a container without privileges. It can write only to the scratch volume and to its other mounts."""
    env = {"HOME": paths.SCRATCH, "TMPDIR": paths.SCRATCH, "USER": "rft", **container.env}
    built: Json = {
        "name": container.name,
        "image": container.image,
        "command": container.command,
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": "scratch", "mountPath": paths.SCRATCH}, *container.mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Where a program has written no termination message, Kubernetes uses the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if container.ports:
        built["ports"] = [{"name": name, "containerPort": port} for name, port in container.ports.items()]
    if container.resources:
        built["resources"] = container.resources
    if container.credentials is not None:
        built["envFrom"] = [{"secretRef": {"name": container.credentials.secret_name}}]
    return {**built, **container.more}


def build_pod_template(
    labels: dict[str, str],
    annotations: dict[str, str],
    containers: list[Json],
    volumes: list[Json],
    *,
    user: int = USER,
    **spec: Any,
) -> Json:
    """Build a pod template.

    Args:
        labels: labels of the pods.
        annotations: annotations of the pods.
        containers: the containers, the main one first.
        volumes: the volumes beside the scratch volume.
        user: the user of the processes.
        spec: further fields of the spec of the pods.
    """
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": containers,
            "volumes": [{"name": "scratch", "emptyDir": {}}, *volumes],
            **spec,
        },
    }


def scrape_annotations(port: int) -> dict[str, str]:
    """Return the annotations that have Prometheus scrape the metrics of a pod from a port."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port)}


def build_deployment(
    owner: Owner,
    name: str,
    labels: dict[str, str],
    replicas: int,
    template: Json,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Json:
    """Build a Deployment whose old pods serve until the new ones are ready.

    Args:
        owner: the resource that owns the Deployment.
        name: its name.
        labels: the labels of its pods, which select them.
        replicas: the number of its pods.
        template: the template of its pods.
        annotations: its annotations.
        spec: further fields of its spec.
    """
    rolling = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "revisionHistoryLimit": 2,
        "template": template,
        **spec,
    }
    return build_object(DEPLOYMENT, owner, name, {"spec": rolling}, annotations=annotations)


def override_pod(template: Json, overrides: PodOverrides | None) -> Json:
    """Return a template with the changes of a user: lists are extended, values replaced, and our labels kept."""
    if overrides is None:
        return template
    metadata, spec = template["metadata"], dict(template["spec"])
    main, *others = spec["containers"]
    main = dict(main)
    if overrides.image is not None:
        main["image"] = overrides.image
    if overrides.resources is not None:
        main["resources"] = _merge_resources(main.get("resources", {}), overrides.resources)
    main["env"] = _merge_by(main["env"], overrides.env, "name")
    main["volumeMounts"] = _merge_by(main["volumeMounts"], overrides.volume_mounts, "mountPath")
    spec["containers"] = [main, *others]
    if overrides.image_pull_policy is not None:
        for key in spec.keys() & {"containers", "initContainers"}:
            spec[key] = [{**container, "imagePullPolicy": overrides.image_pull_policy} for container in spec[key]]
    spec["volumes"] = _merge_by(spec["volumes"], overrides.volumes, "name")
    single: Json = {
        "imagePullSecrets": [{"name": name} for name in overrides.image_pull_secrets],
        "nodeSelector": overrides.node_selector,
        "tolerations": overrides.tolerations,
        "affinity": overrides.affinity,
        "priorityClassName": overrides.priority_class_name,
        "runtimeClassName": overrides.runtime_class_name,
        "serviceAccountName": overrides.service_account_name,
    }
    spec.update({name: value for name, value in single.items() if value})
    return {
        "metadata": {
            "labels": {**overrides.labels, **metadata["labels"]},
            "annotations": {**metadata["annotations"], **overrides.annotations},
        },
        "spec": spec,
    }


def _merge_resources(ours: Json, theirs: Json) -> Json:
    merged = {**ours, **theirs}
    for kind in ("limits", "requests"):
        if kind in ours and kind in theirs:
            merged[kind] = {**ours[kind], **theirs[kind]}
    return merged


def _merge_by(ours: list[Json], theirs: list[Json], key: str) -> list[Json]:
    """Merge two lists; an element of theirs replaces ours with the same value of `key`."""
    replaced = {element.get(key) for element in theirs}
    return [*(element for element in ours if element.get(key) not in replaced), *theirs]
