"""A stand-in for a vLLM server: it writes what vLLM writes, byte for byte, and counts the tokens that it generates.

What it generates is a text of words, one for each token. A request says how many with max_tokens. A test can have it
stop at a token, or end there. `python -m support.vllm_bytes --port PORT` runs it by itself, for measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop
from aiohttp import web

CREATED = 1_764_460_800
DEFAULT_TOKENS = 16
EMBEDDING = [0.25, -0.5]


@dataclass
class Counters:
    """What the server has computed, as its own metrics would say."""

    requests: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Behaviour:
    """What a test can change while the server runs."""

    pause_at: int | None = None
    """Generation stops after so many tokens of a completion until `resume` is set."""
    resume: threading.Event = field(default_factory=threading.Event)
    end_at: int | None = None
    """The server ends the connection after so many tokens, or before its answer (0)."""
    error_at: int | None = None
    """The server states an error in a stream after so many tokens."""
    status: int | None = None
    """The server answers with this error."""
    embeddings: bool = False
    """Whether its model makes embeddings."""
    finish: str = "length"
    """Why completions end."""
    token_seconds: float = 0.0
    fingerprint: str | None = None
    """vLLM's `system_fingerprint`: in streams, of the chunk with the usage, or of chunks that end a completion."""


class VllmBytes:
    """The server, in a thread of its own; a context manager.

    Args:
        models: names that it serves.
        port: 0 is a free one.
        host: the address that it listens on.
    """

    def __init__(self, *models: str, port: int = 0, host: str = "127.0.0.1"):
        self.models = list(models)
        self.counters = Counters()
        self.behaviour = Behaviour()
        self.bodies: list[bytes] = []
        """The bodies of requests, as they came."""
        self.headers: list[dict[str, str]] = []
        self.keeps_requests = True
        self.tokens_by_request: Counter[str] = Counter()
        """Tokens of completions, by the names of requests."""
        self._port = port
        self._host = host
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> VllmBytes:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it; connections break off."""
        if self._thread.is_alive():
            self.behaviour.resume.set()
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self.serve())

    async def serve(self) -> None:
        """Serves until it is stopped."""
        self._stop = asyncio.Event()
        application = web.Application(client_max_size=1 << 28)
        application.router.add_get("/health", self._health)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/completions", self._completions)
        application.router.add_post("/v1/responses", self._responses)
        application.router.add_post("/v1/embeddings", self._embeddings)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port)
        await site.start()
        self.port = runner.addresses[0][1]
        self.url = f"http://{self._host}:{self.port}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _read(self, request: web.Request) -> Any:
        body = await request.read()
        if self.keeps_requests:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.counters.requests += 1
        document = orjson.loads(body)
        if self.behaviour.status is not None:
            raise _Refusal(self.behaviour.status, "the test says so")
        if document["model"] not in self.models:
            raise _Refusal(404, f"The model `{document['model']}` does not exist.", "NotFoundError", "model")
        if document.get("max_tokens", 1) > 4096:
            message = f"This model's maximum context length is 4096 tokens. You asked for {document['max_tokens']}."
            raise _Refusal(400, message, "BadRequestError", "max_tokens")
        return document

    async def _generate(self, request: web.Request, count: int) -> AsyncIterator[str]:
        """Yield the tokens of a completion, and count them."""
        behaviour = self.behaviour
        for number in range(count):
            if number == behaviour.end_at:
                assert request.transport is not None
                request.transport.abort()
                raise asyncio.CancelledError
            if number == behaviour.error_at:
                raise _Refusal(500, "EngineCore encountered an issue.", "InternalServerError")
            if number == behaviour.pause_at and not behaviour.resume.is_set():
                await asyncio.to_thread(behaviour.resume.wait)
            if behaviour.token_seconds:
                await asyncio.sleep(behaviour.token_seconds)
            self.counters.completion_tokens += 1
            self.tokens_by_request[request.headers.get("x-request-id", "")] += 1
            yield f"w{number} "

    async def _text(self, request: web.Request, count: int) -> str:
        return "".join([token async for token in self._generate(request, count)])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            document = await self._read(request)
            self._count_prompt(_prompt_tokens(document))
            if document.get("stream"):
                return await self._stream(request, document, "chat.completion.chunk", f"chatcmpl-{_id(request)}")
            choices = [await self._chat_choice(request, document, index) for index in range(document.get("n") or 1)]
            return _json(_chat_answer(request, document, choices, self.behaviour.fingerprint))
        except _Refusal as refusal:
            return refusal.response()
        except asyncio.CancelledError:
            self.counters.aborted += 1
            raise

    async def _chat_choice(self, request: web.Request, document: Any, index: int) -> dict[str, Any]:
        text = await self._text(request, _tokens(document))
        message: dict[str, Any] = {
            "role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
            "function_call": None,
        }  # fmt: skip
        finish = self.behaviour.finish
        if "tools" in document:
            finish, message["content"] = "tool_calls", None
            message["tool_calls"] = [{"id": "call_0", "type": "function", "function": _function(document)}]
        elif "response_format" in document:
            finish, message["content"] = "stop", '{"value": 2}'
        message["reasoning"] = None
        return {
            "index": index, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None,
            "token_ids": None,
        }  # fmt: skip

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        try:
            document = await self._read(request)
            prompts = _prompts(document)
            self._count_prompt(sum(map(_words, prompts)))
            if document.get("stream"):
                return await self._stream(request, document, "text_completion", f"cmpl-{_id(request)}")
            texts = [
                await self._text(request, _tokens(document)) for _ in range(len(prompts) * (document.get("n") or 1))
            ]
            choices = [
                {
                    "index": index, "text": text, "logprobs": None, "finish_reason": self.behaviour.finish,
                    "stop_reason": None,
                    "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None,
                }
                for index, text in enumerate(texts)
            ]  # fmt: skip
            usage = _usage(sum(map(_words, prompts)), len(texts) * _tokens(document))
            answer = {
                "id": f"cmpl-{_id(request)}", "object": "text_completion", "created": CREATED,
                "model": document["model"], "choices": choices, "service_tier": None,
                "system_fingerprint": self.behaviour.fingerprint, "usage": usage, "kv_transfer_params": None,
                "ec_transfer_params": None, "metrics": None,
            }  # fmt: skip
            return _json(answer)
        except _Refusal as refusal:
            return refusal.response()
        except asyncio.CancelledError:
            self.counters.aborted += 1
            raise

    async def _stream(self, request: web.Request, document: Any, kind: str, answer_id: str) -> web.StreamResponse:
        """Write a stream of chat or completions, as vLLM's generators do: one token of each completion in turn."""
        is_chat = kind.startswith("chat")
        options = document.get("stream_options") or {}
        include = bool(options.get("include_usage"))
        continuous = include and bool(options.get("continuous_usage_stats"))
        prompts = [_prompt_tokens(document)] if is_chat else [_words(prompt) for prompt in _prompts(document)]
        completions, count = document.get("n") or 1, _tokens(document)
        total = len(prompts) * completions
        stated = self.behaviour.fingerprint
        fingerprint = {} if stated is None else {"system_fingerprint": stated}
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})

        async def write(choices: list[Any], usage: dict[str, Any] | None, **more: Any) -> None:
            chunk = {"id": answer_id, "object": kind, "created": CREATED, "model": document["model"]}
            chunk["choices"] = choices
            if usage is not None:
                chunk["usage"] = usage
            await response.write(b"data: " + orjson.dumps({**chunk, **more}) + b"\n\n")

        def usage_of(index: int, tokens: int) -> dict[str, Any] | None:
            if not continuous:
                return None
            prompt = prompts[index // completions]
            usage = {"prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens}
            return {**usage, "completion_tokens_details": None} if is_chat else usage

        if self.behaviour.end_at == 0:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.prepare(request)
        if is_chat:
            for index in range(total):
                choice = _stream_choice(index, {"role": "assistant", "content": ""})
                del choice["token_ids"]
                await write([choice], usage_of(index, 0), prompt_token_ids=None, prompt_text=None)
        generators = [self._generate(request, count) for _ in range(total)]
        try:
            for number in range(count):
                for index, generator in enumerate(generators):
                    token = await anext(generator)
                    finish = self.behaviour.finish if number == count - 1 else None
                    delta = {"content": token}
                    if is_chat and "tools" in document:
                        delta, finish = _tool_delta(document, number, count)
                    choice = _stream_choice(index, delta, finish) if is_chat else _text_choice(index, token, finish)
                    ends = {} if include or finish is None else fingerprint
                    await write([choice], usage_of(index, number + 1), **ends)
            if include:
                final = {"prompt_tokens": sum(prompts), "total_tokens": sum(prompts) + total * count}
                await write([], {**final, "completion_tokens": total * count}, **fingerprint)
        except _Refusal as refusal:
            await response.write(b"data: " + refusal.body() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        try:
            document = await self._read(request)
            prompt, count = _prompt_tokens(document), document.get("max_output_tokens") or DEFAULT_TOKENS
            self._count_prompt(prompt)
            if document.get("stream"):
                return await self._stream_response(request, document, prompt, count)
            text = await self._text(request, count)
            return _json(_response(document, text, prompt, count))
        except _Refusal as refusal:
            return refusal.response()
        except asyncio.CancelledError:
            self.counters.aborted += 1
            raise

    async def _stream_response(
        self, request: web.Request, document: Any, prompt: int, count: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        numbers = iter(range(1 << 30))

        async def write(kind: str, **fields: Any) -> None:
            event = {**fields, "sequence_number": next(numbers), "type": kind}
            await response.write(f"event: {kind}\ndata: ".encode() + orjson.dumps(event) + b"\n\n")

        empty = {**_response(document, "", prompt, 0), "output": [], "status": "in_progress", "usage": None}
        await write("response.created", response=empty)
        await write("response.in_progress", response=empty)
        item = {"id": "msg_0", "content": [], "role": "assistant", "status": "in_progress", "type": "message"}
        await write("response.output_item.added", item=item, output_index=0)
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        place = {"content_index": 0, "item_id": "msg_0", "output_index": 0}
        await write("response.content_part.added", part=part, **place)
        text = ""
        async for token in self._generate(request, count):
            text += token
            await write("response.output_text.delta", delta=token, logprobs=[], **place)
        await write("response.output_text.done", text=text, logprobs=[], **place)
        await write("response.content_part.done", part={**part, "text": text}, **place)
        await write("response.output_item.done", item={**item, "status": "completed"}, output_index=0)
        await write("response.completed", response=_response(document, text, prompt, count))
        return response

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        try:
            document = await self._read(request)
            if not self.behaviour.embeddings:
                raise _Refusal(501, "The model does not support Embeddings API", "NotImplementedError")
            prompt = _prompt_tokens(document)
            self._count_prompt(prompt)
            usage = {**_usage(prompt, 0), "completion_tokens": 0}
            data = [{"index": 0, "object": "embedding", "embedding": EMBEDDING}]
            answer = {"id": f"embd-{_id(request)}", "object": "list", "created": CREATED, "model": document["model"]}
            return _json({**answer, "data": data, "usage": usage})
        except _Refusal as refusal:
            return refusal.response()

    def _count_prompt(self, tokens: int) -> None:
        self.counters.prompt_tokens += tokens


class _Refusal(Exception):
    """vLLM's error."""

    def __init__(self, status: int, message: str, kind: str = "InternalServerError", param: str | None = None):
        super().__init__(message)
        self.status = status
        self._error = {"message": message, "type": kind, "param": param, "code": status}

    def body(self) -> bytes:
        return orjson.dumps({"error": self._error})

    def response(self) -> web.Response:
        return web.Response(status=self.status, body=self.body(), content_type="application/json")


def _id(request: web.Request) -> str:
    return request.headers.get("x-request-id", "0")


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
        "prompt_tokens_details": None, "completion_tokens_details": None,
    }  # fmt: skip


def _chat_answer(request: web.Request, document: Any, choices: list[Any], fingerprint: str | None) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{_id(request)}", "object": "chat.completion", "created": CREATED, "model": document["model"],
        "choices": choices, "service_tier": None, "system_fingerprint": fingerprint,
        "usage": _usage(_prompt_tokens(document), len(choices) * _tokens(document)),
        "prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None,
        "ec_transfer_params": None, "metrics": None,
    }  # fmt: skip


def _stream_choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**choice, **({} if finish is None else {"stop_reason": None}), "token_ids": None}


def _text_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {
        "index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None,
        "prompt_token_ids": None, "token_ids": None,
    }  # fmt: skip


def _function(document: Any) -> dict[str, str]:
    return {"name": document["tools"][0]["function"]["name"], "arguments": '{"usage":{"unit":"kg"}}'}


def _tool_delta(document: Any, number: int, count: int) -> tuple[dict[str, Any], str | None]:
    """The first token names the function, the last one has its arguments; those between have nothing to show."""
    if number == 0:
        call = {"id": "call_0", "type": "function", "index": 0, "function": {**_function(document), "arguments": ""}}
        return {"tool_calls": [call]}, None
    if number < count - 1:
        return {}, None
    arguments = {"index": 0, "function": {"arguments": _function(document)["arguments"]}}
    return {"tool_calls": [arguments]}, "tool_calls"


def _response(document: Any, text: str, prompt: int, count: int) -> dict[str, Any]:
    part = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    message = {"id": "msg_0", "content": [part], "role": "assistant", "status": "completed", "type": "message"}
    usage = {
        "input_tokens": prompt, "input_tokens_details": {"cached_tokens": prompt // 2},
        "output_tokens": count, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + count,
    }  # fmt: skip
    return {
        "id": "resp_0", "created_at": CREATED, "incomplete_details": None, "instructions": None, "metadata": None,
        "model": document["model"], "object": "response", "output": [message], "parallel_tool_calls": True,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "background": False,
        "max_output_tokens": count, "max_tool_calls": None, "previous_response_id": None, "prompt": None,
        "reasoning": None, "service_tier": "auto", "status": "completed", "text": None, "top_logprobs": None,
        "truncation": "disabled", "usage": usage, "user": None,
    }  # fmt: skip


def _tokens(document: Any) -> int:
    return document.get("max_tokens") or document.get("max_completion_tokens") or DEFAULT_TOKENS


def _prompts(document: Any) -> list[Any]:
    prompt = document["prompt"]
    return prompt if isinstance(prompt, list) else [prompt]


def _prompt_tokens(document: Any) -> int:
    return sum(_words(text) for field in ("messages", "input") for text in _texts(document.get(field)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(value.get("content") or value.get("text"))


def _words(text: str) -> int:
    return len(text.split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-seconds", type=float, default=0.0)
    options = parser.parse_args()
    server = VllmBytes("model", port=options.port)
    server.behaviour.token_seconds = options.token_seconds
    server.keeps_requests = False
    uvloop.run(server.serve())
