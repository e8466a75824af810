"""The chart's admission policies on a real API server: they refuse what the operator would refuse by the bounds."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from ipaddress import IPv6Network, ip_network
from itertools import chain
from typing import Any

import pytest
from cluster.kubectl import Kubectl, Manifest
from pydantic import BaseModel, ValidationError
from support.helm import CHART, RELEASE, Helm
from support.patience import wait_until

from rft_api.bounds import EGRESS_PLACES, POD_PLACES, Bounds, egress_violations, pod_violations
from rft_api.bounds_in_cel import checks_of_kind
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Location, Model, Violation, camel
from rft_api.networks import parse_cidr, with_embeddings
from rft_api.resource import PodOverrides
from rft_api.reward_function import Egress, RewardFunction
from rft_api.rft_job import RFTJob

MODELS: dict[str, type[BaseModel]] = {
    "RFTJob": RFTJob,
    "RewardFunction": RewardFunction,
    "InferenceEndpoint": InferenceEndpoint,
}
SPECS: dict[str, dict[str, Any]] = {
    "RFTJob": {
        "model": {"uri": "s3://models/base"},
        "data": {"train": [{"name": "a", "uri": "s3://data/a.jsonl", "reward": "r"}]},
        "output": {"uri": "s3://models/out"},
    },
    "RewardFunction": {"builtin": {"name": "Math"}},
    "InferenceEndpoint": {"model": {"uri": "s3://models/base"}},
}
BOUNDS: dict[str, dict[str, Any]] = {
    "default": {},
    "strict": {
        "volumes": ["emptyDir"],
        "imagePrefixes": ["registry.example.com/team/", "quay.io", "docker.io/library"],
        "serviceAccounts": ["trainer"],
        "priorityClasses": ["low"],
        "runtimeClasses": [],
        "tolerations": ["gpu", ""],
        "egress": {"allowed": ["10.0.0.0/8", "2001:db8::/32"], "denied": ["10.1.0.0/16", "203.0.113.7/32"]},
    },
    "open": {
        "volumes": ["*"],
        "imagePrefixes": ["registry.example.com"],
        "serviceAccounts": ["*"],
        "priorityClasses": ["*"],
        "tolerations": ["*", "", "node-role.kubernetes.io/control-plane"],
        "egress": {"denied": []},
    },
    # Each value would allow hostPath, or make the policy invalid, if it were more than a text.
    "quotes": {
        "volumes": [
            'x", "hostPath', "x', 'hostPath", 'x"] + ["hostPath', "\\", '\\"', "{{ .Release.Name }}", "a\nb: c",
            "ä\u2028",
            '"] || true || "" in ["', "${x} %s # -", "<&>",
        ],
        "imagePrefixes": ["*"],
    },
    "halves": {"egress": {"allowed": ["10.0.0.0/9", "10.128.0.0/9", "203.0.113.0/24"], "denied": ["203.0.113.0/25",
    "203.0.113.128/25"]}},
}  # fmt: skip

TOKEN = {"serviceAccountToken": {"path": "t"}}
PODS: list[dict[str, Any]] = [
    {},
    # Volumes, in forms that Kubernetes itself would refuse, too.
    *(
        {"volumes": [{"name": "a", kind: {}}]}
        for kind in (
            "configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret", "hostPath",
            "csi", "nfs",
            "hostpath", "HostPath", "EmptyDir", " emptyDir", "", "*", "name ", "host\u202ePath", "host\nPath",
        )
    ),
    {"volumes": []},
    {"volumes": [{"name": "a"}]},
    {"volumes": [{}]},
    {"volumes": [{"hostPath": None}]},
    {"volumes": [{"hostPath": "/"}]},
    {"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]},
    {"volumes": [{"emptyDir": {}}, {"emptyDir": {}}, {"hostPath": {}}, {"hostPath": {}}]},
    {"volumes": [{"emptyDir": {}}] * 31 + [{"hostPath": {}}]},
    {"volumes": [{"emptyDir": {}}] * 32},
    {"volumes": [{"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "x"}}}}]},
    *(
        {"volumes": [{"name": "a", "projected": projected}]}
        for projected in (
            {}, None, [], "x", {"sources": None}, {"sources": {}}, {"sources": "hostPath"}, {"sources": []},
            {"sources": [TOKEN]}, {"sources": [{"secret": {}}, TOKEN]}, {"sources": [{"secret": {}, **TOKEN}]},
            {"sources": [{"ServiceAccountToken": {}}]}, {"sources": [{"serviceAccountToken": None}]},
            {"sources": [{"secret": {}}, {"configMap": {}}, {"downwardAPI": {}}]},
            {"sources": [{"clusterTrustBundle": {}}]},
            {"sources": [None, "x", 5, [TOKEN], {}]}, {"sources": [{"emptyDir": {}}] * 64},
            {"sources": [{"emptyDir": {}}] * 65},
            {"sources": [{"emptyDir": {}}] * 63 + [TOKEN]}, {"sources": [{"": {}}]}, {"Sources": [TOKEN]},
        )
    ),
    *(
        {"volumes": [{"name": "a", "image": image}]}
        for image in (
            {}, None, {"reference": 5}, {"reference": None}, {"reference": ""}, {"reference": "registry.example.com/x"},
            {"reference": "registry.example.com.evil.example/x"}, {"reference": "evil/x"},
        )
    ),
    # Environment variables.
    *(
        {"env": [{"name": "A", "valueFrom": source}]}
        for source in (
            {}, None, [], "secretKeyRef", ["secretKeyRef"], {"secretKeyRef": {}}, {"secretKeyRef": None},
            {"configMapKeyRef": {}},
            {"fieldRef": {}}, {"resourceFieldRef": {}}, {"fileKeyRef": {}}, {"SecretKeyRef": {}}, {"hostPath": {}},
            {"secret": {}}, {"": {}}, {"resourceFieldRef": {}, "secretKeyRef": {}}, {"zebraKeyRef": {},
            "antKeyRef": {}},
        )
    ),
    {"env": [{"name": "A", "value": "secretKeyRef"}]},
    {"env": [{"name": "A", "value": "b"}] * 63 + [{"name": "B", "valueFrom": {"secretKeyRef": {}}}]},
    {"env": [{}]},
    # Images.
    *(
        {"image": image}
        for image in (
            "", "/", "x", "ubuntu", "library/ubuntu", "team/x", "docker.io/library/ubuntu", "docker.io/other/ubuntu",
            "docker.io/library", "localhost/x", "localhost:5000/x", "registry.example.com/team/x:1",
            "registry.example.com/team",
            "registry.example.com/team:1", "registry.example.com/team@sha256:0", "registry.example.com/teamx/x:1",
            "registry.example.com:5000/team/x", "registry.example.com.evil.example/team/x",
            "Registry.Example.Com/team/x",
            "registry.example.com/Team/x", "registry.example.com/team/../x", "registry.example.com//team/x", "quay.io",
            "quay.io/x", "quay.io:443/x", "quay.io@sha256:0", " registry.example.com/team/x",
            "registry.example.com/team/\nx",
            "localhost\n/x", "a\n.b/c", "x" * 99, "x/" * 3000,
        )
    ),
    # Names of other objects.
    *({"serviceAccountName": name} for name in ("default", "trainer", "trainer2", "admin")),
    *({"priorityClassName": name} for name in ("", "low", "Low", "system-node-critical", "*", "x" * 90)),
    *({"runtimeClassName": name} for name in ("", "gvisor", '"]', "a'b\\")),
    # Tolerations.
    *(
        {"tolerations": [{"operator": "Exists", "key": key}]}
        for key in (
            "gpu", "GPU", "gpu ", "", None, 0, 5, False, True, [], {}, 1.5, "*",
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/", "node-role.kubernetes.io/master", "Node-Role.kubernetes.io/master",
        )
    ),
    {"tolerations": [{"operator": "Exists"}]},
    {"tolerations": [{}]},
    {"tolerations": [{"key": "gpu"}] * 31 + [{}]},
    # Annotations.
    *(
        {"annotations": {name: "unconfined"}}
        for name in (
            "container.apparmor.security.beta.kubernetes.io/x", "container.seccomp.security.alpha.kubernetes.io/x",
            "Container.apparmor.security.beta.kubernetes.io/x", "apparmor", "",
            "container.apparmor.security.beta.kubernetes.io", "container.apparmor.security.beta.kubernetes.io/",
        )
    ),
    # Several at once: the same one is named first.
    {"image": "evil/x", "serviceAccountName": "admin", "volumes": [{"hostPath": {}}], "tolerations": [{}]},
]  # fmt: skip
EGRESS: list[list[str]] = [
    [],
    *(
        [cidr]
        for cidr in (
            "0.0.0.0/0", "::/0", "169.0.0.0/8", "169.254.0.0/16", "169.254.169.254/32", "169.254.0.0/17",
            "127.0.0.1/32",
            "128.0.0.0/1", "10.0.0.0/8", "10.0.0.0/7", "10.0.0.0/9", "10.1.0.0/16", "10.1.2.3/32", "10.2.0.0/16",
            "11.0.0.0/8",
            "203.0.113.7/32", "203.0.113.6/31", "fd00:ec2::254/128", "FD00:EC2::254/128", "fd00:0ec2:0:0:0:0:0:254/128",
            "fe80::/64", "fe80::/9", "::1/128", "::/128", "2001:db8::/32", "2001:DB8:1::/48", "2001:db9::/32",
            "2001:d00::/24",
            # IPv4 in IPv6: NAT64, IPv4-compatible and 6to4.
            "64:ff9b::a9fe:a9fe/128", "64:ff9b::a9fe:0/112", "64:ff9b::/96", "64:ff9b::a01:203/128", "::a9fe:a9fe/128",
            "2002:a9fe:a9fe::/48", "2002:a9fe::/32", "2002:a9fe:a9fe:1::/64", "2002:a01:203::/48",
            "2002:cb00:7107::/48",
            "2002:cb00:7106::/47",
            # What the operator takes for no range at all.
            "::ffff:a9fe:a9fe/128", "::FFFF:0:0/96", "10.0.0.1/8", "2001:db8::1/32", "0:0:0:0:0:ffff:a9fe:a9fe/128",
            ":::/128", "1::2::3/128", "12345::/32", "1:2:3:4:5:6:7:8:9/128",
        )
    ),
    ["10.0.0.0/9"] * 31 + ["169.254.169.254/32"],
    ["169.254.169.254/32"] * 32,
]  # fmt: skip
GROUPS = [
    *((bounds, "RFTJob", "pod") for bounds in ("default", "strict", "open", "quotes")),
    *(("strict", kind, "pod") for kind in ("RewardFunction", "InferenceEndpoint")),
    *((bounds, "RewardFunction", "egress") for bounds in ("default", "strict", "open")),
]
"""Bounds, a kind of manifests, and the field whose values are tried."""


def build_manifest(kind: str, name: str, pod: Any = None, egress: Any = None) -> Manifest:
    spec: dict[str, Any] = json.loads(json.dumps(SPECS[kind]))
    for place, value in ((POD_PLACES[kind], pod), (EGRESS_PLACES.get(kind, ()), egress)):
        if value is not None:
            inner = spec
            for part in place[1:-1]:
                inner = inner.setdefault(str(part), {})
            inner[str(place[-1])] = value
    return {"apiVersion": "rft.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def manifests_of(kind: str, field: str) -> list[Manifest]:
    """Return a manifest for each value of a field, which is named by its number."""
    if field == "pod":
        return [build_manifest(kind, f"row-{number}", pod=named(pod)) for number, pod in enumerate(PODS)]
    return [
        build_manifest(kind, f"row-{number}", egress=[{"cidr": cidr} for cidr in cidrs])
        for number, cidrs in enumerate(EGRESS)
    ]


def named(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a pod with the names that the operator requires before it looks at anything else."""
    objects = {"volumes": {"name": "a"}, "env": {"name": "A"}, "volumeMounts": {"mountPath": "/a"}}
    return {
        field: [{**objects[field], **item} for item in value] if field in objects else value
        for field, value in pod.items()
    }


