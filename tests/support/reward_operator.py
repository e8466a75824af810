"""Plays the operator and a node for the RewardFunctions of a namespace: each has a real reward server here."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from rft_api.object_labels import COMPONENT, MANAGED_BY, OPERATOR, OWNER, REWARD_SERVER, SERVER_PORT_NAME
from rft_api.object_names import reward_server
from support.fine_tuning import condition
from support.gateway_in_cluster import Team, own_address
from support.reward_server import RewardServer


class RewardOperator:
    """In a `with` block, RewardFunctions become ready.

    Args:
        team: the namespace.
        folder: for the files of the servers.
    """

    def __init__(self, team: Team, folder: Path):
        self.servers: dict[str, RewardServer] = {}
        """The servers by the names of their RewardFunctions."""
        self._team = team
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.failure: BaseException | None = None
        """Why it does not go on."""

    def __enter__(self) -> RewardOperator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for server in self.servers.values():
            server.__exit__()
        if self.failure is not None:
            raise self.failure

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                time.sleep(0.2)
                for function in self._team.read("rewardfunctions")["items"]:
                    if function["metadata"]["name"] not in self.servers:
                        self._serve(function)
        except BaseException as error:
            self.failure = error

    def _serve(self, function: dict[str, Any]) -> None:
        name, token = function["metadata"]["name"], secrets.token_hex(16)
        server = RewardServer(self._folder / name, function["spec"], token=token, host=own_address())
        self.servers[name] = server
        server.wait_ready()
        labels = {MANAGED_BY: OPERATOR, COMPONENT: REWARD_SERVER, OWNER: name}
        self._team.apply(
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-token", "labels": labels},
                "data": {"token": base64.b64encode(token.encode()).decode()},
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "labels": {**labels, "kubernetes.io/service-name": reward_server(name)}},
                "ports": [{"name": SERVER_PORT_NAME, "port": int(server.url.rpartition(":")[2])}],
                "endpoints": [{"addresses": [own_address()], "conditions": {"ready": True}}],
            },
        )  # fmt: skip
        self._team.set_reward_status(name, condition("Ready", "True", "Ready"))
