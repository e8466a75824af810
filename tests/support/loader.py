"""The loader as its users run it, adapters for it, and a server that speaks vLLM's protocol for adapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from rft_api.ports import free_port
from support.patience import PATIENCE_SECONDS, wait_until


def write_adapter(
    folder: Path, base: Path, seed: int = 0, rank: int = 8, modules: tuple[str, ...] = ("q_proj",)
) -> Path:
    """Writes a LoRA adapter with random weights for a model, as peft saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=rank, target_modules=list(modules)))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def run_loader(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `python -m rft_loader` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rft_loader", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def write_list(path: Path, adapters: dict[str, object]) -> None:
    """Replaces the list of adapters, names with addresses, at once."""
    entries = [{"name": name, "uri": str(uri)} for name, uri in adapters.items()]
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"adapters": entries}), encoding="utf-8")
    new.replace(path)


class LoaderProgram:
    """`python -m rft_loader follow`, started and ended as a kubelet does."""

    def __init__(self, folder: Path, base: Path, server: str, environment: dict[str, str] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.list = folder / "adapters.json"
        self._environment = {**os.environ, **(environment or {})}
        self._base, self._server = base, server
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What all its starts have written."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self) -> None:
        """Starts it, also again."""
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "rft_loader", "follow", "--adapters", str(self.list),
                    "--folder", str(self.folder / "adapters"), "--base", str(self._base), "--server", self._server,
                    "--maximum-rank", "8", "--port", str(port),
                ],
                env=self._environment, stderr=log,
            )  # fmt: skip

    def adapters(self) -> dict[str, dict[str, str]]:
        """What it says of each adapter."""
        try:
            answer = httpx.get(f"{self.url}/adapters", trust_env=False, timeout=PATIENCE_SECONDS)
        except httpx.TransportError:
            return {}
        return {item["name"]: item for item in answer.json()["adapters"]}

    def wait_for(self, reached: Callable[[dict[str, dict[str, str]]], object]) -> None:
        """Waits until it says what is expected."""

        def is_reached() -> object:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return reached(self.adapters())

        wait_until(is_reached, self.adapters, lambda: self.log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


class PretendedServer:
    """Speaks vLLM's protocol for adapters.

    Attributes:
        adapters: what it serves, with folders.
        refusals: what it answers to loading a name.
        requests: what it was asked to do, in order.
    """

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.port = free_port()  # which nobody else takes while it is stopped
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it without adapters, on the same port as before."""
        self.adapters.clear()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listed = [{"id": "base", "root": "/models/base", "parent": None}]
                listed += [{"id": name, "root": root, "parent": "base"} for name, root in dict(outer.adapters).items()]
                self._answer(200, {"data": listed})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name, verb = body["lora_name"], self.path.split("/")[-1].split("_")[0]
                outer.requests.append((verb, name))
                if verb == "unload":
                    known = outer.adapters.pop(name, None) is not None
                    self._answer(200 if known else 404, {})
                elif name in outer.adapters:
                    self._answer(400, {"error": {"message": f"{name} is loaded"}})
                elif name in outer.refusals:
                    self._answer(500, {"error": {"message": outer.refusals[name]}})
                else:
                    assert Path(body["lora_path"], "adapter_model.safetensors").exists()
                    outer.adapters[name] = body["lora_path"]
                    self._answer(200, {})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
