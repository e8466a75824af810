"""What `rft serve` makes of manifests: the servers, their models for the gateway, remarks, and refusals."""

from __future__ import annotations

import shlex
import socket
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny import write_model

from rft_api import vllm_server
from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.gateway_routes import RouteList
from rft_api.manifests import ManifestErrors
from rft_cli.served_endpoints import plan_servers
from rft_cli.served_logs import log_of
from rft_cli.serving_folder import ServingFolder
from rft_cli.vllm_command import server_environment
from rft_gateway.keys import KeyFolder, KeyRing


def endpoint(name: str, spec: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "InferenceEndpoint",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def base(name: str = "small", **spec: Any) -> dict[str, Any]:
    return endpoint(name, {"model": {"uri": f"s3://rft/models/{name}"}, **spec})


def adapter(name: str = "tuned", **spec: Any) -> dict[str, Any]:
    return endpoint(name, {"baseEndpoint": "small", "adapter": {"uri": f"s3://rft/runs/{name}/best"}, **spec})


INCOMPLETE_JOB = {"apiVersion": "rft.dev/v1alpha1", "kind": "RFTJob", "metadata": {"name": "tax"}}
SOURCES = {"adapterSources": ["s3://rft/runs/"]}
LOGS = {"uri": "s3://rft/logs", "credentials": {"secretName": "s3"}, "fraction": "0.5"}


def write(folder: Path, *documents: dict[str, Any]) -> Path:
    file = folder / "endpoints.yaml"
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return file


def plan(folder: Path, *documents: dict[str, Any], gpus: tuple[str, ...] = ()):
    return plan_servers([write(folder, *documents)], gpus)


def refusals(folder: Path, *documents: dict[str, Any], gpus: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ManifestErrors) as refusal:
        plan(folder, *documents, gpus=gpus)
    return [str(error).removeprefix(f"{folder}/") for error in refusal.value.errors]


def test_each_base_has_a_server_that_has_its_adapters(tmp_path):
    documents = [
        adapter("first"), base(serving={"gpus": 0, "maxModelLength": 512, "maxAdapterRank": 16, **SOURCES}),
        base("other", serving={"gpus": 0, "precision": "Float32", "mediaDomains": ["a.example"]}), adapter("second"),
    ]  # fmt: skip
    servers, remarks = plan(tmp_path, *documents)
    assert remarks == []
    assert [[served.name for served in server.endpoints] for server in servers] == [
        ["small", "first", "second"], ["other"],
    ]  # fmt: skip
    assert servers[0].arguments() == [
        *vllm_server.media_arguments(()),
        "--max-model-len", "512", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "16",
    ]  # fmt: skip
    assert servers[1].arguments() == ["--allowed-media-domains", "a.example", "--dtype", "float32"]
    assert servers[0].adapters[0].address == "s3://rft/runs/first/best"


def test_a_server_has_no_more_adapters_at_once_than_the_manifest_says(tmp_path):
    servers, _ = plan(tmp_path, base(serving={"maxAdapters": 1, **SOURCES}), adapter("first"), adapter("second"))
    assert servers[0].arguments()[2:5] == ["--enable-lora", "--max-loras", "1"]


def test_paths_start_from_the_folder_of_the_manifest(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    documents = [base(model={"uri": "model"}), adapter(adapter={"uri": "./adapter"})]
    servers, _ = plan(tmp_path, *documents)
    assert [served.address for served in servers[0].endpoints] == [str(tmp_path / "model"), str(tmp_path / "adapter")]
    assert not any(served.is_remote for served in servers[0].endpoints)


def test_routes_have_prices_and_logs(tmp_path):
    price, own = {"promptTokens": "0.10"}, {"promptTokens": "0.20"}
    documents = [
        base(price=price, serving=SOURCES), adapter("first", price=own, logs=LOGS), adapter("second"),
    ]  # fmt: skip
    for document in documents:
        document["metadata"]["namespace"] = "team-a"
    servers, _ = plan(tmp_path, *documents)
    routes = servers[0].routes("http://127.0.0.1:1", None)
    assert [(route.namespace, route.model, route.base, route.price.prompt_tokens) for route in routes] == [
        ("team-a", "small", "small", "0.10"),
        ("team-a", "first", "small", "0.20"),
        ("team-a", "second", "small", "0.10"),
    ]
    assert [route.logs and (route.logs.uri, route.logs.fraction) for route in routes] == [
        None, ("s3://rft/logs", 0.5), None,
    ]  # fmt: skip
    own_log = ConversationLogs(uri="/logs")
    assert {route.logs.uri for route in servers[0].routes("http://127.0.0.1:1", own_log)} == {"/logs"}
    files = ServingFolder(tmp_path)
    files.write_routes(routes)
    assert "secretName" not in files.routes.read_text()


REDACTED = {**LOGS, "redact": {"patterns": [{"pattern": "own"}]}}


@pytest.mark.parametrize(
    ("fraction", "redact", "expected"),
    [(None, None, (0.5, ["own"])), ("0.25", None, (0.25, ["own"])), (None, ["other"], (0.5, ["other"]))],
)
def test_what_a_manifest_redacts_stays_redacted_in_the_log_of_the_command_line(tmp_path, fraction, redact, expected):
    servers, _ = plan(tmp_path, base(serving=SOURCES), adapter("first", logs=REDACTED))
    option = log_of(str(tmp_path / "logs"), fraction, redact)
    other, first = (route.logs for route in servers[0].routes("http://127.0.0.1:1", option))
    assert (first.uri, other) == (str(tmp_path / "logs"), option)
    assert (first.fraction, [rule.pattern for rule in first.redact.patterns]) == expected
    # As the gateway reads them.
    files = ServingFolder(tmp_path)
    files.write_routes(servers[0].routes("http://127.0.0.1:1", option))
    routes = RouteList.model_validate_json(files.routes.read_text()).routes
    assert [route.logs for route in routes] == [other, first]


def test_gpus_are_shared_out(tmp_path):
    documents = [base(serving={"gpus": 2}), base("other"), base("third", serving={"gpus": 0})]
    servers, remarks = plan(tmp_path, *documents, gpus=("0", "1", "2", "3"))
    assert [server.gpus for server in servers] == [("0", "1"), ("2",), ("3",)]
    assert servers[0].arguments()[-2:] == ["--tensor-parallel-size", "2"]
    assert [str(remark).partition("spec.")[2] for remark in remarks] == [
        "serving.gpus: has no effect here: it is 0, but the vLLM of this machine computes on GPUs; it takes one"
    ]
    assert server_environment({}, servers[0].gpus)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in server_environment({}, ())


def test_more_gpus_than_there_are_are_refused(tmp_path):
    assert refusals(tmp_path, base(serving={"gpus": 8}), gpus=("0", "1")) == [
        "endpoints.yaml:9: spec.serving.gpus: 8 are needed, and this machine has 2; set gpus: 2 or less"
    ]
    [error] = refusals(tmp_path, base(serving={"gpus": 2}), base("other"), gpus=("0", "1"))
    assert "1 are needed, and the endpoints before this one leave 0 of the 2 of this machine" in error


def test_each_field_without_effect_has_a_remark(tmp_path):
    spec = {
        "replicas": 3, "autoscale": {}, "coldStart": {}, "credentials": {"secretName": "s3"},
        "serving": {"gpus": 2, "gpuResource": "amd.com/gpu", "pod": {"nodeSelector": {"a": "b"}}, **SOURCES},
    }  # fmt: skip
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rewards"}}
    _, remarks = plan(tmp_path, other, base(**spec), adapter(logs=LOGS))
    places = [(remark.line, remark.path) for remark in remarks]
    text = (tmp_path / "endpoints.yaml").read_text().splitlines()
    assert [(path, text[line - 1].strip(" :").partition(":")[0]) for line, path in places] == [
        ("kind", "kind"),
        ("spec.replicas", "replicas"),
        ("spec.autoscale", "autoscale"),
        ("spec.coldStart", "coldStart"),
        ("spec.credentials", "credentials"),
        ("spec.serving.gpus", "gpus"),
        ("spec.serving.gpuResource", "gpuResource"),
        ("spec.serving.pod", "pod"),
        ("spec.logs.credentials", "credentials"),
    ]
    assert "ConfigMap rewards is ignored: only InferenceEndpoints are served" in str(remarks[0])
    assert all("has no effect here: " in remark.message for remark in remarks[1:])


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([adapter()], "spec.baseEndpoint: InferenceEndpoint small is not among the given files; give its"),
        ([base("smal"), adapter()], "InferenceEndpoint small is not among the given files; did you mean smal?"),
        ([base(serving=SOURCES), adapter("first"), adapter("second", baseEndpoint="first")],
         "spec.baseEndpoint: first is itself an adapter; name the endpoint of the base model"),
        ([base(), adapter()], "spec.adapter.uri: InferenceEndpoint small does not serve adapters from s3://rft/runs/"),
        ([base(serving={"maxAdapters": 0}), adapter()], "spec.baseEndpoint: small has serving.maxAdapters: 0; raise"),
        ([base(), base()], "metadata.name: InferenceEndpoint small is already defined in "),
        ([base(), endpoint("b", {"model": {"uri": "s3://rft/b"}}, namespace="team-b")],
         "metadata.namespace: is not default, the namespace of small; serve the endpoints of one namespace"),
        ([base(model={"uri": "pvc://claim/model"})],
         "spec.model.uri: pvc:// can be opened in a cluster only; use the path of a folder, s3:// or hf://"),
        ([base(model={"uri": "hf://nobody"})], "spec.model.uri: must look like hf://OWNER/NAME"),
        ([base(model={"uri": "models/none"})], "spec.model.uri: there is no folder "),
        ([base(model={"uri": "."})], "spec.model.uri: {folder}: is no model: it holds no config.json"),
        ([base(serving=SOURCES), adapter(adapter={"uri": "."})],
         "spec.adapter.uri: {folder}: is no adapter: it holds no adapter_config.json"),
        ([base(logs={**LOGS, "redact": {"patterns": [{"pattern": "("}]}})],
         "spec.logs.redact.patterns[0].pattern: is not a regular expression"),
        ([base(logs={"uri": "logs", "credentials": {"secretName": "s3"}})],
         "; for a folder, leave out spec.logs and use --logs FOLDER"),
        ([base(servings={})], "spec.servings: "),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_its_place(tmp_path, documents, message):
    errors = refusals(tmp_path, *documents)
    assert any(message.replace("{folder}", str(tmp_path)) in error for error in errors), errors
    assert all(error.startswith("endpoints.yaml:") for error in errors)


def test_without_an_endpoint_nothing_can_be_served(tmp_path):
    with pytest.raises(RunError, match="no InferenceEndpoint, so nothing can be served") as refusal:
        plan(tmp_path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}})
    assert refusal.value.code is ExitCode.CONFIGURATION_INVALID


