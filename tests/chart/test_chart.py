"""What the chart renders: under every combination of values that change its shape, and as an API server takes it."""

from __future__ import annotations

import itertools
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.kubectl import Kubectl, Manifest
from support.helm import CHART, RELEASE, Helm, find
from support.patience import wait_until

from rft_api.crd import build_crds
from rft_api.manifests import load_manifests
from rft_api.networks import CIDR_PATTERN
from rft_charts.generate import generated_files
from rft_charts.values_page import read_values
from rft_operator.kube.permissions import CLUSTER, EVERYWHERE, OWN_NAMESPACE, Permission
from rft_operator.main import parse_arguments

ROOT = Path(__file__).parents[2]
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
COMPONENT = "app.kubernetes.io/component"
NAMESPACES = ("rft-system", "team-a", "team-b")
OPERATOR = "rft-rft-operator"
GATEWAY = "rft-rft-operator-gateway"
"""Names of their Deployments."""
DEMAND = f"http://{GATEWAY}-pods.rft-system.svc:9090"
"""Where the operator asks what the gateway is asked for."""

SHAPES: dict[str, list[dict[str, Any]]] = {
    "namespaces": [{}, {"watchNamespaces": ["team-a", "team-b"]}],
    "monitoring": [
        {},
        {
            "metrics": {
                "namespace": "monitoring",
                "podMonitors": {"enabled": True, "labels": {"release": "prometheus"}},
                "rules": {"enabled": True, "labels": {"release": "prometheus"}, "runbooks": "https://example.com/r"},
            }
        },
    ],
    "placement": [
        {},
        {
            "accelerator": "cpu",
            "image": {"registry": "registry.example.com/rft", "tag": "9", "pullSecrets": ["pull"]},
            "images": {"trainer": "registry.example.com/own/trainer@sha256:0"},
            "replicas": 1,
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "pool", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "system-cluster-critical",
            "podLabels": {"team": "platform"},
            "podAnnotations": {"note": "mine"},
            "serviceAccount": {"annotations": {"note": "mine"}},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "extraObjects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Chart.Name }}-text'}}",
            ],
            "test": {"job": {"output": {"uri": "s3://bucket/test"}, "compute": {"gpusPerNode": 2}}},
            "gateway": {
                "enabled": True,
                "exclusive": False,
                "replicas": 3,
                "ledger": {"urlSecret": {"name": "ledger", "key": "address"}},
                "tls": {"secretName": "gateway-tls"},
                "service": {"type": "LoadBalancer", "port": 443, "annotations": {"note": "mine"}},
                "clients": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "203.0.113.0/24"}}],
                "drainSeconds": 300,
                "logs": {"spoolGibibytes": 1, "seconds": 10},
                "tracing": {"endpoint": "http://collector:4318", "egress": [{"cidr": "192.0.2.8/32", "port": 4318}]},
                "nodeSelector": {"pool": "system"},
                "tolerations": [{"key": "pool", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {}},
                "priorityClassName": "system-cluster-critical",
                "podLabels": {"team": "platform"},
                "podAnnotations": {"note": "mine"},
                "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            },
        },
    ],
    "switches": [
        {},
        {
            "crds": {"install": False},
            "podDisruptionBudget": {"enabled": False},
            "userRoles": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "dashboards": {"enabled": False},
        },
        {"admissionPolicies": {"enabled": True}, "gateway": {"enabled": True}},
    ],
}
MATRIX = {
    "-".join(f"{name}{number}" for name, number in zip(SHAPES, numbers, strict=True)): {
        key: value for name, number in zip(SHAPES, numbers, strict=True) for key, value in SHAPES[name][number].items()
    }
    for numbers in itertools.product(*(range(len(shapes)) for shapes in SHAPES.values()))
}
every_shape = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


@pytest.fixture(scope="module")
def namespaces(kubectl: Kubectl):
    """Namespaces that enforce Pod Security `restricted`."""
    with (
        kubectl.namespace(NAMESPACES[0], RESTRICTED),
        kubectl.namespace(NAMESPACES[1], RESTRICTED),
        kubectl.namespace(NAMESPACES[2], RESTRICTED),
    ):
        yield NAMESPACES


def test_generated_parts_are_up_to_date():
    for name, content in generated_files(ROOT).items():
        assert (ROOT / name).read_text(encoding="utf-8") == content, f"{name}: run `make generate`"
    chart = {
        str(path.relative_to(ROOT))
        for folder in ("templates/crds", "files/dashboards")
        for path in (CHART / folder).iterdir()
    }
    assert chart <= set(generated_files(ROOT)), "a file that nothing generates any more"


