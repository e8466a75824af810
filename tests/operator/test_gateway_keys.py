"""`rft keys` on a real API server: its Secrets are read as they are stored, and only Secrets of keys are deleted."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.control_plane import Cluster
from cluster.kubectl import Kubectl
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_key import Key, Limits, parse_secret, token_digest

Rft = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(api_server: Cluster) -> Kubectl:
    return api_server.kubectl


@pytest.fixture
def team(kubectl: Kubectl) -> Iterator[str]:
    with kubectl.namespace(f"team-{secrets.token_hex(3)}") as name:
        yield name


@pytest.fixture
def rft(kubectl: Kubectl, tmp_path: Path) -> Rft:
    (tmp_path / "kubectl").symlink_to(kubectl.binary)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "KUBECONFIG": str(kubectl.kubeconfig), "HOME": str(tmp_path),
        "COLUMNS": "200",
    }  # fmt: skip

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rft_cli.main", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    return call


def test_keys_of_a_cluster(kubectl, team, rft):
    created = rft("keys", "create", "ci", "--namespace", team, "--models", "tax", "--tokens-per-day", "1M")
    assert created.returncode == 0, created.stderr
    assert f"Secret ci of namespace {team} is created in the cluster." in created.stderr
    token = created.stdout.strip()
    stored = kubectl.get("secret", "ci", f"--namespace={team}")
    expected = Key("ci", team, token_digest(token), ("tax",), limits=Limits(tokens_per_day=10**6))
    assert parse_secret(stored) == expected
    again = rft("keys", "create", "ci", "--namespace", team)
    assert (again.returncode, again.stdout) == (10, "")
    assert "already exists" in again.stderr

    kubectl("create", "secret", "generic", "password", "--from-literal=a=b", f"--namespace={team}")
    label = {"rft.dev/gateway-key": "true"}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad", "labels": label}, "stringData": {"a": "b"}},
        namespace=team,
    )
    listed = rft("keys", "list", "--namespace", team)
    assert listed.returncode == 10
    assert "1,000,000 tokens a day" in listed.stdout
    assert "password" not in listed.stdout + listed.stderr
    assert listed.stderr.splitlines() == [
        "error: a document opens nothing:",
        f"Secret bad of namespace {team}: stringData.digest: is required; data.a: unknown field",
    ]
    assert team in rft("keys", "list").stdout

    assert rft("keys", "revoke", "password", "--namespace", team).returncode == 10
    assert rft("keys", "revoke", "ci", "--namespace", "default").stderr == (
        "error: there is no key ci in namespace default of the cluster\n"
    )
    for name in ("ci", "bad"):
        assert rft("keys", "revoke", name, "--namespace", team).returncode == 0
    left = [secret["metadata"]["name"] for secret in kubectl.get("secrets", f"--namespace={team}")["items"]]
    assert left == ["password"]


def test_a_secret_of_a_tenant_hides_no_keys(kubectl, team, rft, tmp_path):
    token = rft("keys", "create", "ci", "--namespace", team).stdout.strip()
    metadata = {"name": "bad", "labels": {"rft.dev/gateway-key": "true"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {f"k{n}": "" for n in range(60_000)}}
    (tmp_path / "bad.json").write_text(json.dumps(secret))
    kubectl("create", f"--filename={tmp_path}/bad.json", f"--namespace={team}")
    listed = rft("keys", "list", "--namespace", team)
    assert listed.returncode == 10
    assert "ci" in listed.stdout
    assert token not in listed.stdout
    assert listed.stderr.splitlines() == [
        "error: a document opens nothing:",
        f"Secret bad of namespace {team}: has more than 20,000 values, and was not read",
    ]


def test_a_file_for_kubectl_is_accepted(kubectl, team, rft, tmp_path):
    file = tmp_path / "key.yaml"
    created = rft("keys", "create", "ci", "--namespace", team, "--expires", "30d", "--output", str(file))
    assert created.returncode == 0, created.stderr
    kubectl("apply", f"--filename={file}")
    key = parse_secret(kubectl.get("secret", "ci", f"--namespace={team}"))
    assert (key.digest, key.expires is not None) == (token_digest(created.stdout.strip()), True)
