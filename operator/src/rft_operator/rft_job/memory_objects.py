"""Build the Job that plans the memory of a run before its first attempt: one small pod, without GPUs.

It reads the model's config.json as the trainer's pod would, with its credentials, ServiceAccount and labels. But it
asks for none of the trainer's nodes, so that no node with GPUs is started for it.
"""

from __future__ import annotations

from rft_api.model import Json
from rft_api.resource import PodOverrides
from rft_api.rft_job import RFTJob
from rft_api.termination import TERMINATION_FILE
from rft_operator.kube import kinds
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.pods import paths
from rft_operator.pods.addresses import Address, Mounts, locate
from rft_operator.pods.template import Container, build_container, build_pod_template, override_pod
from rft_operator.rft_job import names
from rft_operator.rft_job.gpu_memory import GpuMemory
from rft_operator.rft_job.objects import CONFIGURATION_KEY
from rft_operator.settings import Settings

# Nobody can change them, and where a quota limits the CPU, it takes no pod without a limit of its own.
_RESOURCES: Json = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
_OF_EVERY_NODE = ("configMap", "secret", "projected", "downwardAPI", "emptyDir")
"""Kinds of volumes that every node can give. A claim of the user's could tie the trainer to the node of this pod."""


def build_memory_plan(job: RFTJob, gpu: GpuMemory, settings: Settings) -> Json:
    """Build the Job. Kueue admits the trainer's only: this one has no label of a queue.

    Args:
        job: the RFTJob.
        gpu: the memory of its GPUs.
        settings: the settings of the operator.
    """
    name = job.metadata.name
    labels = {**kinds.RFT_JOB.child_labels(name), names.PLANS: "memory"}
    model = Address("spec.model.uri", "model", job.spec.model.uri)
    mounts = Mounts.of([model])
    scheme, _ = model.split()
    command = [
        "python", "-m", "rft_loader", "memory",
        "--job", f"{paths.CONFIGURATION}/{CONFIGURATION_KEY}",
        "--uri", locate(model.uri) if scheme == "pvc" else model.uri,
        "--gpu-source", gpu.source,
    ]  # fmt: skip
    if gpu.bytes is not None:
        command += ["--gpu-bytes", str(gpu.bytes)]
    if gpu.largest is not None:
        command += ["--largest-gpu-bytes", str(gpu.largest.bytes), "--largest-gpu-source", gpu.largest.source]
    container = Container(
        name=names.PLANNER,
        image=settings.images.loader,
        command=command,
        env={TERMINATION_FILE: "/dev/termination-log"},
        mounts=[
            {"name": "configuration", "mountPath": paths.CONFIGURATION, "readOnly": True},
            *mounts.volume_mounts(),
        ],
        resources=_RESOURCES,
        credentials=job.spec.credentials,
    )
    configuration = {
        "name": "configuration",
        "configMap": {
            "name": names.run_configuration(name),
            "items": [{"key": CONFIGURATION_KEY, "path": CONFIGURATION_KEY}],
        },
    }
    template = build_pod_template(
        labels, {}, [build_container(container)], [configuration, *mounts.volumes()], restartPolicy="Never"
    )
    body = {"spec": {"backoffLimit": 0, "template": _override(template, job.spec.compute.pod)}}
    return build_object(kinds.JOB, Owner.of(job), names.memory_plan(name), body, labels=labels)


def _override(template: Json, pod: PodOverrides | None) -> Json:
    """Return the template with those settings of the trainer's pods that hold for a pod that only reads a file."""
    if pod is None:
        return template
    volumes = [volume for volume in pod.volumes if not volume.keys().isdisjoint(_OF_EVERY_NODE)]
    # Mounts may also name volumes that only the trainer's pods have, such as that of their shared memory.
    mounted = {volume.get("name") for volume in (*template["spec"]["volumes"], *volumes)}
    overrides = PodOverrides(
        image_pull_policy=pod.image_pull_policy,
        image_pull_secrets=pod.image_pull_secrets,
        tolerations=pod.tolerations,
        priority_class_name=pod.priority_class_name,
        service_account_name=pod.service_account_name,
        labels=pod.labels,
        annotations=pod.annotations,
        env=pod.env,
        volumes=volumes,
        volume_mounts=[mount for mount in pod.volume_mounts if mount.get("name") in mounted],
    )
    return override_pod(template, overrides)