@every_shape
def test_helm_finds_nothing_wrong(chart: Helm, values: dict[str, Any]):
    said = chart("lint", str(CHART), "--strict", values=values)
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


@every_shape
def test_the_api_server_takes_every_object(chart: Helm, kubectl: Kubectl, namespaces, values: dict[str, Any]):
    """Its warnings, such as Pod Security's, count as refusals."""
    manifests = chart.template(values)
    # A pod is refused for want of its ServiceAccount; everything else needs nothing that is not there.
    accounts = [m for m in manifests if m["kind"] == "ServiceAccount"]
    kubectl("apply", "--server-side", "-f", "-", stdin=stream(accounts))
    pods = [pod_of(manifest) for manifest in manifests if manifest["kind"] == "Deployment"]
    done = kubectl.run(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=stream([*manifests, *pods])
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert len(done.stdout.splitlines()) == len(manifests) + len(pods)


def stream(manifests: list[Manifest]) -> str:
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests)


def pod_of(manifest: Manifest) -> Manifest:
    """The pod that a controller will make."""
    template = manifest["spec"]["template"]
    metadata = {**template["metadata"], "name": "of-a-controller", "namespace": manifest["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_crds_are_those_of_the_models(chart: Helm):
    rendered = {m["metadata"]["name"]: m for m in chart.template({}) if m["kind"] == "CustomResourceDefinition"}
    for crd in build_crds().values():
        assert rendered[crd["metadata"]["name"]]["spec"] == crd["spec"]
        assert rendered[crd["metadata"]["name"]]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert len(rendered) == len(build_crds())


def test_crds_go_with_the_release_only_when_told_so(chart: Helm):
    manifests = chart.template({"crds": {"keep": False}})
    assert not [m for m in manifests if "helm.sh/resource-policy" in m["metadata"].get("annotations", {})]


@pytest.mark.parametrize("values", SHAPES["namespaces"], ids=["all", "listed"])
def test_the_operator_has_its_permissions_and_no_more(chart: Helm, values: dict[str, Any]):
    manifests = chart.template(values)
    own = [m for m in manifests if "helm.sh/hook" not in m["metadata"].get("annotations", {})]
    own = [m for m in own if not any("aggregate-to-" in label for label in m["metadata"].get("labels", {}))]
    roles = {(m["kind"], m["metadata"].get("namespace")): m for m in own if m["kind"] in ("Role", "ClusterRole")}
    watched: list[tuple[str, str | None]] = [("Role", name) for name in values.get("watchNamespaces", [])]
    expected = {place: rules(EVERYWHERE) for place in watched} or {("ClusterRole", None): rules(EVERYWHERE + CLUSTER)}
    expected["Role", "rft-system"] = rules(OWN_NAMESPACE)
    assert {place: role["rules"] for place, role in roles.items()} == expected
    for binding in (m for m in own if m["kind"].endswith("Binding")):
        role = roles[binding["roleRef"]["kind"], binding["metadata"].get("namespace")]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": "rft-system"}]
    assert len([m for m in own if m["kind"].endswith("Binding")]) == len(roles)


def test_who_may_edit_a_namespace_may_train_in_it(chart: Helm, kubectl: Kubectl, namespaces):
    roles = [m for m in chart.template({}) if any("aggregate-to-" in label for label in m["metadata"]["labels"])]
    kubectl("apply", "--server-side", "-f", "-", stdin=stream(roles))
    allowed = {"view": {"get", "watch"}, "edit": {"get", "watch", "create", "patch", "delete"}}
    for role, verbs in allowed.items():
        kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user=a-{role}er", "--namespace=team-a")
        # A controller brings the rules of our roles into the cluster's.
        kubectl.wait_for(
            "clusterrole", role, until=lambda found: any("rft.dev" in rule["apiGroups"] for rule in found["rules"])
        )
        for resource in ("rftjobs", "rewardfunctions", "inferenceendpoints"):
            for verb in ("get", "watch", "create", "patch", "delete"):
                asked = ["auth", "can-i", verb, f"{resource}.rft.dev", f"--as=a-{role}er"]
                if verb in verbs:  # the API server learns of new permissions a moment later
                    wait_until(partial(is_allowed, kubectl, *asked, "--namespace=team-a"))
                else:
                    assert not is_allowed(kubectl, *asked, "--namespace=team-a")
                assert not is_allowed(kubectl, *asked, "--namespace=team-b")


def is_allowed(kubectl: Kubectl, *asked: str) -> bool:
    answer = kubectl.run(*asked).stdout.strip()
    assert answer in ("yes", "no")
    return answer == "yes"


def rules(permissions: tuple[Permission, ...]) -> list[dict[str, list[str]]]:
    return [{"apiGroups": [r.group], "resources": list(r.resources), "verbs": list(r.verbs)} for r in permissions]


@every_shape
def test_the_operator_knows_its_arguments(chart: Helm, values: dict[str, Any]):
    (container,) = containers(chart.template(values))
    assert container["command"] == ["python", "-m", "rft_operator"]
    options = parse_arguments(container["args"])
    assert options.watch_namespace == values.get("watchNamespaces", [])
    assert options.metrics_namespace == values.get("metrics", {}).get("namespace")
    gateway = values.get("gateway", {})
    assert options.gateway_demand == ([DEMAND] if gateway.get("enabled") else [])
    is_exclusive = gateway.get("enabled") and gateway.get("exclusive", True)
    scheme = "https" if gateway.get("tls") else "http"
    assert options.exclusive_gateway == (f"{scheme}://{GATEWAY}.rft-system.svc:8080/v1" if is_exclusive else None)
    assert options.trainer_image == values.get("images", {}).get("trainer", "localhost/rft-trainer-cuda:0.1.0")
    # Where it listens is where it is asked.
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": options.metrics_port, "liveness": options.liveness_port}


def containers(manifests: list[Manifest], name: str = OPERATOR) -> list[dict[str, Any]]:
    """The containers of the operator's Deployment, or of another one."""
    found: list[dict[str, Any]] = find(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return found


def test_images_are_named_as_make_builds_them(chart: Helm):
    manifests = chart.template({"image": {"registry": "example.com/rft"}, "gateway": {"enabled": True}})
    (container,), (gateway,) = containers(manifests), containers(manifests, GATEWAY)
    named = {container["image"], *(a.partition("=")[2] for a in container["args"] if "-image=" in a), gateway["image"]}
    (built,) = re.findall(r"^IMAGES := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    # Who wants the reward server without packages names that image.
    images = set(built.split()) - {"reward-slim"}
    assert named == {f"example.com/rft/rft-{name}:{version}" for name in images}
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_jobs_of_helm_test_are_valid(chart: Helm, tmp_path: Path):
    manifests = [m for m in chart.template({}) if m["apiVersion"].startswith("rft.dev/")]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    loaded = load_manifests([file])
    assert [job.spec.hyperparameters.max_steps for job in loaded.jobs] == [2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"image": {"repository": "x"}}, "additional properties 'repository' not allowed"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always'"),
        ({"image": {"registry": ""}}, "at '/image/registry': '' does not match pattern"),
        ({"accelerator": "tpu"}, "at '/accelerator': value must be one of 'cuda', 'cpu'"),
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["Team A"]}, "at '/watchNamespaces/0': 'Team A' does not match pattern"),
        ({"resources": {"requests": {"cpu": None}}}, "at '/resources/requests': missing property 'cpu'"),
        ({"crds": {"keep": "yes"}}, "at '/crds/keep': got string, want boolean"),
        ({"networkPolicy": {"apiServer": {"cidr": "everywhere"}}}, "'everywhere' does not match pattern"),
        ({"metrics": {"podMonitors": {"interval": "often"}}}, "'often' does not match pattern"),
        ({"tolerations": [{"effekt": "NoSchedule"}]}, "additional properties 'effekt' not allowed"),
        ({"extraEnv": [{"value": "x"}]}, "at '/extraEnv/0': missing property 'name'"),
        ({"bounds": {"volumes": None}}, "at '/bounds': missing property 'volumes'"),
        (
            {"bounds": {"imagePrefixes": ["*.example.com"]}},
            "at '/bounds/imagePrefixes/0': '*.example.com' does not match",
        ),
        ({"bounds": {"egress": {"allowed": ["10.0.0/8"]}}}, "at '/bounds/egress/allowed/0': '10.0.0/8' does not match"),
        ({"bounds": {"egress": {"denied": ["010.0.0.0/8"]}}}, "'010.0.0.0/8' does not match pattern"),
        ({"admissionPolicies": {"enabled": "yes"}}, "at '/admissionPolicies/enabled': got string, want boolean"),
        ({"test": {"seconds": 0}}, "at '/test/seconds': minimum"),
        (
            {"gateway": {"enabled": True, "replicas": 2}},
            "gateway.replicas: 2 pods cannot share a ledger in SQLite. Name a Secret",
        ),
        ({"gateway": {"enabled": "yes"}}, "at '/gateway/enabled': got string, want boolean"),
        ({"gateway": {"service": {"type": "ExternalName"}}}, "at '/gateway/service/type': value must be one of"),
        ({"gateway": {"ledger": {"url": "postgresql://a"}}}, "additional properties 'url' not allowed"),
        ({"gateway": {"clients": [{"cidr": "10.0.0.0/8"}]}}, "additional properties 'cidr' not allowed"),
    ],
)
def test_wrong_values_are_refused_with_what_is_wrong(chart: Helm, values: dict[str, Any], message: str):
    done = chart.run("template", RELEASE, str(CHART), values=values)
    assert done.returncode != 0
    assert message in done.stderr


