"""What `rft serve` serves of manifests: a server for each base endpoint, with the adapters on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from rft_api import vllm_server
from rft_api.addresses import endpoint_address
from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.gateway_routes import Route
from rft_api.inference_endpoint import ADAPTER_ADDRESS, InferenceEndpoint, serving_of
from rft_api.manifests import ManifestError, ManifestErrors, Manifests, Origin
from rft_api.model import Location, Violation
from rft_api.model_files import choose_files
from rft_api.storage_error import StorageError
from rft_cli.check import endpoint_errors, in_order, read_manifests
from rft_cli.served_models import ADAPTER_CONFIGURATION

_KIND = "InferenceEndpoint"
_JOB = "RFTJob"
_MODEL_ADDRESS: Location = ("spec", "model", "uri")
_GPUS: Location = ("spec", "serving", "gpus")
_LOG_ADDRESS = "spec.logs.uri"


@dataclass(frozen=True)
class ServedEndpoint:
    """An endpoint of a manifest."""

    endpoint: InferenceEndpoint
    address: str
    """Where its files are: s3://, hf://, or the absolute path of a folder."""
    origin: Origin

    @property
    def name(self) -> str:
        """Name of the endpoint, and of its model in requests."""
        return self.endpoint.metadata.name

    @property
    def is_remote(self) -> bool:
        """Whether its files have to be fetched."""
        return "://" in self.address

    def address_error(self, message: str) -> ManifestError:
        """Return a problem of the files at its address."""
        return self.origin.error(Violation(message, ADAPTER_ADDRESS if self.endpoint.spec.adapter else _MODEL_ADDRESS))


@dataclass(frozen=True)
class EndpointServer:
    """A server: that of a base endpoint, which also serves the adapters on it."""

    base: ServedEndpoint
    adapters: tuple[ServedEndpoint, ...]
    gpus: tuple[str, ...]
    """The GPUs that it computes on; it computes on CPUs if there are none."""

    @property
    def endpoints(self) -> tuple[ServedEndpoint, ...]:
        """Everything that it serves."""
        return (self.base, *self.adapters)

    def arguments(self) -> list[str]:
        """Return the arguments of vLLM that follow from the manifest."""
        serving = serving_of(self.base.endpoint)
        # Without more adapters than there are, the memory for others stays free.
        adapters = min(serving.max_adapters, len(self.adapters))
        update = {"gpus": len(self.gpus), "max_adapters": adapters}
        return vllm_server.serving_arguments(serving.model_copy(update=update))

    def routes(self, server: str, logs: ConversationLogs | None) -> list[Route]:
        """Return its models for the gateway.

        Args:
            server: address of the server.
            logs: the log of the command line; see `log_of`.
        """
        return [
            Route(
                namespace=served.endpoint.metadata.namespace,
                model=served.name,
                base=self.base.name,
                served_model=served.name,
                price=served.endpoint.spec.price or self.base.endpoint.spec.price,
                servers=[server],
                logs=log_of(served.endpoint, logs),
            )
            for served in self.endpoints
        ]


def log_of(endpoint: InferenceEndpoint, option: ConversationLogs | None) -> ConversationLogs | None:
    """Return the log of an endpoint's conversations, without the Secret that only a cluster has.

    Args:
        endpoint: the endpoint.
        option: the log of the command line, which takes the place of what the manifest says. Where it leaves out the
            fraction or what is redacted, the manifest's stay, so that another address does not reveal private data.
    """
    logs = endpoint.spec.logs
    if logs is None:
        return option
    own = ConversationLogs.model_construct(uri=logs.uri, fraction=logs.fraction, redact=logs.redact)
    if option is None:
        return own
    kept = {"fraction", "redact"} - option.model_fields_set
    return option.model_copy(update={name: getattr(own, name) for name in kept})


def plan_servers(paths: Iterable[Path], gpus: Sequence[str]) -> tuple[list[EndpointServer], list[ManifestError]]:
    """Return the servers for the endpoints of manifests, and remarks about what has no effect on one machine.

    Args:
        paths: manifests, or folders with manifests.
        gpus: the GPUs of this machine that vLLM may compute on.

    Raises:
        ManifestErrors: with everything for which they cannot be served.
        RunError: CONFIGURATION_INVALID when there is no endpoint.
    """
    paths = list(paths)
    manifests, errors = read_manifests(paths, {_KIND})
    errors = [_with_option(error) for error in errors]
    errors += endpoint_errors(manifests)
    if not errors:
        errors += _place_errors(manifests)
    if errors:
        raise ManifestErrors(in_order(errors), manifests)
    if not manifests.endpoints:
        places = ", ".join(str(path) for path in paths)
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{places}: {_nothing_to_serve(manifests)}")
    served = [_served(manifests, endpoint) for endpoint in manifests.endpoints]
    errors += [served_error for each in served for served_error in _folder_errors(each)]
    servers: list[EndpointServer] = []
    free = list(gpus)
    for base in (each for each in served if each.endpoint.spec.model is not None):
        count = max(serving_of(base.endpoint).gpus, 1) if gpus else 0
        if count > len(free):
            errors.append(base.origin.error(Violation(_too_few_gpus(count, len(free), len(gpus)), _GPUS)))
            continue
        adapters = tuple(each for each in served if each.endpoint.spec.base_endpoint == base.name)
        servers.append(EndpointServer(base, adapters, tuple(free[:count])))
        del free[:count]
    if errors:
        raise ManifestErrors(in_order(errors), manifests)
    remarks = [*_ignored_documents(manifests), *(remark for server in servers for remark in _remarks(server))]
    return servers, in_order(remarks)