def operator_message(manifest: Manifest, bounds: Bounds) -> str:
    """Return what the operator says first against a manifest; an empty text when it allows it."""
    try:
        resource: Any = MODELS[manifest["kind"]].model_validate(manifest)
    except ValidationError:
        return "must look like 203.0.113.0/24 or 2001:db8::/32, with no bits set behind the prefix"
    return next((str(violation) for violation in chain.from_iterable(violations(resource, bounds))), "")


def violations(resource: Any, bounds: Bounds) -> Iterator[Iterator[Violation]]:
    kind = resource.kind
    if kind == "RFTJob":
        yield pod_violations(resource.spec.compute.pod, bounds, POD_PLACES[kind])
    elif kind == "InferenceEndpoint":
        pod = resource.spec.serving.pod if resource.spec.serving else None
        yield pod_violations(pod, bounds, POD_PLACES[kind])
    else:
        yield pod_violations(resource.spec.pod, bounds, POD_PLACES[kind])
        yield egress_violations(resource.spec.egress, bounds.egress, EGRESS_PLACES[kind])


def render(chart: Helm, name: str, **values: Any) -> list[Manifest]:
    """Return the policies and bindings of bounds, for a namespace of the same name."""
    values = {"admissionPolicies": {"enabled": True}, "watchNamespaces": [namespace_of(name)], **values}
    return [m for m in chart.template(values, release=name) if m["kind"].startswith("ValidatingAdmissionPolicy")]


