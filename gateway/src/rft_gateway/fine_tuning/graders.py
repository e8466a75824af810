"""Makes the RewardFunction of a grader, with what the namespace gives its graders; one that is not possible is refused.

Jobs and the operation that only validates a grader have these checks in common. Each names the grader's place in its
request in what it says: `method.reinforcement.grader` or `grader`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from rft_api.foreign.text import one_line
from rft_api.model import Json, format_location
from rft_api.openai_grader import LabelModel, PythonScript, ScoreModel, asks_for_embeddings, grader_parts
from rft_api.quantities import Name
from rft_api.requirements import imported_packages
from rft_api.reward_function import RewardFunction
from rft_gateway.errors import INVALID_VALUE, ApiError
from rft_gateway.fine_tuning.defaults import CONFIG_MAP, Defaults
from rft_gateway.fine_tuning.objects import make_object, validate
from rft_gateway.fine_tuning.request import (
    EndpointGrader,
    FunctionGrader,
    Grader,
    LambdaGrader,
    OpenAIGrader,
    stated,
)

LARGEST_REQUEST: Final = 200 << 10
"""Largest size in bytes of a request in an annotation: Kubernetes takes 256 KiB for all annotations of an object."""
_NAME = TypeAdapter(Name)


def make_function(grader: Grader, place: tuple[str, str], defaults: Defaults, path: str) -> Json | None:
    """Return the RewardFunction of a grader, which is valid; None of a grader that names one.

    Args:
        grader: the grader.
        place: namespace and name of the RewardFunction.
        defaults: what the namespace gives its graders.
        path: the grader's place in its request.

    Raises:
        ApiError: 400 when the grader asks for something that is not possible.
    """
    if isinstance(grader, FunctionGrader):
        return None
    if isinstance(grader, LambdaGrader):
        spec = _lambda_spec(grader)
    elif isinstance(grader, EndpointGrader):
        spec = _http_spec(grader, defaults, path)
    else:
        spec = _openai_spec(grader, defaults, path)
    function = make_object("RewardFunction", place, {}, {**_default_fields(defaults), **spec})
    validate(RewardFunction, function, path)
    return function


def request_text(document: Any, path: str) -> str:
    """Return a request as it is kept, without what is null.

    Raises:
        ApiError: 400 when it is too large, which only a grader makes it.
    """
    text = json.dumps(stated(document), ensure_ascii=False, separators=(",", ":"))
    if (size := len(text.encode())) > LARGEST_REQUEST:
        message = f"the request has {size:,} bytes, and may have {LARGEST_REQUEST:,}: shorten {path}"
        raise ApiError(400, message, param=path, code=INVALID_VALUE)
    return text


def asked_models(grader: Grader, path: str) -> Iterator[tuple[str, str]]:
    """Yield the models that the parts of a grader ask: the place in the request, and the name that is there."""
    if isinstance(grader, (LambdaGrader, EndpointGrader, FunctionGrader)):
        return
    for location, part in grader_parts(grader):
        if isinstance(part, (ScoreModel, LabelModel)):
            yield format_location((path, *location, "model")), part.model


def endpoint_name(name: str, param: str) -> str:
    """Return the name of a model that is an InferenceEndpoint's.

    Raises:
        ApiError: 400 when none can have this name.
    """
    try:
        return str(_NAME.validate_python(name))
    except ValidationError:
        raise no_model(name, param) from None


def no_model(name: str, param: str) -> ApiError:
    """Return the error of a grader whose model does not exist, or is not this key's: both look the same."""
    message = (
        f"{param}: there is no model {one_line(name, 100)}, or this key does not open it; name an InferenceEndpoint of "
        f"the namespace, or a model of graders.models in the ConfigMap {CONFIG_MAP}"
    )
    return ApiError(400, message, param=param, code="model_not_found")


def _default_fields(defaults: Defaults) -> Json:
    """Return the fields of a RewardFunction's spec that the namespace states, without those of the grader itself."""
    graders = defaults.graders.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {
        name: value
        for name, value in graders.items()
        if name not in ("models", "endpoints", "embeddings", "limits", "requirements")
    }


def _lambda_spec(grader: LambdaGrader) -> Json:
    return {"lambda": {"functionArn": grader.lambda_.function}}


def _http_spec(grader: EndpointGrader, defaults: Defaults, path: str) -> Json:
    http: Json = {"url": grader.url, "body": "SampleAndItem"}
    if grader.rate_limit is not None:
        pods = defaults.graders.replicas or 1
        if grader.rate_limit < pods:
            message = f"{path}.rate_limit: must be at least {pods}, because so many reward server pods send requests"
            raise ApiError(400, message, param=f"{path}.rate_limit", code=INVALID_VALUE)
        http["requestsPerSecond"] = grader.rate_limit // pods
    known = [endpoint for endpoint in defaults.graders.endpoints if endpoint.covers(grader.url)]
    if known:
        nearest = max(known, key=lambda endpoint: len(endpoint.url))
        stated = nearest.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        http |= {name: value for name, value in stated.items() if name != "url"}
    return {"http": http}


def _openai_spec(grader: OpenAIGrader, defaults: Defaults, path: str) -> Json:
    settings = defaults.graders
    spec: Json = {"grader": grader.model_dump(mode="json", exclude_unset=True)}
    parts = [part for _, part in grader_parts(grader)]
    packages = imported_packages(part.source for part in parts if isinstance(part, PythonScript))
    if requirements := list(dict.fromkeys([*(settings.requirements or []), *packages])):
        spec["requirements"] = requirements
    params: dict[str, str] = {}
    for param, name in asked_models(grader, path):
        params.setdefault(name, param)
    if len(params) > 1:
        message = f"{path}: its parts ask {' and '.join(params)}; all of them have to ask one model"
        raise ApiError(400, one_line(message), param=path, code=INVALID_VALUE)
    for name, param in params.items():
        model = settings.models.get(name)
        spec["model"] = model.to_json_object() if model is not None else {"endpoint": endpoint_name(name, param)}
    if asks_for_embeddings(grader):
        if settings.embeddings is None:
            message = f"cosine needs a model for embeddings, which the ConfigMap {CONFIG_MAP} has in graders.embeddings"
            text = f"{path}: {message}; use another evaluation_metric"
            raise ApiError(400, text, param=path, code=INVALID_VALUE)
        spec["embeddings"] = settings.embeddings.to_json_object()
    if settings.limits is not None and (params or "embeddings" in spec):
        spec["limits"] = settings.limits.to_json_object()
    return {"openai": spec}
