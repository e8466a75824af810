"""Build the objects of a reward function: configuration, token, Deployment, Service and NetworkPolicy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from rft_api.bounds import denied_parts
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json
from rft_api.readiness import READINESS_PATH
from rft_api.remote_graders import judge_endpoints, with_endpoint_urls
from rft_api.reward_document import FUNCTION_KEY, reward_document
from rft_api.reward_function import RewardFunction
from rft_operator.inference_endpoint.names import SERVER_PORT, endpoint_url
from rft_operator.kube import kinds
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.kube.names import COMPONENT, FIELD_MANAGER, MANAGED_BY
from rft_operator.pods import paths
from rft_operator.pods.deployment_view import CONTENT_DIGEST
from rft_operator.pods.peers import system_peers, tcp_port
from rft_operator.pods.template import (
    Container,
    build_container,
    build_deployment,
    build_pod_template,
    http_probe,
    override_pod,
    scrape_annotations,
)
from rft_operator.reward_function import names
from rft_operator.settings import Settings

TOKEN_KEY = "token"
"""Key of the token in its Secret."""


def function_document(function: RewardFunction) -> str:
    """Return the manifest that the reward server reads, with the addresses of the endpoints that judge.

    Args:
        function: the function, whose references to ConfigMaps have been replaced by the code.
    """
    namespace = function.metadata.namespace
    return reward_document(with_endpoint_urls(function, lambda endpoint: endpoint_url(endpoint, namespace)))


def document_digest(function: RewardFunction) -> str:
    """Return the digest of what the reward server reads. The ConfigMap's name has it, so a change rolls the pods."""
    return hashlib.sha256(function_document(function).encode()).hexdigest()


def build_reward_configuration(function: RewardFunction) -> Json:
    """Build the ConfigMap with the function. It is immutable, and each version has its own, which old pods keep."""
    name = function.metadata.name
    return build_object(
        kinds.CONFIG_MAP,
        Owner.of(function),
        names.reward_configuration(name, document_digest(function)),
        {"immutable": True, "data": {FUNCTION_KEY: function_document(function)}},
    )


def build_token_secret(function: RewardFunction, token: str) -> Json:
    """Build the Secret with the token that callers of the server must send."""
    owner = Owner.of(function)
    return build_object(
        kinds.SECRET,
        owner,
        names.reward_token(owner.name, owner.uid),
        {"type": "Opaque", "stringData": {TOKEN_KEY: token}},
    )


def build_reward_service(function: RewardFunction) -> Json:
    """Build the Service of the reward servers."""
    name = function.metadata.name
    selector = kinds.REWARD_FUNCTION.child_labels(name)
    ports = [{"name": "http", "port": names.REWARD_PORT, "targetPort": names.REWARD_PORT}]
    return build_object(
        kinds.SERVICE,
        Owner.of(function),
        names.reward_server(name),
        {"spec": {"selector": selector, "ports": ports}},
    )


def build_network_policy(
    function: RewardFunction, endpoints: Mapping[str, InferenceEndpoint], settings: Settings
) -> Json:
    """Build the NetworkPolicy of the reward servers.

    It allows connections from trainers, from the operator and from Prometheus, and connections to the addresses in
    `spec.egress` except those that the bounds deny, to the endpoints that judge, and to the package index when the code
    declares requirements. All
    containers of a pod share its network; the sandbox, which has none, keeps reward code from using it.

    Args:
        function: the function.
        endpoints: the existing InferenceEndpoints that judge, by name.
        settings: the settings of the operator.
    """
    name = function.metadata.name
    trainers = {MANAGED_BY: FIELD_MANAGER, COMPONENT: kinds.RFT_JOB.component}
    allowed = [{"podSelector": {"matchLabels": trainers}}, *system_peers(settings)]
    return build_object(
        kinds.NETWORK_POLICY,
        Owner.of(function),
        names.reward_server(name),
        {
            "spec": {
                "podSelector": {"matchLabels": kinds.REWARD_FUNCTION.child_labels(name)},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": allowed, "ports": [tcp_port(names.REWARD_PORT)]}],
                "egress": _egress(function, endpoints, settings),
            }
        },
    )


