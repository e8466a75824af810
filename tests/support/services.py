"""Services on this machine that answer as a test says: a judge's API, a Lambda, an HTTP reward."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]
    """With names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """A response."""

    body: Any = b""
    """Bytes, or what becomes JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Service:
    """An HTTP server; `respond` may be replaced at any time, and may return None to hang up without an answer."""

    def __init__(self, respond: Callable[[Asked], Answer | None], ssl_context: Any = None, host: str = "127.0.0.1"):
        self.respond = respond
        self.asked: list[Asked] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                service.asked.append(asked)
                answer = service.respond(asked)
                if answer is None:
                    self.close_connection = True
                    return
                content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        self._server = Server((host, 0), Handler)
        if ssl_context is not None:
            self._server.socket = ssl_context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if ssl_context is None else "https"
        self.port = self._server.server_address[1]
        self.url = f"{scheme}://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def chat(content: Any, prompt_tokens: int = 10, completion_tokens: int = 5, **more: Any) -> Answer:
    """A chat completion."""
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Answer({"choices": [{"message": message, "finish_reason": "stop", **more}], "usage": usage})


def rating(score: Any, reason: str = "because") -> Answer:
    """A judge's answer."""
    return chat(json.dumps({"reason": reason, "score": score}))