def namespace_of(name: str) -> str:
    return f"policies-{name}"


def names_of(manifests: list[Manifest]) -> list[str]:
    return [f"{manifest['kind'].lower()}/{manifest['metadata']['name']}" for manifest in manifests]


OVER = {"volumes": [{"name": "a", "hostPath": {"path": "/"}}], "env": [{"name": "A", "value": "b"}]}
"""Exceeds the default bounds."""


@pytest.fixture(scope="module")
def policies(chart: Helm, kubectl: Kubectl) -> Iterator[dict[str, list[Manifest]]]:
    """The policies of each bounds, in force in a namespace of their own, where there are objects from before."""
    rendered = {name: render(chart, name, bounds=bounds) for name, bounds in BOUNDS.items()}
    with contextlib.ExitStack() as stack:
        for name in BOUNDS:
            stack.enter_context(kubectl.namespace(namespace_of(name)))
        before = [build_manifest(kind, "before", pod=OVER) for kind in MODELS]
        before.append(build_manifest("RewardFunction", "far", egress=[{"cidr": "127.0.0.1/32"}]))
        kubectl.apply(*before, namespace=namespace_of("default"))
        every = [manifest for manifests in rendered.values() for manifest in manifests]
        try:
            kubectl.apply(*every)
            for name in BOUNDS:
                for kind in MODELS:
                    annotated = {"annotations": {"container.apparmor.security.beta.kubernetes.io/x": "unconfined"}}
                    wait_until_refused(kubectl, name, build_manifest(kind, "probe", pod=annotated))
            yield rendered
        finally:
            kubectl.run("delete", *names_of(every), "--ignore-not-found")


