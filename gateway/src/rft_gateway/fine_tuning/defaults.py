"""What a namespace gives its fine-tuning jobs: a ConfigMap whose keys are fields of an RFTJob, with YAML as values."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from rft_api.foreign.text import one_line
from rft_api.foreign.yaml_text import parse_documents
from rft_api.model import Json, Model, camel, format_location
from rft_api.quantities import AtLeast, Duration, Integer, Name
from rft_api.remote_reward import Concurrency, CredentialKey, JudgeLimits, JudgeModel, Url
from rft_api.requirements import Requirements
from rft_api.resource import PodOverrides, SecretReference
from rft_api.reward_function import Egress, Sandbox
from rft_api.rft_job import Compute, Limits
from rft_api.sampling import EvaluationSettings, Sampling
from rft_api.sources import Uri
from rft_api.training import Algorithm, Hyperparameters, Preflight
from rft_api.tuning import Tuning
from rft_api.violations import violations
from rft_api.warmup import WarmupSettings

CONFIG_MAP: Final = "rft-fine-tuning"
"""Name of the ConfigMap. A namespace that has none has no fine-tuning API."""
_STORES = ("s3://", "pvc://")
_PARENT = re.compile(r"[/\\](\.|%2e){2}([/\\?#;]|$)", re.IGNORECASE)
"""A part of a path that stands for the folder above."""


def _check_output(uri: str) -> str:
    if not uri.startswith(_STORES):
        message = "must be an address that pods can write to: s3://BUCKET/PREFIX or pvc://CLAIM/PATH"
        raise PydanticCustomError("output", message)
    return uri


class DefaultsError(ValueError):
    """The ConfigMap cannot be used; the message names each key that is wrong."""


class EndpointDefaults(Model):
    """What requests to the servers of graders of type endpoint have beside their body."""

    url: Url
    """URL of a server. One that ends with a slash stands for everything below it."""
    token_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the bearer token."""
    headers: Annotated[dict[str, CredentialKey], Field(max_length=32)] = {}
    """Further headers, each with the key, in the credentials Secret, of its value."""
    ca_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the CA certificates (PEM) for the server's certificate."""
    concurrency: Concurrency | None = None
    """Maximum number of requests at the same time, for each reward server pod."""

    def covers(self, url: str) -> bool:
        """Return whether a URL is this one, or below it; one with .. in its path may be anywhere, and is not."""
        is_below = self.url.endswith("/") and url.startswith(self.url)
        return url == self.url or (is_below and _PARENT.search(url) is None)


class GraderDefaults(Model):
    """What the RewardFunctions of graders have beside the grader itself, as fields of their spec."""

    timeout: Annotated[Duration, AtLeast("1s")] | None = None
    """Maximum time for scoring one batch of samples."""
    replicas: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of reward server pods."""
    egress: Annotated[list[Egress], Field(max_length=32)] = []
    """Network destinations that the pods may connect to, for models outside of the cluster and Lambdas."""
    sandbox: Sandbox | None = None
    """Limits of the processes that run Python code."""
    credentials: SecretReference | None = None
    """Secret with the credentials for models and Lambdas."""
    pod: PodOverrides | None = None
    """Settings of the pods."""
    models: dict[str, JudgeModel] = {}
    """The models that graders of type score_model and label_model ask, by the names that graders have for them. A name
    that is not here is that of an InferenceEndpoint of the namespace."""
    endpoints: Annotated[list[EndpointDefaults], Field(max_length=64)] = []
    """Servers of graders of type endpoint that need keys. Of several that cover a URL, the longest counts."""
    embeddings: JudgeModel | None = None
    """The model that graders of type text_similarity with the metric cosine ask."""
    limits: JudgeLimits | None = None
    """Limits on the requests to each of the models."""
    requirements: Requirements | None = None
    """Packages that graders of type python may import beside those that their code imports by name."""


class Defaults(Model):
    """What a namespace gives its jobs. Each field is a key of the ConfigMap."""

    output: Annotated[Uri, AfterValidator(_check_output)]
    """Address below which each job gets a folder of its own: s3://BUCKET/PREFIX or pvc://CLAIM/PATH."""
    credentials: SecretReference | None = None
    """Secret with the credentials for s3:// and hf:// addresses."""
    compute: Compute = Compute()
    """Pods, processes and GPUs of each job."""
    algorithm: Algorithm = "GRPO"
    """The policy-gradient loss."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Hyperparameters where a request says "auto", and those that requests cannot state."""
    warmup: WarmupSettings = WarmupSettings()
    """Those of supervised jobs."""
    sampling: Sampling = Sampling()
    """What completions are sampled from, and where they end."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How held-out prompts are completed."""
    tuning: Tuning = Tuning()
    """Which weights are trained."""
    preflight: Preflight = Preflight()
    """The check before training."""
    limits: Limits = Limits()
    """Limits after which a job ends."""
    queue_name: Name | None = None
    """LocalQueue of Kueue that admits the jobs."""
    deletion_policy: Literal["Delete", "Keep"] = "Delete"
    """Whether a tuned model is deleted together with its RFTJob."""
    graders: GraderDefaults = GraderDefaults()
    """What the RewardFunctions of graders have beside the grader itself."""
    data: Annotated[list[Uri], Field(max_length=64)] = []
    """Addresses that training_file and validation_file may name in place of an uploaded file, with everything below
    them."""

    def admits_data(self, uri: str) -> bool:
        """Return whether a request may name data by an address: one of `data`, or below one that ends with a slash."""
        return any(uri == place or (place.endswith("/") and uri.startswith(place)) for place in self.data)


def read_defaults(config_map: Json) -> Defaults:
    """Return the defaults that a ConfigMap holds.

    Args:
        config_map: the object, as the API server returns it.

    Raises:
        DefaultsError: when a key is unknown or missing, or its value is wrong.
    """
    metadata = config_map["metadata"]
    place = f"ConfigMap {metadata.get('namespace', 'default')}/{metadata['name']}"
    problems: list[str] = []
    document: dict[str, Any] = {}
    for key, text in (config_map.get("data") or {}).items():
        try:
            documents = [value for _, value in parse_documents(text)]
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            problems.append(f"data.{key}: is not valid YAML: {error.problem or error} (line {line} of the text)")
            continue
        except (ValueError, yaml.YAMLError) as error:
            problems.append(f"data.{key}: {error}")
            continue
        if len(documents) != 1:
            problems.append(f"data.{key}: must have one YAML value, and has {len(documents)}")
            continue
        document[key] = documents[0]
    if not problems:
        try:
            return Defaults.model_validate(document, by_alias=True, by_name=False)
        except ValidationError as invalid:
            faults = violations(invalid, document, Defaults)
            problems = [f"{format_location(('data', *each.location))}: {each.message}" for each in faults]
    raise DefaultsError(one_line(f"{place}: {'; '.join(problems)}", 4000))


def default_fields(defaults: Defaults, *names: str) -> Json:
    """Return those fields of the defaults that the ConfigMap states, as a manifest has them."""
    chosen = set(names) & defaults.model_fields_set
    stated: Json = defaults.model_dump(mode="json", by_alias=True, exclude_unset=True, include=chosen)
    return {camel(name): stated[camel(name)] for name in names if name in chosen}