def test_every_value_has_a_comment_and_a_schema():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for value in read_values((CHART / "values.yaml").read_text(encoding="utf-8")):
        node = schema
        for part in value.name.split("."):
            assert node["additionalProperties"] is False, value.name
            node = node["properties"][part]


def test_ranges_are_written_as_in_manifests():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["definitions"]["cidrs"]["items"]["pattern"] == CIDR_PATTERN


def test_the_notes_say_the_next_command(chart: Helm):
    said = chart("install", RELEASE, str(CHART), "--namespace=rft-system", "--dry-run=client", values={})
    commands = re.findall(r"^  (kubectl|helm) (\S+)", said.partition("NOTES:")[2], re.MULTILINE)
    assert commands == [("kubectl", "rollout"), ("helm", "test"), ("kubectl", "get")]
    deployment = find(chart.template({}), "Deployment")["metadata"]["name"]
    assert f"kubectl rollout status deployment/{deployment} --namespace rft-system" in said


def test_only_monitored_pods_lack_scrape_annotations(chart: Helm):
    for enabled in (False, True):
        manifests = chart.template({"metrics": {"podMonitors": {"enabled": enabled}}})
        annotations = find(manifests, "Deployment")["spec"]["template"]["metadata"].get("annotations", {})
        assert ("prometheus.io/scrape" in annotations) != enabled
        monitors = [m for m in manifests if m["kind"] == "PodMonitor"]
        assert bool(monitors) == enabled
        assert all(endpoint["honorLabels"] for m in monitors for endpoint in m["spec"]["podMetricsEndpoints"])


