"""What is observed of an RFTJob and of what it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.progress import Progress
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob, RFTJobSpec
from rft_api.trainer_config import TrainerConfig
from rft_operator.pods.pod_view import PodView
from rft_operator.rft_job.attempts import Attempt
from rft_operator.rft_job.objects import CONFIGURATION_KEY, SPEC_KEY


@dataclass(frozen=True)
class RunConfiguration:
    """The ConfigMap that a run was started with."""

    name: str
    uid: str
    spec: RFTJobSpec
    """The spec that the run started with."""
    reward_digests: Mapping[str, str]
    """Digests of the rewards that it started with."""


@dataclass(frozen=True)
class RFTJobWorld:
    """Everything that planning an RFTJob looks at."""

    job: RFTJob
    reward_functions: Mapping[str, RewardFunction]
    """Those that the job refers to, as far as they exist."""
    configuration: RunConfiguration | None
    attempts: Sequence[Attempt]
    """By number."""
    pods: Sequence[PodView]
    progress: Progress | None
    """What rank 0 said just now; none when it could not be asked."""
    endpoints: Mapping[str, InferenceEndpoint]
    """Endpoints of the namespace that the job names, as far as they exist."""
    sharing_jobs: Sequence[RFTJob]
    """Jobs of the namespace, this one included, whose endpoints are served by the same base endpoint."""
    now: datetime


def read_run_configuration(config_map: dict[str, Any]) -> RunConfiguration | None:
    """The view of a run's ConfigMap; none when it holds no run of this version."""
    data = config_map.get("data", {})
    try:
        spec = RFTJobSpec.model_validate(json.loads(data[SPEC_KEY]))
        config = TrainerConfig.model_validate_json(data[CONFIGURATION_KEY])
    except (KeyError, ValueError, ValidationError):
        return None
    digests = {name: target.digest for name, target in config.rewards.items()}
    metadata = config_map["metadata"]
    return RunConfiguration(metadata["name"], metadata["uid"], spec, digests)
