"""A stand-in for a rollout server where a vLLM for each would cost minutes: its protocol, without a model.

A completion is drawn from the version's files, the prompt and the seed, so it is the same on every server, and another
with another version. Run as a program, it listens on a Unix socket, and appends every request to a file. As in vLLM, a
name is loaded once, an adapter is answered for only when it is loaded, and keys and values of whole weights stay until
the cache is emptied.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

BASE = "base"
FIRST_TOKEN, LAST_TOKEN = 8, 47
"""The tokens of completions: the characters of the tiny model."""
END_SHARE = 0.15


class StandIn:
    """The server.

    Args:
        record: where requests are written, one a line.
        hold: while this file exists, completions wait whose request has the fields of its JSON object.
    """

    def __init__(self, record: Path, hold: Path):
        self._record = record
        self._hold = hold
        self._adapters: dict[str, str] = {}
        self._weights = self._cached = BASE
        self._is_paused = False

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(client_max_size=1 << 26)
        application.router.add_get("/health", self._answer_health)
        application.router.add_post("/v1/completions", self._complete)
        application.router.add_post("/v1/load_lora_adapter", self._load)
        application.router.add_post("/v1/unload_lora_adapter", self._unload)
        for path in ("/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"):
            application.router.add_post(path, self._reload)
        return application

    async def _read(self, request: web.Request) -> Any:
        body = await request.json() if request.can_read_body else None
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"path": request.path, "body": body}) + "\n")
        return body

    async def _answer_health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _load(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        if body["lora_name"] in self._adapters:
            return web.Response(status=400, text="the adapter is loaded already")
        self._adapters[body["lora_name"]] = _digest(Path(body["lora_path"]))
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        known = self._adapters.pop(body["lora_name"], None)
        return web.Response(status=200 if known else 404)

    async def _reload(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        if request.path == "/pause":
            self._is_paused = True
        elif not self._is_paused:
            return web.Response(status=500, text="not paused")
        elif request.path == "/collective_rpc":
            self._weights = _digest(Path(body["kwargs"]["weights_path"]))
        elif request.path == "/reset_prefix_cache":
            self._cached = self._weights
            return web.json_response({"success": True})
        else:
            self._is_paused = False
        return web.json_response({})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        while self._holds(body):
            await asyncio.sleep(0.05)
        version = self._cached if body["model"] == BASE else self._adapters.get(body["model"])
        if version is None:
            return web.json_response({"message": "no such model"}, status=404)
        drawn = random.Random(f"{version}/{body['prompt']}/{body['seed'] if body['temperature'] else ''}")
        ids: list[int] = []
        while len(ids) < body["max_tokens"] and not (ids and ids[-1] in body["stop_token_ids"]):
            ends = drawn.random() < END_SHARE
            ids.append(body["stop_token_ids"][0] if ends else drawn.randint(FIRST_TOKEN, LAST_TOKEN))
        choice = {
            "index": 0,
            "prompt_token_ids": body["prompt"],
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-drawn.uniform(3, 4) for _ in ids]},
            "finish_reason": "stop" if ids[-1] in body["stop_token_ids"] else "length",
            "stop_reason": None,
        }
        return web.json_response({"model": body["model"], "choices": [choice]})

    def _holds(self, body: dict[str, Any]) -> bool:
        try:
            held = json.loads(self._hold.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # it may be being written
            return False
        return all(body[name] == value for name, value in held.items())


def _digest(folder: Path) -> str:
    """What a version is known by: the bytes of its weights."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def stand_in_command(socket: Path, folder: Path) -> list[str]:
    """The command of a stand-in behind a socket, whose requests are written to a file of the folder.

    The file has the number of the server, which is that of the socket up to the number of its start.
    """
    number = socket.stem.partition("-")[0]
    options = ["--record", str(folder / f"{number}.requests"), "--hold", str(hold_file(folder))]
    return [sys.executable, "-E", __file__, str(socket), *options]


def hold_file(folder: Path) -> Path:
    """The file that has completions wait, with the fields of their requests; see `StandIn`."""
    return folder / "hold.json"


def requests_of(folder: Path, path: str) -> dict[int, list[Any]]:
    """The bodies of the requests for a path that each server got, by its number."""
    lines = {int(file.stem): file.read_text(encoding="utf-8").splitlines() for file in folder.glob("*.requests")}
    parsed = {number: [json.loads(line) for line in each] for number, each in sorted(lines.items())}
    return {number: [line["body"] for line in each if line["path"] == path] for number, each in parsed.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--hold", type=Path, required=True)
    arguments = parser.parse_args()
    application = StandIn(arguments.record, arguments.hold).application()
    web.run_app(application, path=arguments.socket, print=None)