def _with_option(error: ManifestError) -> ManifestError:
    """Name the option for a folder where an address of a log is refused: in a manifest it is in S3."""
    if error.path != _LOG_ADDRESS:
        return error
    return replace(error, message=f"{error.message}; for a folder, leave out spec.logs and use --logs FOLDER")


def _nothing_to_serve(manifests: Manifests) -> str:
    if not manifests.documents:
        return "empty, so nothing can be served"
    text = f"no {_KIND}, so nothing can be served"
    job = next((name for kind, name in manifests.origins if kind == _JOB), None)
    if job is None:
        return text
    return f"{text}; when rft run has trained {_JOB} {job}, serve its output folder: rft serve FOLDER"


def _served(manifests: Manifests, endpoint: InferenceEndpoint) -> ServedEndpoint:
    origin = manifests.origins[_KIND, endpoint.metadata.name]
    uri = endpoint_address(endpoint).uri
    address = uri if "://" in uri else str((origin.file.parent / Path(uri).expanduser()).resolve())
    return ServedEndpoint(endpoint, address, origin)


def _place_errors(manifests: Manifests) -> Iterator[ManifestError]:
    """Yield an error for each endpoint that could be served, but not here, or not together with the others."""
    endpoints = manifests.endpoints
    names = {endpoint.metadata.name for endpoint in endpoints}
    for endpoint in endpoints:
        name, base, first = endpoint.metadata.name, endpoint.spec.base_endpoint, endpoints[0].metadata
        if endpoint.metadata.namespace != first.namespace:
            message = f"is not {first.namespace}, the namespace of {first.name}; serve the endpoints of one namespace"
            yield manifests.error(_KIND, name, ("metadata", "namespace"), message)
        if base is not None and base not in names:
            matches = get_close_matches(base, names, n=1)
            hint = f"; did you mean {matches[0]}?" if matches else "; give its manifest, too"
            message = f"{_KIND} {base} is not among the given files{hint}"
            yield manifests.error(_KIND, name, ("spec", "baseEndpoint"), message)
        address = endpoint_address(endpoint)
        if address.scheme == "pvc":
            others = "or s3://" if address.role == "adapter" else "s3:// or hf://"
            message = f"pvc:// can be opened in a cluster only; use the path of a folder, {others}"
            yield manifests.error(_KIND, name, address.location, message)


def _folder_errors(served: ServedEndpoint) -> Iterator[ManifestError]:
    """Yield an error when a folder of this machine holds something else than the model or adapter that it is to be."""
    if served.is_remote:
        return
    folder = Path(served.address)
    if served.endpoint.spec.adapter is not None:
        if not (folder / ADAPTER_CONFIGURATION).is_file():
            yield served.address_error(f"{folder}: is no adapter: it holds no {ADAPTER_CONFIGURATION}")
        return
    try:
        choose_files(str(folder), {path.name for path in folder.iterdir()})
    except StorageError as error:
        yield served.address_error(str(error))
    except OSError as error:
        yield served.address_error(f"{folder}: {error.strerror}")


def _too_few_gpus(count: int, free: int, total: int) -> str:
    if count > total:
        return f"{count} are needed, and this machine has {total}; set gpus: {total} or less"
    text = f"{count} are needed, and the endpoints before this one leave {free} of the {total} of this machine"
    return f"{text}; serve fewer base models at once, or set fewer gpus"


def _ignored_documents(manifests: Manifests) -> Iterator[ManifestError]:
    for (kind, name), origin in manifests.origins.items():
        if kind != _KIND:
            yield origin.error(Violation(f"{kind} {name} is ignored: only {_KIND}s are served", ("kind",)))


def _remarks(server: EndpointServer) -> Iterator[ManifestError]:
    """Yield a remark for each field that has no effect on one machine."""
    for served in server.endpoints:
        for location, reason in _fields_without_effect(served.endpoint, len(server.gpus)):
            yield served.origin.error(Violation(f"has no effect here: {reason}", location))


def _fields_without_effect(endpoint: InferenceEndpoint, gpus: int) -> Iterator[tuple[Location, str]]:
    spec, serving = endpoint.spec, endpoint.spec.serving
    if "replicas" in spec.model_fields_set and spec.replicas != 1:
        yield ("spec", "replicas"), "a base model has one server"
    if spec.autoscale is not None:
        yield ("spec", "autoscale"), "the server runs until rft serve ends"
    if spec.cold_start is not None:
        yield ("spec", "coldStart"), "the server runs before the first request"
    if spec.credentials is not None:
        text = "files are fetched with the credentials of the environment, such as AWS_ACCESS_KEY_ID and HF_TOKEN"
        yield ("spec", "credentials"), text
    if spec.logs is not None:
        text = "the log is written with the credentials of the environment, such as AWS_ACCESS_KEY_ID"
        yield ("spec", "logs", "credentials"), text
    if spec.model is not None:
        stated = serving_of(endpoint).gpus
        if stated and not gpus:
            is_default = serving is None or "gpus" not in serving.model_fields_set
            default, hint = (" by default", "; write serving: {gpus: 0}") if is_default else ("", "")
            text = f"it is {stated}{default}, but vLLM finds no GPU on this machine and computes on its CPUs{hint}"
            yield _GPUS, text
        elif gpus and not stated:
            yield _GPUS, "it is 0, but the vLLM of this machine computes on GPUs; it takes one"
    if serving is not None and "gpu_resource" in serving.model_fields_set:
        yield ("spec", "serving", "gpuResource"), "it is a resource of a cluster's nodes"
    if serving is not None and serving.pod is not None:
        yield ("spec", "serving", "pod"), "there is no pod"
