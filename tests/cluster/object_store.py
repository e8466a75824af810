"""A real S3 server (versitygw) on a folder: a bucket is a folder in it, an object a file."""

from __future__ import annotations

import secrets
from pathlib import Path

from cluster import network
from cluster.servers import Server
from rft_api.ports import free_port

REGION = "us-east-1"


class ObjectStore:
    """An S3 server and the credentials that have all rights on it.

    Attributes:
        buckets: the folder that holds the buckets.
        url: the endpoint for programs of this machine.
        pod_url: the endpoint for pods.
    """

    def __init__(self, folder: Path, binary: Path):
        folder.mkdir(mode=0o700)
        self.buckets = folder / "buckets"
        self.buckets.mkdir()
        self.access_key = secrets.token_hex(8)
        self.secret_key = secrets.token_hex(16)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.pod_url = f"http://{network.HOST}:{port}"
        # Not as flags: other users of the machine could read them.
        environment = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        command = [str(binary), "--port", f":{port}", "--region", REGION, "--health", "/health", "--quiet"]
        self.server = Server("versitygw", [*command, "posix", str(self.buckets)], folder, environment)

    def start(self) -> None:
        """Starts it, also again after a stop; returns when it answers."""
        self.server.start()
        self.server.wait_for_answer(f"{self.url}/health")

    def stop(self) -> None:
        """Ends it; the objects stay until the run's folder is removed."""
        self.server.kill()

    def make_bucket(self, name: str) -> Path:
        """A new bucket; what is written into its folder are its objects."""
        folder = self.buckets / name
        folder.mkdir()
        return folder

    def environment(self, in_pods: bool = False) -> dict[str, str]:
        """The usual variables that make S3 clients use this server."""
        return {
            "AWS_ENDPOINT_URL": self.pod_url if in_pods else self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
        }
