"""The gateway in the chart: what it may, where it is reached, and where its ledger is."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cluster.kubectl import Manifest
from support.helm import CHART, RELEASE, SYSTEM, Helm, find

from rft_gateway.fine_tuning.defaults import CONFIG_MAP
from rft_gateway.settings import LEDGER_VARIABLE, TRACES_VARIABLES, Settings, read_settings

GOLDEN = Path(__file__).parents[1] / "operator" / "golden"
OPERATOR = "rft-rft-operator"
GATEWAY = "rft-rft-operator-gateway"
"""Names of their objects."""
DATABASE = {"replicas": 3, "ledger": {"urlSecret": {"name": "ledger", "key": "address"}}}
RULES = [
    {"apiGroups": ["rft.dev"], "resources": ["inferenceendpoints"], "verbs": ["list", "watch", "patch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
]
"""All that the gateway may."""
FINE_TUNING_RULES = [
    {"apiGroups": ["rft.dev"], "resources": ["inferenceendpoints"], "verbs": ["get"]},
    {"apiGroups": ["rft.dev"], "resources": ["rftjobs"], "verbs": ["get", "list", "create", "patch"]},
    {"apiGroups": ["rft.dev"], "resources": ["rewardfunctions"], "verbs": ["get", "list", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [CONFIG_MAP], "verbs": ["get"]},
]
"""What it may beside that where it answers the fine-tuning API."""


def render(chart: Helm, gateway: dict[str, Any] | None = None, **values: Any) -> list[Manifest]:
    return chart.template({"gateway": {"enabled": True, **(gateway or {})}, **values})


def container_of(manifests: list[Manifest], name: str = GATEWAY) -> dict[str, Any]:
    (container,) = find(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def ports_of(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def settings_of(container: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the gateway reads from its command line, and from its environment."""
    variables = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    for name in (LEDGER_VARIABLE, *TRACES_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        if name in variables:
            monkeypatch.setenv(name, variables[name] or "postgresql://database/ledger")
    return read_settings(container["args"])


def selects(selector: dict[str, str], manifest: Manifest) -> bool:
    """Whether labels select the pods of a Deployment."""
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return selector.items() <= labels.items()


def test_there_is_none_unless_it_is_wanted(chart: Helm):
    names = {manifest["metadata"]["name"] for manifest in chart.template({})}
    assert [name for name in names if "gateway" in name] == []
    assert not [argument for argument in container_of(chart.template({}), OPERATOR)["args"] if "gateway" in argument]


def test_the_fine_tuning_api_is_wanted_apart(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    assert not settings_of(container_of(render(chart)), monkeypatch).fine_tuning
    manifests = render(chart, {"fineTuning": {"enabled": True}})
    assert settings_of(container_of(manifests), monkeypatch).fine_tuning
    assert find(manifests, "ClusterRole", GATEWAY)["rules"] == [*RULES, *FINE_TUNING_RULES]


def test_the_store_of_outputs_is_reached_once_it_is_said(chart: Helm):
    outputs = {"fineTuning": {"enabled": True, "egress": [{"cidr": "192.0.2.7/32", "port": 9000}]}}
    store = {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    *_, egress = find(render(chart, outputs), "NetworkPolicy", GATEWAY)["spec"]["egress"]
    assert egress == store


def test_reward_servers_are_reached_where_graders_are_run(chart: Helm):
    _, servers = find(render(chart, {"fineTuning": {"enabled": True}}), "NetworkPolicy", GATEWAY)["spec"]["egress"]
    plan = yaml.safe_load((GOLDEN / "reward-first.plan.yaml").read_text(encoding="utf-8"))
    (deployment,) = [desired for desired in plan["desired"] if desired["kind"] == "Deployment"]
    assert selects(servers["to"][0]["podSelector"]["matchLabels"], deployment)
    server = deployment["spec"]["template"]["spec"]["containers"][0]
    assert [port["port"] for port in servers["ports"]] == [ports_of(server)["http"]]


@pytest.mark.parametrize("namespaces", [[], ["team-a", "team-b"]], ids=["all", "listed"])
def test_it_may_no_more_than_it_does(chart: Helm, namespaces: list[str]):
    manifests = [m for m in render(chart, watchNamespaces=namespaces) if m["metadata"]["name"] == GATEWAY]
    roles = [m for m in manifests if m["kind"] in ("Role", "ClusterRole")]
    assert [role["rules"] for role in roles] == [RULES] * len(namespaces or ["all"])
    assert {(role["kind"], role["metadata"].get("namespace")) for role in roles} == (
        {("Role", namespace) for namespace in namespaces} or {("ClusterRole", None)}
    )
    bindings = [m for m in manifests if m["kind"].endswith("Binding")]
    assert [(m["metadata"].get("namespace"), m["roleRef"]["kind"]) for m in bindings] == [
        (role["metadata"].get("namespace"), role["kind"]) for role in roles
    ]
    account = find(manifests, "ServiceAccount", GATEWAY)["metadata"]
    for binding in bindings:
        assert binding["roleRef"]["name"] == GATEWAY
        assert binding["subjects"] == [{"kind": "ServiceAccount", **only(account, "name", "namespace")}]
    pod = find(manifests, "Deployment", GATEWAY)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == GATEWAY


def only(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names}


def test_it_knows_its_arguments(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    values = {"drainSeconds": 90, "answerSeconds": 900, "logs": {"spoolGibibytes": 20, "seconds": 30}}
    container = container_of(render(chart, values, watchNamespaces=["team-a", "team-b"]))
    assert container["command"] == ["python", "-m", "rft_gateway"]
    settings = settings_of(container, monkeypatch)
    assert (settings.host, settings.operation_host) == ("0.0.0.0", "0.0.0.0")
    assert (settings.drain_seconds, settings.answer_seconds) == (90, 900)
    assert (settings.spool_bytes, settings.log_seconds) == (20 << 30, 30)
    assert (settings.kubernetes, settings.namespaces) == (True, ("team-a", "team-b"))
    # Where it listens is where it is asked.
    assert ports_of(container) == {"http": settings.port, "operation": settings.operation_port}


def test_it_has_the_time_to_end_what_has_begun(chart: Helm):
    pod = find(render(chart, {"drainSeconds": 300}), "Deployment", GATEWAY)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # The ledger takes up to 30 s while its database is away.
    assert pod["terminationGracePeriodSeconds"] >= before + 300 + 30


def test_one_pod_has_its_ledger_on_a_volume(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    manifests = render(chart)
    deployment = find(manifests, "Deployment", GATEWAY)["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    container = container_of(manifests)
    settings = settings_of(container, monkeypatch)
    volume = volume_of(container, Path(settings.ledger))
    assert volume == volume_of(container, settings.spool)
    claim = find(manifests, "PersistentVolumeClaim", f"{GATEWAY}-ledger")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (source,) = [v for v in deployment["template"]["spec"]["volumes"] if v["name"] == volume]
    assert source["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}


def volume_of(container: dict[str, Any], file: Path | None) -> str:
    """The volume that a file is on."""
    assert file is not None
    (volume,) = [mount["name"] for mount in container["volumeMounts"] if file.is_relative_to(mount["mountPath"])]
    return str(volume)


def test_a_claim_that_exists_is_taken(chart: Helm):
    manifests = render(chart, {"ledger": {"persistence": {"existingClaim": "mine"}}})
    assert not [m for m in manifests if m["metadata"]["name"] == f"{GATEWAY}-ledger"]
    volumes = find(manifests, "Deployment", GATEWAY)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_several_pods_share_a_database(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    manifests = render(chart, DATABASE)
    deployment = find(manifests, "Deployment", GATEWAY)["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (3, "RollingUpdate")
    container = container_of(manifests)
    (variable,) = container["env"]
    assert variable == {
        "name": LEDGER_VARIABLE,
        "valueFrom": {"secretKeyRef": {"name": "ledger", "key": "address"}},
    }
    settings = settings_of(container, monkeypatch)
    assert settings.ledger.startswith("postgresql://")
    # Its root file system is read-only.
    volumes = deployment["template"]["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == volume_of(container, settings.spool)]
    limit = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    assert limit > settings.spool_bytes  # otherwise the pod would be evicted
    assert [m for m in manifests if m["kind"] == "PersistentVolumeClaim" and GATEWAY in m["metadata"]["name"]] == []
    egress = find(manifests, "NetworkPolicy", GATEWAY)["spec"]["egress"]
    database = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 5432}]}
    assert database in egress
    assert database not in find(render(chart), "NetworkPolicy", GATEWAY)["spec"]["egress"]


def test_a_certificate_is_a_secret(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    manifests = render(chart, {"tls": {"secretName": "gateway-tls"}})
    container = container_of(manifests)
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    folder, settings = Path(mount["mountPath"]), settings_of(container, monkeypatch)
    assert (settings.tls_certificate, settings.tls_key) == (folder / "tls.crt", folder / "tls.key")
    assert find(manifests, "Service", GATEWAY)["spec"]["ports"][0]["name"] == "https"
    assert find(render(chart), "Service", GATEWAY)["spec"]["ports"][0]["name"] == "http"


def test_the_operator_asks_every_pod(chart: Helm):
    manifests = render(chart)
    (argument,) = [a for a in container_of(manifests, OPERATOR)["args"] if a.startswith("--gateway-demand=")]
    address = urlsplit(argument.partition("=")[2])
    service = find(manifests, "Service", f"{GATEWAY}-pods")
    assert address.hostname == f"{service['metadata']['name']}.{SYSTEM}.svc"
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    (port,) = service["spec"]["ports"]
    assert address.port == port["port"] == ports_of(container_of(manifests))[port["targetPort"]]
    assert selects(service["spec"]["selector"], find(manifests, "Deployment", GATEWAY))
    assert not selects(service["spec"]["selector"], find(manifests, "Deployment", OPERATOR))


def test_network_policies_let_pass_what_is_asked(chart: Helm):
    manifests = render(chart, metrics={"namespace": "monitoring"})
    gateway, operator = (find(manifests, "Deployment", name) for name in (GATEWAY, OPERATOR))
    ports = ports_of(container_of(manifests))
    spec = find(manifests, "NetworkPolicy", GATEWAY)["spec"]
    assert selects(spec["podSelector"]["matchLabels"], gateway)
    clients, operators = spec["ingress"]
    assert clients == {"ports": [{"protocol": "TCP", "port": ports["http"]}]}
    own, prometheus = operators["from"]
    assert selects(own["podSelector"]["matchLabels"], operator)
    assert prometheus == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert operators["ports"] == [{"protocol": "TCP", "port": ports["operation"]}]
    # The operator may leave its pod for that.
    leaving = find(manifests, "NetworkPolicy", f"{GATEWAY}-pods")["spec"]
    assert selects(leaving["podSelector"]["matchLabels"], operator)
    ((peer,), leaving_ports) = (leaving["egress"][0]["to"], leaving["egress"][0]["ports"])
    assert selects(peer["podSelector"]["matchLabels"], gateway)
    assert leaving_ports == operators["ports"]
    # Servers are as the operator makes them.
    (servers,) = spec["egress"]
    plan = yaml.safe_load((GOLDEN / "endpoint-base-gpu.plan.yaml").read_text(encoding="utf-8"))
    (deployment,) = [desired for desired in plan["desired"] if desired["kind"] == "Deployment"]
    assert selects(servers["to"][0]["podSelector"]["matchLabels"], deployment)
    server = deployment["spec"]["template"]["spec"]["containers"][0]
    assert [port["port"] for port in servers["ports"]] == [ports_of(server)["http"]]


def test_the_store_of_logs_is_reached_once_it_is_said(chart: Helm):
    logs = {"logs": {"egress": [{"cidr": "192.0.2.7/32", "port": 9000}]}}
    store = {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    egress = find(render(chart, {**DATABASE, **logs}), "NetworkPolicy", GATEWAY)["spec"]["egress"]
    assert egress[1]["ports"] == [{"protocol": "TCP", "port": 5432}]
    assert egress[2:] == [store]


FILES = {"uri": "s3://bucket/files", "credentials": {"secretName": "files"}, "stagingGibibytes": 6}


def test_files_are_kept_once_it_is_said_where(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    assert settings_of(container_of(render(chart)), monkeypatch).files is None
    egress = [{"cidr": "192.0.2.9/32", "port": 443}]
    manifests = render(chart, {**DATABASE, "files": {**FILES, "fileMebibytes": 3072, "egress": egress}})
    container = container_of(manifests)
    settings = settings_of(container, monkeypatch)
    files = settings.files
    assert files is not None
    assert (files.uri, files.file_bytes, files.staging_bytes) == ("s3://bucket/files", 3 << 30, 6 << 30)
    assert files.namespace_bytes == 100 << 30
    pod = find(manifests, "Deployment", GATEWAY)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[volume_of(container, files.credentials)]["secret"] == {"secretName": "files"}
    state = volumes[volume_of(container, files.staging)]
    limit = int(state["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    assert limit > settings.spool_bytes + files.staging_bytes
    store = {"to": [{"ipBlock": {"cidr": "192.0.2.9/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}
    assert store in find(manifests, "NetworkPolicy", GATEWAY)["spec"]["egress"]
    without = render(chart, {"files": {"uri": "s3://bucket"}})
    files = settings_of(container_of(without), monkeypatch).files
    assert files is not None
    assert files.credentials is None


def test_the_room_for_files_has_to_be_enough(chart: Helm):
    with pytest.raises(AssertionError, match=r"have no room for two files of 4096 MiB"):
        render(chart, {"files": {**FILES, "fileMebibytes": 4096}})
    with pytest.raises(AssertionError, match="uri"):
        render(chart, {"files": {"uri": "/folder"}})


def test_traces_are_sent_once_it_is_said_where(chart: Helm, monkeypatch: pytest.MonkeyPatch):
    assert not settings_of(container_of(render(chart)), monkeypatch).traces
    tracing = {"endpoint": "http://collector:4318", "egress": [{"cidr": "192.0.2.8/32", "port": 4318}]}
    manifests = render(chart, {"tracing": tracing})
    container = container_of(manifests)
    assert settings_of(container, monkeypatch).traces
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    attributes = variables["OTEL_RESOURCE_ATTRIBUTES"]["value"]
    assert attributes == f"k8s.namespace.name={SYSTEM},k8s.pod.name=$(POD_NAME)"
    collector = {"to": [{"ipBlock": {"cidr": "192.0.2.8/32"}}], "ports": [{"protocol": "TCP", "port": 4318}]}
    assert find(manifests, "NetworkPolicy", GATEWAY)["spec"]["egress"][1:] == [collector]


@pytest.mark.parametrize("tls", ["", "gateway-tls"])
def test_the_notes_say_where_it_is_and_how_to_get_a_key(chart: Helm, tls: str):
    values = {"gateway": {"enabled": True, "service": {"port": 8443}, "tls": {"secretName": tls}}}
    said = chart("install", RELEASE, str(CHART), f"--namespace={SYSTEM}", "--dry-run=client", values=values)
    notes = said.partition("NOTES:")[2]
    assert f"  {'https' if tls else 'http'}://{GATEWAY}.{SYSTEM}.svc:8443/v1\n" in notes
    assert "  rft keys create NAME --namespace NAMESPACE\n" in notes


def test_who_may_connect_can_be_said(chart: Helm):
    clients = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}]
    spec = find(render(chart, {"clients": clients}), "NetworkPolicy", GATEWAY)["spec"]
    assert spec["ingress"][0]["from"] == clients


@pytest.mark.parametrize("monitors", [True, False])
def test_prometheus_finds_it_in_one_way(chart: Helm, monitors: bool):
    manifests = render(chart, metrics={"podMonitors": {"enabled": monitors}})
    gateway = find(manifests, "Deployment", GATEWAY)
    annotations = gateway["spec"]["template"]["metadata"].get("annotations", {})
    port = ports_of(container_of(manifests))["operation"]
    assert annotations.get("prometheus.io/port") == (None if monitors else str(port))
    found = [m["spec"] for m in manifests if m["kind"] == "PodMonitor" and m["metadata"]["name"] == GATEWAY]
    assert len(found) == monitors
    for monitor in found:
        assert selects(monitor["selector"]["matchLabels"], gateway)
        (endpoint,) = monitor["podMetricsEndpoints"]
        # Its metrics name namespaces themselves: of the keys, and not of its pod.
        assert (endpoint["port"], endpoint["honorLabels"]) == ("operation", True)
