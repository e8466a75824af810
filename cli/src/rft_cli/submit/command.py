"""The steps of `rft submit`: check, compute digests, plan, upload, apply, and show the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line, printable
from rft_api.manifests import ManifestError, ManifestErrors, Manifests
from rft_api.model import Json
from rft_api.resource import API_VERSION
from rft_api.rft_job import RFTJob
from rft_api.storage import ObjectStore
from rft_cli.check import check_manifests, in_order, size_errors
from rft_cli.console import make_console
from rft_cli.kubectl import Kubectl
from rft_cli.run import choose_job
from rft_cli.stage_display import shown_stage
from rft_cli.submit.digests import known_digests
from rft_cli.submit.follow import follow, print_result
from rft_cli.submit.inputs import find_inputs
from rft_cli.submit.objects import Step, apply_step, plan_objects
from rft_cli.submit.plan import (
    LocalInput,
    UploadPlan,
    job_document,
    plain_document,
    plan_uploads,
    reward_document,
    uploads_address,
)
from rft_cli.submit.uploads import missing_uploads, upload_all

_CONFIG_MAP = "ConfigMap"
_DONE = {"create": "created", "change": "changed", "replace": "deleted and created", "keep": "unchanged"}
"""What is printed for each action."""


@dataclass(frozen=True)
class Options:
    """What the command line states beside the files."""

    job: str | None = None
    """Name of the job, when the files define several."""
    output: str | None = None
    """Address of the output, in place of that of the manifest."""
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    replace: bool = False
    """Whether objects that exist with other contents may be changed, and a job that has ended be deleted."""
    detach: bool = False
    """Whether to return when the job is applied."""


def submit(files: Sequence[Path], options: Options) -> None:
    """Run the manifests in a cluster, and show the job until it ends.

    Raises:
        ManifestErrors: when a manifest is wrong, or cannot be submitted.
        RunError: when the store or the cluster refuses something, or the job ends without a result.
    """
    console, notes = make_console(), make_console(stderr=True)
    manifests, job = _read(files, options)
    inputs = find_inputs(manifests, job)
    kubectl = Kubectl(options.kubeconfig, options.context, options.namespace)
    kubectl.namespace = _namespace(manifests, job, kubectl.namespace, stated=options.namespace is not None)
    for remark in _remarks(manifests, job, bool(inputs)):
        notes.print(Text(f"note: {printable(remark)}", style="dim"), soft_wrap=True)
    name, output = job.metadata.name, job.spec.output.uri
    try:
        plan = _plan(inputs, output, console)
        # Before anything is uploaded, so that what the cluster refuses costs no upload.
        steps = plan_objects(kubectl, _documents(manifests, job, plan, kubectl.namespace), replace=options.replace)
        _upload(plan, console)
    except KeyboardInterrupt:
        text = "Stopped. Nothing was applied. What is uploaded stays, and the same command goes on from there."
        raise RunError(ExitCode.INTERRUPTED, text) from None
    _apply(kubectl, steps, console)
    flags = kubectl.flags
    come_back = (
        f"The same command shows it again, and rft jobs {flags} its state.\n"
        f"rft logs {name} {flags} shows its log, and rft cancel {name} {flags} stops it."
    )
    if options.detach:
        console.print(come_back, highlight=False, soft_wrap=True)
        return
    try:
        status = follow(kubectl, name, output, console)
    except KeyboardInterrupt:
        text = f"RFTJob {name} goes on in namespace {kubectl.namespace} of context {kubectl.context}.\n{come_back}"
        raise RunError(ExitCode.INTERRUPTED, text) from None
    print_result(name, status, output, console)


def _read(files: Sequence[Path], options: Options) -> tuple[Manifests, RFTJob]:
    """Read and check the manifests; return them with the job as it is submitted.

    Raises:
        ManifestErrors: with every error.
        RunError: when there is no job, or there are several.
    """
    manifests, errors = check_manifests(files)
    if not errors:
        errors += size_errors(manifests)
    if errors:
        raise ManifestErrors(errors, manifests)
    job = choose_job(manifests, options.job)
    if options.output is not None:
        output = job.spec.output.model_copy(update={"uri": options.output})
        job = job.model_copy(update={"spec": job.spec.model_copy(update={"output": output})})
    return manifests, job


def _namespace(manifests: Manifests, job: RFTJob, chosen: str, *, stated: bool) -> str:
    """Return the namespace of all objects: that of the command line, of the job's manifest, or of the context.

    Raises:
        ManifestErrors: for each object whose manifest states another one.
    """
    own = _stated_namespace(manifests, job.kind, job.metadata.name)
    namespace = chosen if stated or own is None else own
    errors: list[ManifestError] = []
    for kind, name in _submitted(manifests, job):
        other = _stated_namespace(manifests, kind, name)
        if other not in (None, namespace):
            message = f"is {other}, and the job is submitted to {namespace}; a job finds others in its namespace only"
            errors.append(manifests.error(kind, name, ("metadata", "namespace"), message))
    if errors:
        raise ManifestErrors(in_order(errors), manifests)
    return namespace


def _stated_namespace(manifests: Manifests, kind: str, name: str) -> str | None:
    stated = manifests.origins[kind, name].document["metadata"].get("namespace")
    return None if stated is None else str(stated)


def _submitted(manifests: Manifests, job: RFTJob) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each object that is submitted, in the order in which they are applied."""
    for name in manifests.config_maps:
        yield _CONFIG_MAP, name
    for name in manifests.reward_functions:
        yield "RewardFunction", name
    for endpoint in manifests.endpoints:
        yield endpoint.kind, endpoint.metadata.name
    yield job.kind, job.metadata.name


