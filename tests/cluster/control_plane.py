"""etcd, API server, controller-manager and scheduler as processes of this machine. Needs neither root nor a node."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx
from support.patience import PATIENCE_SECONDS

from cluster import network
from cluster.certificates import Authority, Pair
from cluster.kubectl import Kubectl, write_kubeconfig
from cluster.servers import Server
from rft_api.ports import free_port


class Cluster:
    """A cluster that somebody else runs.

    Attributes:
        kubeconfig: gives all rights.
        kubectl: with that kubeconfig.
    """

    def __init__(self, kubeconfig: Path, kubectl: Path):
        self.kubeconfig = kubeconfig
        self.kubectl = Kubectl(kubectl, kubeconfig)


class ControlPlane(Cluster):
    """A control plane with all its state in `folder`.

    Args:
        folder: made here.
        binaries: programs by name.
        flags: further ones of the API server.

    Attributes:
        admin: the certificate of the kubeconfig.
        authority: signs the certificates of nodes and users.
        port: of the API server.
    """

    def __init__(self, folder: Path, binaries: dict[str, Path], flags: Sequence[str] = ()):
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._binaries = binaries
        self.port = free_port()
        self.authority = Authority(folder / "certificates")
        self.admin = self.authority.issue("admin", ["system:masters"])
        super().__init__(self.write_kubeconfig("admin", self.admin), binaries["kubectl"])
        self.etcd = self._etcd()
        self.api_server = self._api_server(flags)
        self.controller_manager = self._controller_manager()
        self.scheduler = self._scheduler()

    @property
    def url(self) -> str:
        """Where the API server is, for programs of this machine."""
        return f"https://127.0.0.1:{self.port}"

    def write_kubeconfig(self, name: str, client: Pair, host: str = "127.0.0.1", port: int | None = None) -> Path:
        """A kubeconfig for the holder of a certificate that the authority signed; `port` is of a proxy between."""
        server = f"https://{host}:{port or self.port}"
        return write_kubeconfig(self._folder / f"{name}.kubeconfig", server, self.authority.pair.certificate, client)

    def start(self) -> None:
        """Starts everything; returns when the API server is ready and namespaces get their ServiceAccounts."""
        self.etcd.start()
        self.api_server.start()  # retries until etcd is there
        self.wait_until_ready()
        self.controller_manager.start()
        self.scheduler.start()
        self.kubectl.wait_for("serviceaccount", "default", until=lambda _: True)

    def wait_until_ready(self) -> None:
        """Waits for the API server, after its start or restart."""
        context = ssl.create_default_context(cafile=str(self.authority.pair.certificate))
        context.load_cert_chain(self.admin.certificate, self.admin.key)
        with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE_SECONDS) as client:

            def ready() -> bool:
                self.etcd.check()
                with contextlib.suppress(httpx.TransportError):
                    return client.get(f"{self.url}/readyz").status_code == httpx.codes.OK
                return False

            self.api_server.wait(ready)

    def stop(self) -> None:
        """Ends everything. The state is not kept, so nobody needs time to write it."""
        for server in (self.scheduler, self.controller_manager, self.api_server, self.etcd):
            server.kill()

    def _etcd(self) -> Server:
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        peers = f"http://127.0.0.1:{free_port()}"
        return self._server(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _api_server(self, flags: Sequence[str]) -> Server:
        certificates = self.authority.pair
        services = [f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
        names = [*services, "localhost", "127.0.0.1", network.HOST, network.API_SERVICE]
        serving = self.authority.issue("kube-apiserver", names=names)
        kubelet_client = self.authority.issue("kube-apiserver-kubelet-client", ["system:masters"])
        self._tokens = self.authority.signing_key("service-accounts")
        return self._server(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--secure-port={self.port}",
            f"--advertise-address={network.HOST}",
            "--endpoint-reconciler-type=lease",
            f"--service-cluster-ip-range={network.SERVICES}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={certificates.certificate}",
            f"--kubelet-client-certificate={kubelet_client.certificate}",
            f"--kubelet-client-key={kubelet_client.key}",
            # The node's name is in no DNS.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{network.DOMAIN}",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            *flags,
        )

    def _controller_manager(self) -> Server:
        client = self.authority.issue("system:kube-controller-manager")
        kubeconfig = self.write_kubeconfig("controller-manager", client)
        return self._server(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--root-ca-file={self.authority.pair.certificate}",
            f"--service-account-private-key-file={self._tokens.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            # A thousand jobs at once are part of what is measured; the controllers must not be what limits.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def _scheduler(self) -> Server:
        kubeconfig = self.write_kubeconfig("scheduler", self.authority.issue("system:kube-scheduler"))
        return self._server(
            "kube-scheduler",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
        )

    def _server(self, name: str, *flags: str) -> Server:
        return Server(name, [str(self._binaries[name]), *flags], self._folder)
