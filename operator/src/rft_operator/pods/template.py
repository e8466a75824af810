"""Builds what all our pods have in common: they are admitted by Pod Security `restricted`, and can be overridden."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rft_api.model import Json
from rft_api.resource import PodOverrides, SecretReference
from rft_operator.kube.kinds import DEPLOYMENT
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.pods import paths

USER = 65532
"""User and group of every process; volumes are made writable for the group."""


@dataclass(frozen=True)
class Container:
    """The main container of a pod."""

    name: str
    image: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    mounts: list[Json] = field(default_factory=list)
    resources: Json = field(default_factory=dict)
    credentials: SecretReference | None = None
    more: Json = field(default_factory=dict)
    """Further fields, such as probes."""


def build_container(container: Container) -> Json:
    """A container without privileges whose only writable folders are the scratch volume and what it mounts."""
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
        # Where a program wrote no message of its own, the end of its log tells.
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
    labels: dict[str, str], annotations: dict[str, str], containers: list[Json], volumes: list[Json], **spec: Any
) -> Json:
    """A pod template; `spec` holds further fields of the pod's spec."""
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
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
    """What has Prometheus read a pod's metrics from a port."""
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
    """A Deployment whose old pods serve until the new ones are ready; `spec` holds further fields of its spec."""
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
    """The template with the user's changes; lists are extended, single values replaced, our labels stay."""
    if overrides is None:
        return template
    metadata, spec = template["metadata"], dict(template["spec"])
    main, *others = spec["containers"]
    main = dict(main)
    if overrides.image is not None:
        main["image"] = overrides.image
    if overrides.resources is not None:
        main["resources"] = _merged_resources(main.get("resources", {}), overrides.resources)
    main["env"] = _merged_by(main["env"], overrides.env, "name")
    main["volumeMounts"] = _merged_by(main["volumeMounts"], overrides.volume_mounts, "mountPath")
    spec["containers"] = [main, *others]
    if overrides.image_pull_policy is not None:
        for key in spec.keys() & {"containers", "initContainers"}:
            spec[key] = [{**container, "imagePullPolicy": overrides.image_pull_policy} for container in spec[key]]
    spec["volumes"] = _merged_by(spec["volumes"], overrides.volumes, "name")
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


def _merged_resources(ours: Json, theirs: Json) -> Json:
    merged = {**ours, **theirs}
    for kind in ("limits", "requests"):
        if kind in ours and kind in theirs:
            merged[kind] = {**ours[kind], **theirs[kind]}
    return merged


def _merged_by(ours: list[Json], theirs: list[Json], key: str) -> list[Json]:
    """Both lists; an element of theirs with the same key takes the place of ours."""
    replaced = {element.get(key) for element in theirs}
    return [*(element for element in ours if element.get(key) not in replaced), *theirs]
