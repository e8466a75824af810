"""Makes the fields of an RFTJob for a supervised job of OpenAI's API: a warm-up alone."""

from __future__ import annotations

from typing import Final

from rft_api.model import Json
from rft_api.quantities import decimal_text
from rft_gateway.errors import INVALID_VALUE, ApiError
from rft_gateway.fine_tuning.defaults import Defaults, default_fields
from rft_gateway.fine_tuning.request import SupervisedHyperparameters

SETTINGS: Final = "method.supervised.hyperparameters"
_LARGEST_RATE = 0.1
_DIGITS = 12
"""Significant digits of a learning rate: products of decimal numbers have some that nobody has asked for."""
_SHARED = (
    "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "maximum_gradient_norm", "eval_interval",
    "max_prompt_tokens", "max_completion_tokens",
)  # fmt: skip
"""The namespace's hyperparameters that a warm-up has, too; the others are of reinforcement learning."""


def supervised_spec(
    asked: SupervisedHyperparameters, defaults: Defaults, training: str, validation: str | None
) -> Json:
    """Return the fields of the RFTJob: every answer of the assistant is imitated, unless its weight is 0.

    Args:
        asked: the hyperparameters of the request.
        defaults: what the namespace gives its jobs.
        training: address of the training file.
        validation: address of the validation file, if there is one.

    Raises:
        ApiError: 400 when the learning rate would not be valid.
    """
    given = defaults.warmup
    warmup: Json = given.model_dump(mode="json", by_alias=True, exclude_unset=True)
    warmup["data"] = [_source("training", training)]
    if validation is not None:
        warmup["validation"] = [_source("validation", validation)]
    wholes = {"epochs": asked.n_epochs, "batchSize": asked.batch_size}
    warmup |= {field: value for field, value in wholes.items() if value != "auto"}
    if asked.learning_rate_multiplier != "auto":
        warmup["learningRate"] = learning_rate(asked.learning_rate_multiplier, given.learning_rate, SETTINGS)
    shared = defaults.hyperparameters.model_dump(mode="json", by_alias=True, exclude_unset=True, include=set(_SHARED))
    return {"warmup": warmup, "hyperparameters": shared, **default_fields(defaults, "sampling")}


def learning_rate(multiplier: float, default: float, settings: str) -> str:
    """Return the product of a multiplier and the default learning rate, as manifests write it.

    Args:
        multiplier: the multiplier.
        default: the learning rate of the namespace.
        settings: the place of the hyperparameters in the request.

    Raises:
        ApiError: 400 when the product is no learning rate.
    """
    rate = float(f"{default * multiplier:.{_DIGITS}g}")
    if not 0 < rate <= _LARGEST_RATE:
        param = f"{settings}.learning_rate_multiplier"
        message = f"{param}: makes the learning rate {rate:g}, which has to be above 0"
        message += f" and at most {_LARGEST_RATE}; the default is {default:g}"
        raise ApiError(400, message, param=param, code=INVALID_VALUE)
    return decimal_text(rate)


def _source(name: str, uri: str) -> Json:
    return {"name": name, "uri": uri, "imitate": "EveryAnswer"}
