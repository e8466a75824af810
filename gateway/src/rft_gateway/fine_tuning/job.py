"""Makes OpenAI's object of a fine-tuning job of an RFTJob, also of one that was made with kubectl."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from rft_api.conditions import ConditionType, Reason, is_end
from rft_api.foreign.files import parse_bounded
from rft_api.job_status import RFTJobStatus
from rft_api.model import Json
from rft_api.object_labels import FINE_TUNING_CANCELLED, FINE_TUNING_REQUEST
from rft_api.observed_status import condition_of, read_status
from rft_api.resource import Condition
from rft_api.training import Hyperparameters
from rft_api.warmup import WarmupSettings
from rft_gateway.errors import ApiError

State = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
"""The states in which nothing happens to a job any more."""

_BEFORE_START = (Reason.WAITING_FOR_REWARDS, Reason.CONFIGURATION_INVALID)
"""Reasons of a job of which something is being checked, or has to be corrected, before it can start."""
_AT_WORK = (Reason.RUNNING, Reason.RETRYING, Reason.STOPPING)
_UNSERVED = (Reason.ENDPOINT_TAKEN, Reason.CONFIGURATION_INVALID)
"""Reasons of the condition EndpointReady of a tuned model that no endpoint serves."""
_PARAMS: Mapping[str, str] = {
    Reason.DATA_INVALID: "training_file",
    Reason.MODEL_INVALID: "model",
    Reason.REWARD_FAILING: "method.reinforcement.grader",
    Reason.NOT_LEARNABLE: "method.reinforcement.grader",
}
"""The field of the request that a failure is about, by the reason of the failure."""


class Job:
    """An RFTJob, as the fine-tuning API sees it.

    Args:
        document: the RFTJob, as the API server returns it.

    Raises:
        ValueError: when its status is that of another version of the operator.
    """

    def __init__(self, document: Json):
        self.metadata: Json = document["metadata"]
        self.spec: Json = document["spec"]
        self.status: RFTJobStatus = read_status(document)
        self.name = str(self.metadata["name"])
        """Its name, which is its id in the API."""
        annotations = self.metadata.get("annotations") or {}
        self.request = _read_request(annotations.get(FINE_TUNING_REQUEST))
        """The request that has made it; None of a job that was made with kubectl."""
        # Whoever resumes a cancelled job with kubectl wants it to run.
        self._cancelled = annotations.get(FINE_TUNING_CANCELLED) if self.spec.get("suspend") else None

    @property
    def created_at(self) -> int:
        """Unix time at which it was created."""
        return unix_time(self.metadata.get("creationTimestamp")) or 0

    @property
    def condition(self) -> Condition | None:
        """The condition that says how far it is; None while the operator has not looked at it."""
        return condition_of(self.status, ConditionType.SUCCEEDED)

    @property
    def is_in_deletion(self) -> bool:
        """Whether somebody has deleted it, and Kubernetes waits for something before it goes."""
        return "deletionTimestamp" in self.metadata

    @property
    def state(self) -> State:
        """What OpenAI's API calls its state."""
        condition = self.condition
        if condition is not None and is_end(condition.type, condition.status):
            return "succeeded" if condition.status == "True" else "failed"
        if self._cancelled is not None:
            return "cancelled"
        if self.spec.get("suspend"):
            return "paused"
        if condition is None or condition.reason in _BEFORE_START:
            return "validating_files"
        # A job that was preempted waits again.
        return "running" if condition.reason in _AT_WORK else "queued"

    @property
    def finished_at(self) -> int | None:
        """Unix time at which it has ended; None while it has not."""
        return {
            "succeeded": unix_time(self.status.completion_time),
            "failed": unix_time(self.status.completion_time),
            "cancelled": unix_time(self._cancelled),
        }.get(self.state)

    @property
    def base(self) -> str:
        """Name of the model that is tuned; its address, where the job names no endpoint."""
        endpoint = self.spec.get("endpoint") or {}
        model = (self.request or {}).get("model")
        return str(model or endpoint.get("baseEndpoint") or self.spec["model"]["uri"])

    @property
    def tuned_model(self) -> str | None:
        """Name of the tuned model, once it answers or is about to; None before, and if nothing serves it."""
        endpoint, served = self.spec.get("endpoint"), condition_of(self.status, ConditionType.ENDPOINT_READY)
        if self.state != "succeeded" or endpoint is None or (served is not None and served.reason in _UNSERVED):
            return None
        return str(endpoint["name"])

    @property
    def user_metadata(self) -> dict[str, str]:
        """The texts that whoever has made the job has given it."""
        pairs = (self.request or {}).get("metadata")
        return {str(key): str(value) for key, value in pairs.items()} if isinstance(pairs, dict) else {}

    @property
    def is_reinforced(self) -> bool:
        """Whether it learns from rewards, and is not its warm-up alone."""
        return bool((self.spec.get("data") or {}).get("train"))

    def describe(self) -> Json:
        """Return OpenAI's object of the job. What its status does not say is null."""
        request, hyperparameters = self.request or {}, self._hyperparameters()
        return {
            "object": "fine_tuning.job",
            "id": self.name,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "estimated_finish": None,
            "status": self.state,
            "error": self._error(),
            "model": self.base,
            "fine_tuned_model": self.tuned_model,
            "organization_id": self.metadata.get("namespace"),
            "training_file": str(request.get("training_file") or self._training_address()),
            "validation_file": request.get("validation_file") or self._validation_address(),
            "result_files": [],
            "trained_tokens": self._trained_tokens(),
            "seed": hyperparameters["seed"],
            "hyperparameters": {
                "n_epochs": hyperparameters["epochs"],
                "batch_size": hyperparameters["batchSize"],
                "learning_rate_multiplier": self._asked_multiplier(),
            },
            "method": self._method(hyperparameters),
            "integrations": [],
            "metadata": self.user_metadata or None,
            "suffix": request.get("suffix"),
        }

    def _trained_tokens(self) -> int | None:
        """The number of a run that has succeeded; what was last seen of another one may be of an earlier step."""
        return self.status.progress.trained_tokens if self.state == "succeeded" and self.status.progress else None

    def _error(self) -> Json | None:
        condition = self.condition
        if self.state != "failed" or condition is None:
            return None
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", condition.reason).lower()
        return {"code": code, "message": condition.message or condition.reason, "param": _PARAMS.get(condition.reason)}

    def _hyperparameters(self) -> Json:
        """Return the hyperparameters that are used: those of the warm-up, if it is alone, take the places of others."""
        used = {**Hyperparameters().to_json_object(), **self.spec.get("hyperparameters", {})}
        if self.is_reinforced:
            return used
        settings = {**WarmupSettings().to_json_object(), **self.spec["warmup"]}
        return {**used, "epochs": settings["epochs"], "batchSize": settings["batchSize"]}

    def _training_address(self) -> str:
        sources = self.spec["data"]["train"] if self.is_reinforced else self.spec["warmup"]["data"]
        return str(sources[0]["uri"])

    def _validation_address(self) -> str | None:
        sources = (self.spec["data"] if self.is_reinforced else self.spec["warmup"]).get("validation")
        return str(sources[0]["uri"]) if sources else None

    def _asked_multiplier(self) -> Any:
        return self._asked_settings().get("learning_rate_multiplier", "auto") if self.request else None

    def _asked_settings(self) -> Json:
        asked = self.request or {}
        method = asked.get("method")
        part = method.get(method.get("type")) if isinstance(method, dict) else asked
        settings = part.get("hyperparameters") if isinstance(part, dict) else None
        return settings if isinstance(settings, dict) else {}

    def _method(self, used: Json) -> Json:
        if self.request is not None and isinstance(self.request.get("method"), dict):
            return dict(self.request["method"])
        settings = {"n_epochs": used["epochs"], "batch_size": used["batchSize"]}
        if not self.is_reinforced:
            return {"type": "supervised", "supervised": {"hyperparameters": settings}}
        rewards = list(dict.fromkeys(source["reward"] for source in self.spec["data"]["train"]))
        grader: Json = {"type": "reward_function", "name": rewards[0]}
        if len(rewards) > 1:
            grader["names"] = rewards
        settings["eval_interval"] = used["evalInterval"]
        return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": settings}}


def job_in_deletion(name: str) -> ApiError:
    """Return the error for a job that somebody has deleted, and that is not gone yet."""
    message = f"Job {name} is being deleted. Create another one; with the same Idempotency-Key, when this one is gone."
    return ApiError(409, message, code="job_in_deletion", headers={"retry-after": "2"})


def unix_time(text: str | None) -> int | None:
    """Return the Unix time of a timestamp as Kubernetes writes it; None if there is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) if text else None
    except ValueError:
        return None


def _read_request(text: str | None) -> Json | None:
    """Return the request in an annotation; None for a text that somebody has put into its place."""
    try:
        document = parse_bounded((text or "").encode())
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