def _documents(manifests: Manifests, job: RFTJob, plan: UploadPlan, namespace: str) -> list[Json]:
    """Return the objects that are submitted."""
    documents: list[Json] = []
    for kind, name in _submitted(manifests, job):
        document = manifests.origins[kind, name].document
        if kind == "RFTJob":
            documents.append(job_document(document, plan.addresses, job.spec.output.uri, namespace))
        elif kind == "RewardFunction":
            documents.append(reward_document(document, manifests.reward_functions[name], namespace))
        else:
            documents.append(plain_document(document, "v1" if kind == _CONFIG_MAP else API_VERSION, namespace))
    return documents


def _remarks(manifests: Manifests, job: RFTJob, uploads: bool) -> Iterator[str]:
    for origin in manifests.others:
        metadata = origin.document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else ""
        yield one_line(f"{origin.document['kind']} {name} ({origin.file}) is left to kubectl apply")
    others = [other.metadata.name for other in manifests.jobs if other.metadata.name != job.metadata.name]
    if others:
        yield f"not submitted: RFTJob {', '.join(others)}"
    pod = job.spec.compute.pod
    gives_credentials = pod is not None and (pod.service_account_name or pod.env)
    if job.spec.credentials is None and not gives_credentials and (uploads or job.spec.output.uri.startswith("s3://")):
        yield (
            "spec.credentials is not set, so the job's pods read and write s3:// with what their ServiceAccount gives; "
            "your own credentials are used for uploads only"
        )


def _plan(inputs: Sequence[LocalInput], output: str, console: Console) -> UploadPlan:
    """Compute the digests of the files, and plan where they are uploaded.

    Raises:
        RunError: when a file cannot be read.
    """
    if not inputs:
        return UploadPlan([], {})
    paths = list(dict.fromkeys(path for item in inputs for path in item.files.values()))
    try:
        sizes = {path: path.stat().st_size for path in paths}
        with shown_stage(console) as stage:
            digests = known_digests(paths, stage.report_bytes("computing digests"))
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{error.filename}: {error.strerror or error}") from None
    return plan_uploads(inputs, digests, sizes, uploads_address(output))


def _upload(plan: UploadPlan, console: Console) -> None:
    if not plan.uploads:
        return
    store = ObjectStore()
    missing = missing_uploads(store, plan.uploads)
    files = f"{len(plan.uploads)} file{'s' if len(plan.uploads) > 1 else ''}"
    if not missing:
        console.print(f"Local inputs ({files}) are in the store already: nothing is uploaded.", highlight=False)
        return
    total = sum(upload.size for upload in missing) / 1e6
    console.print(f"Uploading {len(missing)} of {files}, {total:,.1f} MB.", highlight=False)
    upload_all(store, missing, console)


def _apply(kubectl: Kubectl, steps: Sequence[Step], console: Console) -> None:
    """Apply the objects, and print what was done for each.

    Raises:
        RunError: when the API server refuses an object; INTERRUPTED after Ctrl-C.
    """
    for step in steps:
        try:
            apply_step(kubectl, step)
        except KeyboardInterrupt:
            text = (
                f"Stopped while {step.title} was applied, which may be there now or not: see rft jobs "
                f"{kubectl.flags}. The same command goes on from there."
            )
            raise RunError(ExitCode.INTERRUPTED, text) from None
        console.print(f"{step.title}: {_DONE[step.action]}", highlight=False)