def templates_of_the_operator() -> dict[str, list[Manifest]]:
    """Pod templates that the operator makes, by component, from its golden plans."""
    found: dict[str, list[Manifest]] = {}
    for file in sorted((ROOT / "tests" / "operator" / "golden").glob("*.plan.yaml")):
        for desired in yaml.safe_load(file.read_text(encoding="utf-8"))["desired"]:
            if desired["kind"] in ("Job", "Deployment"):
                template = desired["spec"]["template"]
                found.setdefault(template["metadata"]["labels"][COMPONENT], []).append(template)
    return found


def ports(template: Manifest) -> dict[str, int]:
    """Ports of a pod, by name."""
    containers = template["spec"]["containers"]
    return {port["name"]: port["containerPort"] for c in containers for port in c.get("ports", [])}


def test_monitors_and_policies_speak_of_the_pods_that_the_operator_makes(chart: Helm):
    manifests = chart.template(SHAPES["monitoring"][1])
    templates = templates_of_the_operator()
    monitored = {
        m["spec"]["selector"]["matchLabels"][COMPONENT]: m["spec"]
        for m in manifests
        if m["kind"] == "PodMonitor" and COMPONENT in m["spec"]["selector"]["matchLabels"]
    }
    operators = [find(manifests, "Deployment")["spec"]["template"]]
    for component, of_component in {**templates, "operator": operators}.items():
        (endpoint,) = monitored[component]["podMetricsEndpoints"]
        # The pod that plans a job's memory serves nothing, and has no port that a monitor could mean.
        for template in filter(ports, of_component):
            # Kubernetes numbers a Job's pods; the first one knows how far the run is.
            labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-completion-index": "0"}
            assert monitored[component]["selector"]["matchLabels"].items() <= labels.items()
            # What the annotations say to those who scrape by them.
            annotated = template["metadata"].get("annotations", {}).get("prometheus.io/port", "8080")
            assert str(ports(template)[endpoint["port"]]) == annotated
    assert set(monitored) == {*templates, "operator"}
    allowed = {
        rule["to"][0]["podSelector"]["matchLabels"][COMPONENT]: {port["port"] for port in rule["ports"]}
        for rule in find(manifests, "NetworkPolicy", OPERATOR)["spec"]["egress"]
    }
    assert allowed == {
        component: {number for template in of_component for number in ports(template).values()}
        for component, of_component in templates.items()
    }
