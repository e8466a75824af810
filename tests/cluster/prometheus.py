"""A real Prometheus that scrapes what a test tells it to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from support.patience import PATIENCE_SECONDS, wait_until

from cluster.servers import Server
from rft_api.ports import free_port


class Prometheus:
    """A Prometheus with its data in `folder`."""

    def __init__(self, folder: Path, binary: Path):
        folder.mkdir(mode=0o700)
        self._config = folder / "prometheus.yaml"
        self._write([])
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.server = Server(
            "prometheus",
            [
                str(binary),
                f"--config.file={self._config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-lifecycle",
                "--log.level=warn",
            ],
            folder,
        )

    def start(self) -> None:
        """Starts it; returns when it is ready."""
        self.server.start()
        self.server.wait_for_answer(f"{self.url}/-/ready")

    def stop(self) -> None:
        """Ends it."""
        self.server.kill()

    def scrape(self, configurations: list[dict[str, Any]], rule_files: list[Path] | None = None) -> None:
        """Sets what is scraped (`scrape_configs`) and the rules, replacing what was set before."""
        self._write(configurations, rule_files)
        answer = httpx.post(f"{self.url}/-/reload", trust_env=False, timeout=PATIENCE_SECONDS)
        assert answer.status_code == httpx.codes.OK, answer.text

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The current value of an expression: samples with their labels."""
        samples: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return samples

    def rules(self) -> list[dict[str, Any]]:
        """Its rules, each with its health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, as soon as there are any."""
        return wait_until(
            lambda: self.query(expression),
            explain=lambda: f"no {expression}; targets: {self._get('targets')}",
            pause=0.3,
        )

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}"
        answer = httpx.get(url, params=parameters, trust_env=False, timeout=PATIENCE_SECONDS).json()
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data

    def _write(self, configurations: list[dict[str, Any]], rule_files: list[Path] | None = None) -> None:
        content = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rule_files or []],
            "scrape_configs": configurations,
        }
        self._config.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
