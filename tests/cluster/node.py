"""A real node: containerd, kubelet, kube-proxy and DNS in namespaces of their own. Needs Linux and root.

Processes, mounts and network of the node and of its pods live in namespaces that end with their first process: when
that is killed, however, the kernel removes everything. What is left are control groups and kernel settings, which
`clean_up` undoes. The node is joined to this machine by a pair of virtual interfaces: programs here reach pods and
Services by their addresses, pods reach this machine as `network.HOST` and nothing beyond it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from support.patience import PATIENCE_SECONDS, SLOWNESS, wait_until

from cluster import host_python, network
from cluster.cache import Report, locked
from cluster.control_plane import ControlPlane
from cluster.images import build_static_image
from cluster.kubectl import Manifest
from cluster.packages import CNI, SEARCH_PATH, install_packages, missing_packages
from cluster.servers import Server

NAME = "node"
HOST_INTERFACE = "rft-node"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# The kubelet sets these for the whole machine.
KERNEL_SETTINGS = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"]
KERNEL_SETTINGS += ["kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"]

# Runs as the first process of the namespaces. Its number, as this machine sees it, is read before /proc is replaced.
_FIRST_PROCESS = """
read -r number rest < /proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$1/run" /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount --make-rshared /
hostname node
ip link set lo up
echo "$number" > "$1/number.partial"
mv "$1/number.partial" "$1/number"
exec "$2"
"""


def why_impossible() -> str | None:
    """Why this machine cannot have a node, or None."""
    if sys.platform != "linux":
        return "they need Linux"
    if os.geteuid() != 0:
        return "they need root (network and mount namespaces, control groups)"
    if os.environ.get("RFT_TEST_KUBECONFIG"):
        return "RFT_TEST_KUBECONFIG gives another cluster"
    if not shutil.which("apt-get") and (missing := missing_packages()):
        return f"they need what Debian calls {', '.join(missing)}"
    return None


class Node:
    """The one node of a control plane."""

    def __init__(self, folder: Path, plane: ControlPlane, binaries: dict[str, Path], report: Report):
        self._run = folder.parent
        self._folder = folder
        self._plane = plane
        self._binaries = binaries
        self._report = report
        self._resources = contextlib.ExitStack()
        separated = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        command = ["unshare", *separated, "sh", "-euc", _FIRST_PROCESS, "sh", str(folder), str(binaries["pause"])]
        self._namespaces = Server("namespaces", command, folder)

    def start(self) -> None:
        """Starts everything; returns when the node is ready for pods."""
        install_packages(self._report)
        # The addresses are the same for every node: one at a time on a machine.
        doing = self._resources.enter_context(locked("node", self._report))
        doing.write_text(f"it runs a node ({self._run.name})", encoding="utf-8")
        for name in ("run", "lib", "log", "cni"):
            (self._folder / name).mkdir(parents=True)
        _remember_kernel_settings(self._run)
        self._make_namespaces()
        self._join()
        self._make_control_groups()
        self.containerd = self._containerd()
        self.containerd.start()
        self.containerd.wait(lambda: self.run("ctr", "version", check=False).returncode == 0)
        self._load_pause()
        self.dns, self.proxy, self.kubelet = self._dns(), self._proxy(), self._kubelet()
        for server in (self.dns, self.proxy, self.kubelet):
            server.start()
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends everything and every pod."""
        self._namespaces.kill()
        clean_up(self._run)
        self._resources.close()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program on the node, e.g. `ctr --namespace k8s.io containers list`."""
        done = subprocess.run(self._inside(*command), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done

    def load_image(self, archive: Path) -> None:
        """Makes the image in an archive, as `buildah push docker-archive:` writes it, one that pods can use."""
        self.run("ctr", "--namespace=k8s.io", "images", "import", "--snapshotter=overlayfs", str(archive))

    def _inside(self, *command: str) -> list[str]:
        path = f"PATH={SEARCH_PATH}"
        return ["nsenter", f"--target={self._first}", "--all", "--", "env", path, *command]

    def _make_namespaces(self) -> None:
        self._namespaces.start()
        number = self._folder / "number"
        self._namespaces.wait(number.exists)
        self._first = int(number.read_text())

    def _join(self) -> None:
        """Connects the node's network with this machine's. Both ends vanish with the node's network."""
        # The kernel removes that of an earlier node a while after its processes have ended.
        wait_until(lambda: not Path("/sys/class/net", HOST_INTERFACE).exists())
        outside = ["ip", "link", "add", HOST_INTERFACE, "type", "veth", "peer", "name", "eth0", "netns"]
        _execute(*outside, str(self._first))
        _execute("ip", "address", "add", f"{network.HOST}/{network.LINK_PREFIX}", "dev", HOST_INTERFACE)
        _execute("ip", "link", "set", HOST_INTERFACE, "up")
        self.run("ip", "address", "add", f"{network.NODE}/{network.LINK_PREFIX}", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", network.HOST)
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for addresses in (network.PODS, network.SERVICES):
            _execute("ip", "route", "add", addresses, "via", network.NODE)

    def _make_control_groups(self) -> None:
        for hierarchy in _hierarchies():
            group = hierarchy / _control_group(self._run)
            group.mkdir(exist_ok=True)
            # By default all pods together get as much of a busy machine's processors as one process beside them.
            for file, value in (("cpu.shares", "4096"), ("cpu.weight", "400")):
                if (group / file).exists():
                    (group / file).write_text(value, encoding="ascii")

    def _containerd(self) -> Server:
        configuration = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": network.PODS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self._folder / "cni" / "10-pods.conflist").write_text(json.dumps(configuration), encoding="utf-8")
        specification = json.loads(self.run("ctr", "oci", "spec").stdout)
        specification["mounts"] += host_python.mounts()
        base = self._write("container.json", specification)
        file = self._folder / "containerd.toml"
        # Without restrict_oom_score_adj no pod starts where root lacks CAP_SYS_RESOURCE.
        file.write_text(
            f"""version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{base}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI}"
conf_dir = "{self._folder / "cni"}"
""",
            encoding="utf-8",
        )
        return self._server("containerd", "containerd", f"--config={file}", "--log-level=warn")

    def _load_pause(self) -> None:
        self.load_image(build_static_image("localhost/pause:1", self._binaries["pause"], self._folder, self._report))

    def _kubelet(self) -> Server:
        serving = self._plane.authority.issue(f"kubelet-{NAME}", names=[network.NODE, NAME])
        client = self._plane.authority.issue(f"system:node:{NAME}", ["system:nodes"])
        kubeconfig = self._plane.write_kubeconfig("kubelet", client, network.HOST)
        names = self._folder / "resolv.conf"
        names.write_text("", encoding="utf-8")
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "address": network.NODE,
            "healthzBindAddress": network.NODE,
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "authentication": {
                "x509": {"clientCAFile": str(self._plane.authority.pair.certificate)},
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{_control_group(self._run)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDomain": network.DOMAIN,
            "clusterDNS": [network.NODE],
            "resolvConf": str(names),
            # A full disk is the owner's affair; images cannot be pulled again once they are collected.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "syncFrequency": "10s",
            "logging": {"verbosity": 1},
        }
        file = self._write("kubelet.yaml", configuration)
        return self._server(
            "kubelet",
            str(self._binaries["kubelet"]),
            f"--config={file}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={network.NODE}",
        )

    def _proxy(self) -> Server:
        client = self._plane.authority.issue("system:kube-proxy")
        kubeconfig = self._plane.write_kubeconfig("kube-proxy", client, network.HOST)
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": network.PODS,
            "hostnameOverride": NAME,
            "bindAddress": network.NODE,
            "iptables": {"minSyncPeriod": "100ms"},
            # The table's size belongs to the machine, not to the node's network.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        file = self._write("kube-proxy.yaml", configuration)
        return self._server("kube-proxy", str(self._binaries["kube-proxy"]), f"--config={file}")

    def _dns(self) -> Server:
        rule = {"verbs": ["list", "watch"]}
        rules = [
            {**rule, "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"]},
            {**rule, "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
        ]
        authorization = "rbac.authorization.k8s.io"
        role = {"apiGroup": authorization, "kind": "ClusterRole", "name": "coredns"}
        user = {"apiGroup": authorization, "kind": "User", "name": "coredns"}
        head = {"apiVersion": f"{authorization}/v1", "metadata": {"name": "coredns"}}
        self._plane.kubectl.apply(
            {**head, "kind": "ClusterRole", "rules": rules},
            {**head, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [user]},
        )
        client = self._plane.authority.issue("coredns")
        kubeconfig = self._plane.write_kubeconfig("coredns", client, network.HOST)
        file = self._folder / "Corefile"
        file.write_text(
            f""".:53 {{
  bind {network.NODE}
  errors
  ready {network.NODE}:8181
  kubernetes {network.DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
""",
            encoding="utf-8",
        )
        return self._server("coredns", str(self._binaries["coredns"]), f"-conf={file}")

    def _server(self, name: str, *command: str) -> Server:
        return Server(name, self._inside(*command), self._folder)

    def _write(self, name: str, content: Manifest) -> Path:
        path = self._folder / name
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return path

    def _wait_until_ready(self) -> None:
        def ready() -> bool:
            for server in (self.containerd, self.dns, self.proxy):
                server.check()
            found = self._plane.kubectl.run("get", "node", NAME, "--output=json")
            if found.returncode:
                return False
            node = json.loads(found.stdout)
            conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
            # Pods stay pending while the controller-manager has not seen that it is ready.
            return conditions.get("Ready") == "True" and not node["spec"].get("taints")

        self.kubelet.wait(ready)


def clean_up(run: Path) -> None:
    """Undoes what the node of a run, whose processes are gone, did to this machine."""
    settings = run / "kernel-settings.json"
    if settings.exists():
        for name, value in json.loads(settings.read_text(encoding="utf-8")).items():
            (Path("/proc/sys") / name).write_text(value, encoding="ascii")
        settings.unlink()
    for hierarchy in _hierarchies():
        top = hierarchy / _control_group(run)
        # Depth first: a group is removed when it is empty, which the last process makes it a moment after its end.
        for group in sorted(top.rglob("*/"), reverse=True) + ([top] if top.exists() else []):
            _remove_control_group(group)


def _remove_control_group(group: Path) -> None:
    for _ in range(round(100 * SLOWNESS)):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return


def _remember_kernel_settings(run: Path) -> None:
    settings = {name: (Path("/proc/sys") / name).read_text(encoding="ascii").strip() for name in KERNEL_SETTINGS}
    (run / "kernel-settings.json").write_text(json.dumps(settings), encoding="utf-8")


def _hierarchies() -> list[Path]:
    """Where control groups are made: one folder on version 2, one for each controller on version 1."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS]
    return [path for path in CONTROL_GROUPS.glob("*") if path.is_dir() and (path / "cgroup.procs").exists()]


def _control_group(run: Path) -> str:
    return f"rft-{run.name}"


def _execute(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
