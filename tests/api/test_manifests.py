"""Reading manifests: lines, suggestions, everything wrong at once, and nothing that ends in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_api.manifests import ManifestErrors, SourceMissing, load_manifests, resolve_source
from rft_api.model import Violation
from rft_api.reward_function import RewardFunction

HEAD = "apiVersion: rft.dev/v1alpha1\nkind: {}\nmetadata: {{name: {}}}\n"
JOB = HEAD.format("RFTJob", "j") + (
    "spec:\n  model: {uri: m}\n  data:\n    train:\n    - {name: a, uri: a, reward: r}\n"
    "    - name: b\n      uri: b\n      reward: r\n  output: {uri: o}\n"
)
REWARD = HEAD.format("RewardFunction", "r") + "spec:\n  builtin: {name: Math}\n"
ENDPOINT = HEAD.format("InferenceEndpoint", "e") + "spec:\n  model: {uri: m}\n"
CONFIG_MAP = "kind: ConfigMap\nmetadata: {name: code}\ndata:\n  a.py: |\n    x = 1\n  empty.py: ''\n"


def load(folder: Path, *documents: str):
    file = folder / "m.yaml"
    file.write_text("---\n".join(documents), encoding="utf-8")
    return load_manifests([file])


def errors(folder: Path, *documents: str) -> list[str]:
    with pytest.raises(ManifestErrors) as raised:
        load(folder, *documents)
    return [str(error).replace(f"{folder}/", "") for error in raised.value.errors]


def test_everything_is_found(tmp_path):
    found = load(tmp_path, JOB, REWARD, ENDPOINT, CONFIG_MAP, "kind: Secret\n", "")
    assert [job.metadata.name for job in found.jobs] == ["j"]
    assert list(found.reward_functions) == ["r"]
    assert [endpoint.metadata.name for endpoint in found.endpoints] == ["e"]
    assert found.config_maps == {"code": {"a.py": "x = 1\n", "empty.py": ""}}
    assert found.folders == {"j": tmp_path}


def test_lines_of_nested_fields(tmp_path):
    assert errors(tmp_path, JOB.replace("uri: b", "url: b")) == [
        "m.yaml:9: spec.data.train[1].uri: is required",
        "m.yaml:10: spec.data.train[1].url: unknown field; did you mean uri?",
    ]


def test_lines_in_a_later_document(tmp_path):
    assert errors(tmp_path, REWARD, JOB.replace("output: {uri: o}", "output: {}"))[0].startswith(
        "m.yaml:18: spec.output.uri"
    )


def test_all_documents_are_checked(tmp_path):
    found = errors(
        tmp_path, JOB.replace("uri: m", "uri: 1"), REWARD.replace("Math", "Maths"), "- a\n", "kind: RFTJob\n"
    )
    assert len(found) == 6
    assert found[0].startswith('m.yaml:5: spec.model.uri: must be a string: write "1", in quotes')
    assert found[1].startswith("m.yaml:18: spec.builtin.name: must be one of Math, ")
    assert found[2] == "m.yaml:20: a manifest is a mapping of fields"
    assert [error.split(": ", 1)[1] for error in found[3:]] == [
        "apiVersion: is required", "metadata: is required", "spec: is required",
    ]  # fmt: skip


def test_what_is_right_comes_with_the_errors(tmp_path):
    with pytest.raises(ManifestErrors) as raised:
        load(tmp_path, JOB, REWARD.replace("Math", "Maths"))
    assert [job.metadata.name for job in raised.value.manifests.jobs] == ["j"]
    assert ("RewardFunction", "r") in raised.value.manifests.origins


@pytest.mark.parametrize("document", [JOB, REWARD, ENDPOINT, CONFIG_MAP])
def test_duplicates(tmp_path, document):
    (message,) = errors(tmp_path, document, document)
    assert "metadata.name: " in message
    assert "is already defined in" in message


@pytest.mark.parametrize(
    "text",
    [
        "kind: ConfigMap\nmetadata: x\n",
        "kind: ConfigMap\nmetadata: {name: a}\ndata: [1]\n",
        "kind: ConfigMap\nmetadata: {name: a}\ndata: {a: null}\n",
        "kind: RFTJob\nmetadata: 3\n",
        "kind: RFTJob\nday: 2024-13-45\n",
        "kind: &a [*a]\nx: *b\n",
        "apiVersion: rft.dev/v1alpha1\nkind: [RFTJob]\n",
        "{[1]: 2}\n",
        "a: !!python/object:os.system {}\n",
        "[" * 5000,
        "\x07",
        JOB.replace("{name: j}", '{name: "j\\n"}'),
        JOB.replace("{name: j}", '{name: "\\ud800"}'),
        JOB + "  1: 2\n",
        JOB + "  hyperparameters: {epochs: " + "9" * 5000 + "}\n",
    ],
)
def test_nothing_ends_in_a_traceback(tmp_path, text):
    assert errors(tmp_path, text)


@pytest.mark.parametrize(
    ("number", "text"), [("1e-5", "1e-05"), ("5E-6", "5e-06"), ("1e-05", "1e-05"), (".001", "0.001")]
)
def test_numbers_without_quotes_are_refused_as_by_a_cluster(tmp_path, number, text):
    """kubectl reads 1e-5 as a number, which the API server refuses in the place of a text."""
    job = JOB + "  hyperparameters: {learningRate: " + number + "}\n"
    (message,) = errors(tmp_path, job)
    assert message.endswith(f'spec.hyperparameters.learningRate: must be a string: write "{text}", in quotes')
    assert load(tmp_path, job.replace(number, f'"{text}"')).jobs


def test_other_kinds_than_the_given_are_only_known_by_their_origin(tmp_path):
    file = tmp_path / "m.yaml"
    incomplete = [HEAD.format("RFTJob", "j"), HEAD.format("RFTJob", "j"), "kind: ConfigMap\n", "kind: Secret\n"]
    file.write_text("---\n".join([*incomplete, ENDPOINT]))
    found = load_manifests([file], {"InferenceEndpoint"})
    assert (len(found.endpoints), found.jobs, found.documents) == (1, [], 5)
    assert list(found.origins) == [("RFTJob", "j"), ("ConfigMap", ""), ("InferenceEndpoint", "e")]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ManifestErrors) as raised:
        load_manifests([tmp_path, tmp_path / "gone.yaml"])
    assert len(raised.value.errors) == 2


def python(reference: str) -> RewardFunction:
    spec = {"python": {"sourceFrom": {"configMap": {"name": "code", "key": reference}}, "handler": "grade"}}
    return RewardFunction.model_validate({"metadata": {"name": "r"}, "spec": spec})


MAPS = {"code": {"a.py": "x = 1\n", "empty.py": " \n"}}


def test_code_is_taken_from_config_maps():
    resolved = resolve_source(python("a.py"), MAPS).spec.python
    assert resolved is not None
    assert (resolved.source, resolved.source_from, resolved.handler) == ("x = 1\n", None, "grade")


def test_code_of_terms_is_taken_from_config_maps():
    term = {"name": "t", **python("a.py").spec.model_dump(by_alias=True, include={"python"}, exclude_none=True)}
    function = RewardFunction.model_validate({"metadata": {"name": "r"}, "spec": {"combine": {"terms": [term]}}})
    combine = resolve_source(function, MAPS).spec.combine
    assert combine is not None
    assert combine.terms[0].python is not None
    assert combine.terms[0].python.source == "x = 1\n"


@pytest.mark.parametrize(("key", "message"), [("b.py", "there is no ConfigMap"), ("empty.py", "is empty")])
def test_missing_code_is_named(key, message):
    with pytest.raises(SourceMissing, match=message) as raised:
        resolve_source(python(key), MAPS)
    assert str(raised.value).startswith("spec.python.sourceFrom.configMap: ")


def test_errors_inside_blocks_of_text_have_the_line_of_the_file(tmp_path):
    origin = load(tmp_path, CONFIG_MAP).origins["ConfigMap", "code"]
    assert origin.error(Violation("wrong", ("data", "a.py"), text_line=1)).line == 5
    assert str(origin.error(Violation("wrong", ("data", "empty.py"), text_line=1))).endswith(
        "m.yaml:6: data.empty.py: wrong (line 1 of the text)"
    )
