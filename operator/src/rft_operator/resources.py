"""The list of the resources that the operator reconciles."""

from __future__ import annotations

from typing import Any

from rft_operator.inference_endpoint.resource import RESOURCE as INFERENCE_ENDPOINT
from rft_operator.reconcile.resource import Resource
from rft_operator.reward_function.resource import RESOURCE as REWARD_FUNCTION
from rft_operator.rft_job.resource import RESOURCE as RFT_JOB

RESOURCES: tuple[Resource[Any], ...] = (RFT_JOB, REWARD_FUNCTION, INFERENCE_ENDPOINT)