def _egress(function: RewardFunction, endpoints: Mapping[str, InferenceEndpoint], settings: Settings) -> list[Json]:
    index = settings.package_index.egress if function.spec.requirements() else ()
    rules: list[Json] = [
        {"to": [{"ipBlock": _ip_block(egress.cidr, settings)}], "ports": [tcp_port(egress.port)]}
        for egress in dict.fromkeys([*function.spec.egress, *index])
    ]
    judges = [(name, endpoints.get(name)) for name in judge_endpoints(function.spec)]
    # The pods of the base endpoint serve an adapter.
    servers = {judge.spec.base_endpoint or name if judge is not None else name for name, judge in judges}
    rules += [
        {
            "to": [{"podSelector": {"matchLabels": kinds.INFERENCE_ENDPOINT.child_labels(server)}}],
            "ports": [tcp_port(SERVER_PORT)],
        }
        for server in sorted(servers)
    ]
    if rules:
        # The names of the destinations are resolved by DNS.
        rules.append({"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]})
    return rules


def _ip_block(cidr: str, settings: Settings) -> Json:
    """Build a range of addresses without those that the bounds deny, such as those of metadata services."""
    denied = denied_parts(cidr, settings.bounds.egress)
    return {"cidr": cidr, "except": denied} if denied else {"cidr": cidr}


def build_reward_deployment(function: RewardFunction, settings: Settings) -> Json:
    """Build the Deployment of the reward server; the old version serves until the new one passes its tests."""
    owner = Owner.of(function)
    digest = document_digest(function)
    labels = kinds.REWARD_FUNCTION.child_labels(owner.name)
    has_packages = bool(function.spec.requirements())
    packages = {"name": "packages", "mountPath": paths.PACKAGES}
    container = Container(
        name=names.REWARD_SERVER,
        image=settings.images.reward,
        command=[
            "python",
            "-m",
            "rft_reward",
            "--function",
            f"{paths.CONFIGURATION}/{FUNCTION_KEY}",
            "--host",
            "0.0.0.0",
            "--port",
            str(names.REWARD_PORT),
            "--token-file",
            f"{paths.TOKENS}/{TOKEN_KEY}",
            *(["--packages", paths.PACKAGES] if has_packages else []),
        ],
        ports={"http": names.REWARD_PORT},
        mounts=[
            {"name": "configuration", "mountPath": paths.CONFIGURATION, "readOnly": True},
            {"name": "token", "mountPath": paths.TOKENS, "readOnly": True},
            *([{**packages, "readOnly": True}] if has_packages else []),
        ],
        credentials=function.spec.credentials,
        more={
            "readinessProbe": http_probe(READINESS_PATH, "http", 2, timeout=5),
            "livenessProbe": http_probe("/healthz", "http", 20, timeout=10, failures=6),
            "startupProbe": http_probe("/healthz", "http", 2, failures=60),
        },
    )
    template = build_pod_template(
        labels,
        {CONTENT_DIGEST: digest, **scrape_annotations(names.REWARD_PORT)},
        [build_container(container)],
        [
            {"name": "configuration", "configMap": {"name": names.reward_configuration(owner.name, digest)}},
            {"name": "token", "secret": {"secretName": names.reward_token(owner.name, owner.uid)}},
            *([{"name": packages["name"], "emptyDir": {}}] if has_packages else []),
        ],
        user=names.reward_user(owner.namespace, owner.name),
        # Time to finish a batch in flight.
        terminationGracePeriodSeconds=60,
    )
    if has_packages:
        template["spec"]["initContainers"] = [_build_installer(function, packages, settings)]
    return build_deployment(
        owner,
        names.reward_server(owner.name),
        labels,
        function.spec.replicas,
        override_pod(template, function.spec.pod),
        {CONTENT_DIGEST: digest},
    )


def _build_installer(function: RewardFunction, packages: Json, settings: Settings) -> Json:
    """Build the init container that installs the packages of the code, for the Python of the server's image."""
    overrides, index = function.spec.pod, settings.package_index.url
    image = overrides.image if overrides is not None else None
    installer = build_container(
        Container(
            name=names.PACKAGE_INSTALLER,
            image=image or settings.images.reward,
            command=[
                "python",
                "-m",
                "rft_reward.packages",
                "--function",
                f"{paths.CONFIGURATION}/{FUNCTION_KEY}",
                "--packages",
                paths.PACKAGES,
            ],
            env={"UV_NO_CACHE": "1", **({} if index is None else {"UV_DEFAULT_INDEX": index})},
            mounts=[{"name": "configuration", "mountPath": paths.CONFIGURATION, "readOnly": True}, packages],
        )
    )
    # A proxy, or the credentials of an index.
    installer["env"] += [] if overrides is None else overrides.env
    return installer