def test_the_output_of_a_job_can_be_served(tmp_path):
    with pytest.raises(RunError, match="when rft run has trained RFTJob tax, serve its output folder"):
        plan(tmp_path, INCOMPLETE_JOB)


def test_a_file_without_documents_is_empty(tmp_path):
    (tmp_path / "endpoints.yaml").write_text("# later\n")
    with pytest.raises(RunError, match=f"{tmp_path}: empty, so nothing can be served"):
        plan_servers([tmp_path], ())


def test_a_job_that_is_incomplete_is_ignored_as_every_job(tmp_path):
    servers, remarks = plan(tmp_path, INCOMPLETE_JOB, base(serving={"gpus": 0}))
    assert [server.base.name for server in servers] == ["small"]
    assert [remark.message for remark in remarks] == ["RFTJob tax is ignored: only InferenceEndpoints are served"]


def test_without_gpus_a_manifest_that_says_nothing_of_them_is_told_what_to_write(tmp_path):
    _, [remark] = plan(tmp_path, base())
    assert remark.message == (
        "has no effect here: it is 1 by default, but vLLM finds no GPU on this machine and computes on its CPUs; write "
        "serving: {gpus: 0}"
    )


def test_the_command_prints_every_error_with_its_line(rft, tmp_path):
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        textwrap.dedent("""\
            apiVersion: rft.dev/v1alpha1
            kind: InferenceEndpoint
            metadata: {name: tuned}
            spec:
              baseEndpoint: small
              adapter: {uri: "pvc://claim/adapter"}
            """)
    )
    ended = rft("serve", file)
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert [line.removeprefix(f"{file}:") for line in ended.stderr.splitlines()] == [
        "5: spec.baseEndpoint: InferenceEndpoint small is not among the given files; give its manifest, too",
        "6: spec.adapter.uri: pvc:// can be opened in a cluster only; use the path of a folder, or s3://",
    ]
    assert not (tmp_path / "serving").exists()


