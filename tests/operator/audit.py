"""What the API server has recorded of the operator's requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

OPERATOR = "rft-operator"
"""The operator's user name."""
WRITES = {"create", "update", "patch", "delete"}
_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}


@dataclass(frozen=True)
class Request:
    """A request that was answered."""

    verb: str
    group: str
    resource: str
    """With its subresource: `rftjobs/status`."""
    namespace: str
    name: str
    code: int


class Audit:
    """The audit log of an API server; policy and log are in `folder`."""

    def __init__(self, folder: Path):
        self._policy = folder / "policy.yaml"
        self._policy.write_text(json.dumps(_POLICY), encoding="utf-8")
        self._log = folder / "audit.log"

    @property
    def flags(self) -> list[str]:
        """Flags with which the API server records."""
        return [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"]

    def requests(self) -> list[Request]:
        """The operator's requests for resources, in the order of their answers; a watch counts once it has begun."""
        answered: dict[str, Request] = {}
        # The API server may be about to write the last line.
        whole, _, _ = self._log.read_text(encoding="utf-8").rpartition("\n")
        for line in whole.splitlines():
            event = json.loads(line)
            about = event.get("objectRef")
            if about is not None:
                answered[event["auditID"]] = Request(
                    event["verb"],
                    about.get("apiGroup", ""),
                    "/".join(part for part in (about["resource"], about.get("subresource")) if part),
                    about.get("namespace", ""),
                    about.get("name", ""),
                    event.get("responseStatus", {}).get("code", 0),
                )
        return list(answered.values())

    def writes(self, namespace: str) -> list[Request]:
        """The operator's writes in a namespace."""
        return [r for r in self.requests() if r.namespace == namespace and r.verb in WRITES]
