"""Makes the RewardFunction and the RFTJob of a request, with what the namespace gives its jobs."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from rft_api.foreign.text import one_line
from rft_api.inference_endpoint import InferenceEndpoint, find_adapter_violation
from rft_api.model import Json
from rft_api.object_labels import CREATED_FOR, FINE_TUNING_DIGESTS, FINE_TUNING_REQUEST
from rft_api.object_names import bounded
from rft_api.resource import API_VERSION
from rft_api.rft_job import RFTJob
from rft_api.run_folder import best_address, checkpoints_address
from rft_gateway.errors import INVALID_VALUE, ApiError
from rft_gateway.fine_tuning.defaults import Defaults, default_fields
from rft_gateway.fine_tuning.graders import make_function, request_text
from rft_gateway.fine_tuning.objects import make_object, validate
from rft_gateway.fine_tuning.request import CreateRequest, FunctionGrader, Hyperparameters, Reinforcement
from rft_gateway.fine_tuning.supervised import learning_rate, supervised_spec

GRADER: Final = "method.reinforcement.grader"
"""Where a request for a job has its grader."""
_SETTINGS = "method.reinforcement.hyperparameters"
_SAMPLES = (2, 128)
_GIVEN = ("algorithm", "tuning", "compute", "credentials", "preflight", "limits", "queue_name")
"""Fields of the namespace that jobs have as they are."""
_OF_REINFORCEMENT = ("algorithm", "preflight")
"""Those of them that supervised jobs do not have."""


@dataclass(frozen=True)
class DataFile:
    """A file of the request."""

    id: str
    """Its id, or its address, as the request names it."""
    uri: str
    """Its address."""
    digest: str = ""
    """SHA-256 of its content; empty where it is not known."""


@dataclass(frozen=True)
class JobObjects:
    """The objects of a job."""

    reward_function: Json | None
    """The RewardFunction of the grader; None when the request names one."""
    job: Json
    """The RFTJob."""


def make_objects(
    request: CreateRequest,
    document: Json,
    place: tuple[str, str],
    defaults: Defaults,
    base: InferenceEndpoint,
    files: tuple[DataFile, DataFile | None],
) -> JobObjects:
    """Return the objects of a job, which are valid.

    Args:
        request: what is asked.
        document: the same as a document.
        place: the namespace, and the name of the job and of its RewardFunction.
        defaults: what the namespace gives its jobs.
        base: the endpoint that the request names.
        files: the training file, and the validation file if there is one.

    Raises:
        ApiError: 400 when the request asks for something that is not possible, with its field as `param`.
    """
    _, name = place
    part, function = request.reinforcement, None
    if part is None:
        training, validation = files
        held_out = validation.uri if validation is not None else None
        fields = supervised_spec(request.supervised, defaults, training.uri, held_out)
        given = tuple(field for field in _GIVEN if field not in _OF_REINFORCEMENT)
    else:
        reward = part.grader.name if isinstance(part.grader, FunctionGrader) else name
        function = make_function(part.grader, place, defaults, GRADER)
        fields = _reinforcement_spec(part, defaults, files, reward)
        given = _GIVEN
    fields["hyperparameters"]["seed"] = _seed(request, name)
    spec = _job_spec(request, name, defaults, base, fields | default_fields(defaults, *given))
    job = make_object("RFTJob", place, _annotations(document, files), spec)
    valid = validate(RFTJob, job, None)
    _check_adapter(valid, base)
    return JobObjects(function, job)


def tuned_model(base: str, suffix: str | None, job: str) -> str:
    """Return the name of a tuned model: that of its base, the suffix, and the end of the job's name.

    Raises:
        ApiError: 400 when the suffix has no letter and no digit.
    """
    middle = re.sub(r"[^a-z0-9]+", "-", (suffix or "").lower()).strip("-")
    if suffix is not None and not middle:
        message = "suffix: needs a letter from a to z, or a digit: names of models have these and hyphens"
        raise ApiError(400, message, param="suffix", code=INVALID_VALUE)
    return bounded(f"{base}-{middle}" if middle else base, job[-8:])


def _annotations(document: Json, files: tuple[DataFile, DataFile | None]) -> Json:
    digests = {file.id: file.digest for file in files if file is not None and file.digest}
    return {
        FINE_TUNING_REQUEST: request_text(document, GRADER),
        **({FINE_TUNING_DIGESTS: json.dumps(digests, sort_keys=True)} if digests else {}),
    }


def _job_spec(request: CreateRequest, name: str, defaults: Defaults, base: InferenceEndpoint, fields: Json) -> Json:
    """Return the spec of a job with the fields of its method."""
    if base.spec.model is None:
        message = f"model: {base.metadata.name} is an adapter; name the endpoint of its base, which can be tuned"
        raise ApiError(400, message, param="model", code="model_not_tunable")
    endpoint: Json = {"name": tuned_model(base.metadata.name, request.suffix, name)}
    if defaults.tuning.type == "LoRA":
        endpoint["baseEndpoint"] = base.metadata.name
        if request.reinforcement is not None:  # a supervised job has no other checkpoints to choose from
            endpoint["checkpoints"] = True
    if defaults.deletion_policy != "Delete":
        endpoint["deletionPolicy"] = defaults.deletion_policy
    return {
        "model": {"uri": base.spec.model.uri},
        **fields,
        "output": {"uri": f"{defaults.output.rstrip('/')}/{name}"},
        "endpoint": endpoint,
    }


def _seed(request: CreateRequest, name: str) -> int:
    if request.seed is not None:
        return request.seed
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) & 0x7FFFFFFF


def _reinforcement_spec(
    part: Reinforcement, defaults: Defaults, files: tuple[DataFile, DataFile | None], reward: str
) -> Json:
    training, validation = files
    data: Json = {"train": [{"name": "training", "uri": training.uri, "reward": reward}]}
    if validation is not None:
        data["validation"] = [{"name": "validation", "uri": validation.uri, "reward": reward}]
    return {
        "data": data,
        "hyperparameters": _hyperparameters(part.hyperparameters, defaults),
        **_sampling(part.hyperparameters, defaults),
        **_evaluation(part.hyperparameters, defaults),
    }


def _hyperparameters(asked: Hyperparameters, defaults: Defaults) -> Json:
    own = defaults.hyperparameters
    fields: Json = own.model_dump(mode="json", by_alias=True, exclude_unset=True)
    wholes = {"epochs": asked.n_epochs, "batchSize": asked.batch_size, "evalInterval": asked.eval_interval}
    fields |= {field: value for field, value in wholes.items() if value != "auto"}
    if asked.learning_rate_multiplier != "auto":
        fields["learningRate"] = learning_rate(asked.learning_rate_multiplier, own.learning_rate, _SETTINGS)
    if asked.compute_multiplier != "auto":
        samples = round(own.samples_per_prompt * asked.compute_multiplier)
        if not _SAMPLES[0] <= samples <= _SAMPLES[1]:
            message = f"{_SETTINGS}.compute_multiplier: makes {samples} completions for each prompt, which have to be "
            message += f"{_SAMPLES[0]} to {_SAMPLES[1]}; the default is {own.samples_per_prompt}"
            raise ApiError(400, message, param=f"{_SETTINGS}.compute_multiplier", code=INVALID_VALUE)
        fields["samplesPerPrompt"] = samples
    return fields


def _sampling(asked: Hyperparameters, defaults: Defaults) -> Json:
    fields: Json = default_fields(defaults, "sampling").get("sampling", {})
    effort = asked.reasoning_effort
    if effort != "default":
        arguments = {**fields.get("chatTemplateArguments", {}), "reasoning_effort": effort}
        fields = {**fields, "chatTemplateArguments": arguments}
    return {"sampling": fields} if fields else {}


def _evaluation(asked: Hyperparameters, defaults: Defaults) -> Json:
    fields: Json = default_fields(defaults, "evaluation").get("evaluation", {})
    samples = asked.eval_samples
    if samples != "auto":
        fields = {**fields, "samplesPerPrompt": samples}
        if samples > 1 and not defaults.evaluation.temperature:
            fields["temperature"] = "1"  # greedy completions of a prompt are all the same
    return {"evaluation": fields} if fields else {}


def _check_adapter(job: RFTJob, base: InferenceEndpoint) -> None:
    """Refuse a job whose adapter its base endpoint would not serve: that would be known only after the training."""
    endpoint = job.spec.endpoint
    if endpoint is None or endpoint.base_endpoint is None or CREATED_FOR in base.metadata.labels:
        return  # the operator has made this base for jobs, and has it serve the adapters of all of them
    uris = [best_address(job.spec.output.uri)]
    uris += [checkpoints_address(job.spec.output.uri)] if endpoint.checkpoints else []
    for uri in uris:
        spec: Json = {"baseEndpoint": base.metadata.name, "adapter": {"uri": uri}}
        if job.spec.credentials is not None:
            spec["credentials"] = job.spec.credentials.to_json_object()
        metadata = {"name": endpoint.name, "namespace": job.metadata.namespace}
        adapter = InferenceEndpoint.model_validate({"apiVersion": API_VERSION, "metadata": metadata, "spec": spec})
        violation = find_adapter_violation(adapter, base)
        if violation is None:
            continue
        message = f"model: the tuned model could not be served: {violation.message}"
        raise ApiError(400, one_line(message), param="model", code="model_not_tunable")
