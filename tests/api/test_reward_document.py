"""Code that is too large for the ConfigMap that a cluster needs, and which field is to blame."""

from __future__ import annotations

from typing import Any

import pytest

from rft_api.config_map_size import CONFIG_MAP_BYTES
from rft_api.manifests import SourceTooLong, resolve_source
from rft_api.reward_document import document_violation, reward_document
from rft_api.reward_function import RewardFunction

HANDLER = "def lambda_handler(event, context): ...\n"


def function(spec: dict[str, Any]) -> RewardFunction:
    return RewardFunction.model_validate({"metadata": {"name": "r", "namespace": "team"}, "spec": spec})


def violation(written: RewardFunction, code: str = "") -> str | None:
    resolved = resolve_source(written, {"code": {"reward.py": code}})
    found = document_violation(written, reward_document(resolved))
    return None if found is None else str(found)


FROM_CONFIG_MAP = {"python": {"sourceFrom": {"configMap": {"name": "code", "key": "reward.py"}}}}


def terms(count: int) -> RewardFunction:
    """A function of several terms, each with its code from a ConfigMap."""
    return function({"combine": {"terms": [{"name": f"t{number}", **FROM_CONFIG_MAP} for number in range(count)]}})


def test_code_of_844_kilobytes_is_too_large_as_json():
    """Short lines with quotation marks grow by a third. The API server would name an internal object."""
    code = HANDLER + 'W = "ab"\n' * 23_447
    assert len(code) * 4 == 844_252
    assert violation(terms(4), code) == (
        "spec.combine.terms: has 1,125,964 bytes as JSON, and the ConfigMap that the operator makes from it would have "
        "1,126,427; Kubernetes allows 1,048,576: move data out of the code, into a file that pod.volumes mounts and "
        "sandbox.readable names, or shorten the tests"
    )
    assert violation(terms(3), code) is None


def test_code_that_is_longer_than_any_code_may_be():
    with pytest.raises(SourceTooLong) as raised:
        violation(function(FROM_CONFIG_MAP), HANDLER + "#" * 262_144)
    assert str(raised.value) == (
        "spec.python.sourceFrom.configMap: key reward.py of ConfigMap code has 262,184 characters, and the code of a "
        "reward 262,144 at most: move data out of the code, into a file that pod.volumes mounts and sandbox.readable "
        "names"
    )


@pytest.mark.parametrize(("more", "too_large"), [(0, False), (1, True)])
def test_the_limit_is_exact(more, too_large):
    test = {"prompt": "", "completion": "c", "expect": {"minimum": "0"}}

    def tested(characters: int) -> RewardFunction:
        prompts = [{**test, "prompt": "p" * 200_000}] * 5 + [{**test, "prompt": "p" * characters}]
        return function({"builtin": {"name": "Math"}, "tests": prompts})

    room = CONFIG_MAP_BYTES - len(reward_document(tested(0)).encode())
    assert (violation(tested(room + more)) is not None) is too_large


def test_the_field_that_takes_most_of_it_is_named():
    test = {"prompt": "p" * 100_000, "completion": "c" * 100_000, "expect": {"minimum": "0"}}
    tests = {"builtin": {"name": "Math"}, "tests": [test] * 6}
    assert str(violation(function(tests))).startswith("spec.tests: has 1,200,")
    # One term of several, whose code comes from a ConfigMap: characters outside of ASCII take several bytes.
    referring = [{"name": "small", "builtin": {"name": "Math"}}, {"name": "large", **FROM_CONFIG_MAP}]
    found = violation(function({"combine": {"terms": referring}}), "\U0001f600" * 262_144)
    assert str(found).startswith("spec.combine.terms[1].python.sourceFrom: has 1,048,578 bytes as JSON, ")
