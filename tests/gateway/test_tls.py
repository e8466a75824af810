"""The port for clients with a certificate, which changes while the gateway runs."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import httpx
import openai
import pytest
from cluster.certificates import Authority, Pair
from cryptography import x509
from support.gateway import Gateway, route
from support.patience import PATIENCE_SECONDS, wait_until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def install(pair: Pair, folder: Path) -> tuple[str, ...]:
    """Puts a certificate where the gateway reads it; returns its arguments."""
    folder.mkdir(exist_ok=True)
    shutil.copy(pair.certificate, folder / "tls.crt")
    shutil.copy(pair.key, folder / "tls.key")
    return "--tls-certificate", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")


def test_clients_connect_with_tls_and_a_new_certificate_is_taken(tmp_path, server, authority):
    first, second = (authority.issue(name, names=["127.0.0.1"]) for name in ("first", "second"))
    arguments = install(first, tmp_path / "tls")
    context = ssl.create_default_context(cafile=str(authority.pair.certificate))
    with Gateway(tmp_path / "gateway", [route("m", server.url)], *arguments) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")

        def shown() -> int:
            host, port = gateway.url.removeprefix("https://").split(":")
            with (
                socket.create_connection((host, int(port)), PATIENCE_SECONDS) as connection,
                context.wrap_socket(connection, server_hostname=host) as secured,
            ):
                certificate = secured.getpeercert(binary_form=True)
                assert certificate is not None
                return x509.load_der_x509_certificate(certificate).serial_number

        def serial(pair: Pair) -> int:
            return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number

        with (
            httpx.Client(verify=context, trust_env=False, timeout=PATIENCE_SECONDS) as http,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token, http_client=http) as client,
        ):
            answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "one"}])
            assert answer.choices[0].message.content
        assert shown() == serial(first)
        (tmp_path / "tls" / "tls.crt").write_text("no certificate")
        wait_until(lambda: "going on with the certificate as it was" in gateway.log)
        assert shown() == serial(first)
        install(second, tmp_path / "tls")
        wait_until(lambda: shown() == serial(second), lambda: gateway.log)
        assert httpx.get(f"{gateway.operation_url}/readyz", timeout=PATIENCE_SECONDS, trust_env=False).is_success


def test_what_is_no_certificate_is_named_at_the_start(tmp_path, server, authority):
    arguments = install(authority.issue("a"), tmp_path / "tls")
    shutil.copy(authority.issue("b").key, tmp_path / "tls" / "tls.key")
    code, log = Gateway(tmp_path / "gateway", [route("m", server.url)], *arguments).run()
    assert (code, "Traceback" in log) == (10, False)
    assert "--tls-certificate" in log
    assert "mismatch" in log.lower()
    code, log = Gateway(tmp_path / "gateway", [route("m", server.url)], *arguments[:2]).run()
    assert code != 0
    assert "--tls-certificate and --tls-key must be given together" in log
