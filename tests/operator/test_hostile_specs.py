"""Parts of pods in specs, of which the schema knows only that they are objects: what cannot be a part is named."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from worlds_from_yaml import SETTINGS

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.manifests import describe_invalid
from rft_api.openai_template import parse_template
from rft_api.reward_function import RewardFunction
from rft_operator.inference_endpoint.objects import CPU_CACHE_DEFAULT, build_server_deployment


def endpoint(pod):
    return {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "InferenceEndpoint",
        "metadata": {"name": "x", "namespace": "team", "uid": "uid"},
        "spec": {"model": {"uri": "s3://m/x"}, "serving": {"gpus": 0, "pod": pod}},
    }


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        ({"resources": {"limits": 5}}, "resources: limits must be names of resources with an amount each"),
        ({"resources": {"limits": "memory"}}, "resources: limits must be names of resources"),
        ({"resources": {"requests": ["memory"]}}, "resources: requests must be names of resources"),
        ({"resources": {"limits": {"memory": {}}}}, "resources: limits must be names of resources"),
        ({"env": [{"name": "A", "value": "1"}, {"name": {}}]}, "env: [1].name must be a text"),
        ({"env": [{"value": "1"}]}, "env: [0].name must be a text"),
        ({"volumes": [{"name": [1], "emptyDir": {}}]}, "volumes: [0].name must be a text"),
        ({"volumeMounts": [{"name": "x", "mountPath": {"a": 1}}]}, "volumeMounts: [0].mountPath must be a text"),
    ],
)
def test_what_cannot_be_merged_is_named(pod, problem):
    document = endpoint(pod)
    with pytest.raises(ValidationError) as raised:
        InferenceEndpoint.model_validate(document)
    assert describe_invalid(document, raised.value).startswith(f"spec.serving.pod.{problem}")


@pytest.mark.parametrize("memory", ["abc", "1e10", "9" * 400, "-1", "", "1Gi", 5, 0.5, True])
def test_amounts_are_those_of_kubernetes(memory):
    """Kubernetes says what it does not take; here any amount is an amount."""
    parsed = InferenceEndpoint.model_validate(endpoint({"resources": {"limits": {"memory": memory}}}))
    template = build_server_deployment(parsed, 1, SETTINGS)["spec"]["template"]
    command = template["spec"]["containers"][0]["command"]
    size = int(command[command.index("--kv-cache-memory-bytes") + 1])
    assert size in (CPU_CACHE_DEFAULT, (1 << 30) // 4, 1, 0)


def function(**spec):
    return {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "RewardFunction",
        "metadata": {"name": "x", "namespace": "team", "uid": "uid"},
        "spec": spec,
    }


@pytest.mark.parametrize("text", ["{{" * 131_072, "{" * 262_144, "{{}" * 87_381, "{{ item.x }" * 23_000])
def test_a_template_of_beginnings_is_read_once(text):
    """Each looked for its end in all that follows: the largest text took five minutes, in which nobody was served."""
    check = {"type": "string_check", "name": "x", "operation": "eq", "input": text, "reference": "x"}
    RewardFunction.model_validate(function(openai={"grader": check}))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(["{", "}", "{{", "}}", " item.a ", " ", "x", "\n"]), max_size=12).map("".join))
def test_templates_have_the_parts_that_they_always_had(text):
    matches = list(re.finditer(r"\{\{(.*?)\}\}", text, re.DOTALL))
    try:
        parts = parse_template(text)
    except ValueError:
        assert any(match[1].strip() != "item.a" for match in matches)
        return
    assert [part for part in parts if not isinstance(part, str)] == [["item", "a"]] * len(matches)
    assert "".join(part for part in parts if isinstance(part, str)) == re.sub(r"\{\{.*?\}\}", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["ExactMatch", "F1", "Format"])
def test_the_operator_compiles_no_regular_expression(name):
    """One of 4,096 characters took six seconds; a look-behind of any length is found only when it is compiled."""
    options = {name[0].lower() + name[1:]: {"pattern": "(?i)" + "[a-\U0010fffe]" * 200 + "(?<=a+)"}}
    parsed = RewardFunction.model_validate(function(builtin={"name": name, **options}))
    (problem,) = parsed.spec.builtin.options.problems()
    assert str(problem) == "pattern: is not a regular expression: look-behind requires fixed-width pattern"