def wait_until_refused(kubectl: Kubectl, name: str, manifest: Manifest) -> None:
    """The API server looks for new policies from time to time."""

    def refused() -> bool:
        return "ValidatingAdmissionPolicy" in dry_run(kubectl, name, [manifest])[1]

    wait_until(refused, explain=lambda: f"{name} is not in force")


def dry_run(kubectl: Kubectl, name: str, manifests: list[Manifest]) -> tuple[str, str]:
    stream = "\n---\n".join(map(json.dumps, manifests))
    done = kubectl.run(
        "apply", "--server-side", "--dry-run=server", f"--namespace={namespace_of(name)}", "-f", "-", stdin=stream
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(("name", "kind", "field"), GROUPS)
def test_policies_refuse_what_the_operator_refuses(kubectl, policies, name, kind, field):
    manifests, bounds = manifests_of(kind, field), Bounds.model_validate(BOUNDS[name])
    allowed, refused = dry_run(kubectl, name, manifests)
    said = dict.fromkeys(re.findall(r"/(row-\d+) serverside-applied", allowed), "")
    parts = re.split(r'(?:^Error from server \(\w+\): [^\n]*?"|^The \w+ ")(row-\d+)" is ', refused, flags=re.MULTILINE)
    said |= dict(zip(parts[1::2], parts[2::2], strict=True))
    differences = []
    for manifest in manifests:
        operator, server = operator_message(manifest, bounds), said[manifest["metadata"]["name"]]
        if bool(operator) != bool(server) or plain(said_alike(operator, manifest)) not in plain(server):
            differences.append(f"{json.dumps(manifest['spec'])}\n operator: {operator}\n server: {server}")
    assert not differences, "\n".join(differences)
    assert {bool(message) for message in said.values()} == {True, False}


def said_alike(message: str, manifest: Manifest) -> str:
    """Return the part of the operator's message that a policy says, too: CEL cannot escape or cut values."""
    is_plain = re.fullmatch("[ -~]*", message) and "more characters" not in message
    is_escaped = not is_plain or "\\" in json.dumps(manifest["spec"])
    return re.split(r"[\[:]", message)[0] if is_escaped else message


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("kind", MODELS)
def test_policies_look_at_every_place_of_pods_and_destinations(kind):
    places = set(places_of(MODELS[kind].model_fields["spec"].annotation, ("spec",)))
    assert places == {place for place in (POD_PLACES[kind], EGRESS_PLACES.get(kind)) if place}


def places_of(model: Any, place: Location) -> Iterator[Location]:
    """Yield where settings of pods and destinations stand in a model."""
    for annotation in getattr(model, "__args__", ()):
        yield from places_of(annotation, place)
    if model in (PodOverrides, Egress):
        yield place
    elif isinstance(model, type) and issubclass(model, Model):
        for name, field in model.model_fields.items():
            yield from places_of(field.annotation, (*place, camel(name)))


def test_every_setting_of_a_pod_is_checked_or_free():
    """Whoever adds a field decides which it is."""
    free = {"imagePullPolicy", "imagePullSecrets", "resources", "nodeSelector", "affinity", "labels", "volumeMounts"}
    checked = {check.place.removeprefix("spec.compute.pod.") for check in checks_of_kind("RFTJob").checks}
    assert checked | free == {camel(name) for name in PodOverrides.model_fields}
    assert not checked & free


@pytest.mark.parametrize("kind", MODELS)
def test_an_object_from_before_can_be_edited_and_deleted(kubectl, policies, kind):
    """It exceeds the bounds, which the operator says; nothing else of it is blocked."""
    where, resource = f"--namespace={namespace_of('default')}", f"{kind.lower()}/before"

    def patch(content: Any, *flags: str) -> str:
        done = kubectl.run("patch", resource, where, "--type=merge", f"--patch={json.dumps(content)}", *flags)
        return done.stderr

    def settings(**fields: Any) -> Any:
        return {"spec": build_manifest(kind, "x", pod=fields)["spec"]}

    assert not patch({"metadata": {"labels": {"a": "b"}, "finalizers": ["rft.dev/test"]}})
    assert not patch({"status": {"conditions": []}}, "--subresource=status")
    if kind == "InferenceEndpoint":
        assert not patch({"spec": {"replicas": 2}}, "--subresource=scale")
    assert not patch(settings(labels={"a": "b"}))
    assert not patch(settings(env=[{"name": "A", "value": "c"}]))
    assert "volumes[0]: hostPath is not allowed" in patch(settings(volumes=[{"name": "b", "hostPath": {"path": "/"}}]))
    assert "volumes[1]: csi is not" in patch(settings(volumes=[{"emptyDir": {}}, {"csi": {}}]))
    assert "serviceAccountName: admin is not allowed" in patch(settings(serviceAccountName="admin"))
    kubectl("delete", resource, where, "--wait=false")
    assert not patch({"metadata": {"finalizers": None}})
    kubectl.wait("delete", resource, where)


def test_an_object_can_be_mended_but_not_broken_again(kubectl, policies):
    where, resource = f"--namespace={namespace_of('default')}", "rewardfunction/far"

    def patch(*cidrs: str) -> str:
        content = {"spec": {"timeout": "5s", "egress": [{"cidr": cidr} for cidr in cidrs]}}
        return kubectl.run("patch", resource, where, "--type=merge", f"--patch={json.dumps(content)}").stderr

    assert not patch("127.0.0.1/32")
    assert "egress[1].cidr: 127.0.0.2/32 is denied in this cluster" in patch("10.0.0.0/8", "127.0.0.2/32")
    assert not patch("10.0.0.0/8")
    assert "egress[0].cidr: 127.0.0.1/32 is denied" in patch("127.0.0.1/32")


@pytest.mark.parametrize(
    ("pod", "place"),
    [
        (
            {"volumes": [{"projected": {"sources": [{}] * 100_000}}]},
            "spec.pod.volumes[0].projected.sources: has 100000",
        ),
        ({"volumes": [{f"k{number}": {} for number in range(50_000)}]}, "ValidatingAdmissionPolicy"),
        ({"env": [{"valueFrom": {f"k{number}": {} for number in range(50_000)}}]}, "ValidatingAdmissionPolicy"),
        ({"tolerations": [{"key": "k" * 1_000_000}]}, "spec.pod.tolerations"),
        ({"image": "evil/" + "k" * 1_000_000}, "ValidatingAdmissionPolicy"),
        ({"image": "/" * 1_000_000}, "ValidatingAdmissionPolicy"),
        ({"annotations": {f"k{number}": "" for number in range(20_000)}, "image": "x/y"}, "spec.pod.image"),
    ],
    ids=["sources", "kinds", "variables", "key", "image", "slashes", "annotations"],
)
def test_what_is_too_large_for_cel_is_refused(kubectl, policies, pod, place):
    """The cost of CEL is limited, and a policy that fails refuses."""
    manifest = json.dumps(build_manifest("RewardFunction", "large", pod=pod))
    done = kubectl.run("create", "--dry-run=server", f"--namespace={namespace_of('strict')}", "-f", "-", stdin=manifest)
    assert place in done.stderr


def test_ordinary_long_lists_are_not_too_large(kubectl, policies):
    pod = {
        "image": f"registry.example.com/team/{'x' * 200}",
        "annotations": {f"key-{number}": "v" * 50 for number in range(1000)},
        "env": [{"name": f"A{number}", "value": "v" * 1000} for number in range(64)],
        "volumes": [{"name": f"v{number}", "emptyDir": {}} for number in range(31)]
        + [{"name": "p", "projected": {"sources": [{"emptyDir": {}}] * 64}}],
        "tolerations": [{"key": "gpu", "value": str(number)} for number in range(32)],
    }
    manifest = build_manifest("RewardFunction", "long", pod=pod, egress=[{"cidr": f"10.0.0.{n}/32"} for n in range(32)])
    assert dry_run(kubectl, "strict", [manifest])[1] == ""


def test_where_several_ranges_together_contain_one_the_operator_says_more(kubectl, policies):
    """CEL cannot merge ranges: policies refuse what only several allow together, and leave to the operator what only
    several deny together. docs/security.md says so."""
    bounds = Bounds.model_validate(BOUNDS["halves"]).egress
    for cidr, operator, policy in (
        (
            "10.0.0.0/8",
            "",
            "spec.egress[0].cidr: 10.0.0.0/8 is not allowed in this cluster; use 10.0.0.0/9, 10.128.0.0/9",
        ),
        ("203.0.113.0/24", "is denied", ""),
        ("203.0.113.0/25", "is denied", "is denied"),
    ):
        [said] = [str(v) for v in egress_violations([Egress(cidr=cidr)], bounds, ("spec", "egress"))] or [""]
        refused = dry_run(kubectl, "halves", [build_manifest("RewardFunction", "x", egress=[{"cidr": cidr}])])[1]
        assert operator in said
        assert bool(operator) == bool(said)
        assert policy in refused
        assert bool(policy) == bool(refused)


def test_the_controller_finds_no_wrong_types(kubectl, policies):
    """Kubernetes checks the expressions against the schemas of our kinds, and writes warnings into the status."""
    for resource in names_of([m for m in policies["default"] if m["kind"] == "ValidatingAdmissionPolicy"]):
        policy = kubectl.wait_for(resource, until=lambda found: "typeChecking" in found.get("status", {}))
        assert policy["status"]["typeChecking"].get("expressionWarnings", []) == []


def test_values_are_only_texts_in_cel(policies):
    for policy in policies["quotes"]:
        for variable in policy["spec"].get("variables", []):
            if variable["name"] == "volumes":
                assert json.loads(variable["expression"]) == BOUNDS["quotes"]["volumes"]


@pytest.mark.parametrize(
    "denied", [Bounds().egress.denied, ["0.0.0.0/0"], ["1.2.3.4/32", "255.128.0.0/9", "10.0.0.0/8"]]
)
def test_denied_ranges_are_those_of_the_operator(chart, denied):
    """IPv4-mapped ranges cannot be written in CEL, nor in a manifest."""
    mapped = IPv6Network("::ffff:0:0/96")
    for policy in render(chart, "x", bounds={"egress": {"denied": denied}}):
        for variable in policy["spec"].get("variables", []):
            if variable["name"] == "denied":
                networks = {ip_network(cidr) for cidr in json.loads(variable["expression"])}
                every = with_embeddings(map(parse_cidr, denied))
                assert networks == {n for n in every if n.version == 4 or not n.subnet_of(mapped)}


def test_policies_are_for_the_namespaces_that_are_watched(chart):
    of_all = [
        m for m in chart.template({"admissionPolicies": {"enabled": True}}) if m["kind"].endswith("PolicyBinding")
    ]
    of_some = [m for m in render(chart, "a") if m["kind"].endswith("PolicyBinding")]
    assert len(of_all) == len(of_some) == len(MODELS)
    assert not [m for m in of_all if "matchResources" in m["spec"]]
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["policies-a"]}
    assert all(
        m["spec"]["matchResources"] == {"namespaceSelector": {"matchExpressions": [expression]}} for m in of_some
    )


def test_policies_are_an_option(chart):
    assert not [m for m in chart.template({}) if m["kind"].startswith("ValidatingAdmissionPolicy")]


def test_an_older_kubernetes_is_refused_with_the_reason(chart):
    flags = ["--kube-version=1.30.9", "--set=admissionPolicies.enabled=true"]
    done = chart.run("template", RELEASE, str(CHART), *flags)
    assert done.returncode != 0
    assert "admissionPolicies.enabled needs Kubernetes 1.31 or newer, and this is v1.30.9" in done.stderr