def test_a_run_is_served_by_itself(rft, finished_run, tmp_path):
    ended = rft("serve", finished_run.path, write(tmp_path, base()))
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert "is the folder of a run, which is served by itself; leave the others out" in ended.stderr


def test_a_file_that_is_missing_is_named(rft, tmp_path):
    ended = rft("serve", tmp_path / "none.yaml")
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert ended.stderr == f"error: {tmp_path}/none.yaml: No such file or directory\n"


def test_a_folder_with_nothing_in_it_is_named(rft, tmp_path):
    (tmp_path / "nothing").mkdir()
    ended = rft("serve", write(tmp_path, base()), tmp_path / "nothing")
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert f"{tmp_path}/nothing holds neither an exported run nor manifests (*.yaml)" in ended.stderr


def test_a_port_that_is_in_use_is_noticed_before_anything_is_fetched(rft, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = rft("serve", write(tmp_path, base()), "--port", port)
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert f"port {port}: the port is in use; choose another --port, or 0" in ended.stderr
    assert "fetching" not in ended.stdout


def test_the_command_for_keys_makes_one_that_opens_the_models(rft, tmp_path):
    files = ServingFolder(tmp_path / "a folder")
    files.path.mkdir()
    files.prepare("team-a")
    program, *arguments = shlex.split(files.key_command("team-a").replace("NAME", "ann"))
    assert program == "rft"
    token = rft(*arguments).stdout.strip()
    ring = KeyRing()
    KeyFolder(files.keys, ring)
    key = ring.find(token)
    assert (key.name, key.namespace) == ("ann", "team-a")
