"""Large bodies and answers: another process reads them as the gateway would, and the gateway survives it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import Coroutine
from typing import Any

import psutil
import pytest
from support.patience import PATIENCE_SECONDS, wait_until

from rft_gateway.errors import ApiError
from rft_gateway.large_bodies import LARGE_BYTES, LARGE_VALUES, NICENESS, LargeBodies, serve
from rft_gateway.requests import Api, read_call
from rft_gateway.usage import Usage

CHAT = "/v1/chat/completions"


def chat(size: int = LARGE_BYTES, **more: object) -> bytes:
    """A large body."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "é" + "x" * size}], **more}).encode()


BODIES = [
    (Api.CHAT, chat()),
    (Api.CHAT, chat(stream=True)),
    (Api.CHAT, chat(stream=True, n=3, max_tokens=5, stream_options={"include_usage": True, "x": "ü\ud83d\ude00"})),
    (Api.CHAT, chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})),
    (Api.COMPLETIONS, json.dumps({"model": "m", "prompt": [[1, 2]] * LARGE_VALUES, "max_tokens": 2}).encode()),
    (Api.RESPONSES, json.dumps({"model": "m", "input": "x" * LARGE_BYTES, "stream": True}).encode()),
    (Api.EMBEDDINGS, json.dumps({"model": "m", "input": ["x"] * LARGE_VALUES}).encode()),
    # errors
    (Api.CHAT, chat(model="")),
    (Api.CHAT, chat(stream="yes")),
    (Api.CHAT, chat()[:-1]),
    (Api.CHAT, b"[" * LARGE_BYTES),
    (Api.CHAT, b'{"model":"m","x":[' + b"0," * 2_000_001 + b"0]}"),
    (Api.RESPONSES, json.dumps({"model": "m", "input": "x" * LARGE_BYTES, "background": True}).encode()),
]


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
BROKEN_OFF = (502, "server_disconnected")


def deep(levels: int) -> object:
    """Lists in lists."""
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def children() -> list[psutil.Process]:
    """The processes that read bodies for this one."""
    return [child for child in psutil.Process().children() if "rft_gateway.large_bodies" in command_of(child)]


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process; nothing for one that has ended, as those of other tests may have."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def outcome(reading: Coroutine[Any, Any, object]) -> object:
    """The call of a body, or what its error states."""
    try:
        return await reading
    except ApiError as error:
        return error.status, error.body(), error.headers


async def in_this_process(api: Api, body: bytes) -> object:
    return read_call(api, body)


def test_the_other_process_reads_bodies_as_the_gateway_does():
    async def scenario() -> None:
        async with LargeBodies() as bodies:
            assert not children()
            for api, body in BODIES:
                read = await outcome(bodies.read_call(api, body, "a"))
                assert read == await outcome(in_this_process(api, body))
                assert len(children()) == 1
            assert children()[0].nice() == min(19, os.nice(0) + NICENESS)

    asyncio.run(scenario())
    assert not children()


def test_small_bodies_need_no_other_process():
    async def scenario() -> None:
        async with LargeBodies() as bodies:
            body = chat(LARGE_BYTES // 2, numbers=[0] * (LARGE_VALUES // 2))
            assert (await bodies.read_call(Api.CHAT, body, "a")).body == body
            assert not children()

    asyncio.run(scenario())


def test_the_other_process_reads_the_usage_of_large_answers():
    def answer(**more: object) -> bytes:
        return json.dumps({"data": [[1]] * LARGE_VALUES, **more}).encode()

    async def scenario() -> None:
        async with LargeBodies() as bodies:
            small = {"choices": [], "usage": USAGE}
            assert await bodies.read_answer(json.dumps(small).encode(), "a") == (Usage(7, 3, 2), small)
            assert await bodies.read_answer(b"[]", "a") == (None, None)
            assert not children()
            for large in (answer(usage=USAGE), answer(usage=USAGE, text="x" * LARGE_BYTES)):
                assert await bodies.read_answer(large, "a") == (Usage(7, 3, 2), large)
            assert len(children()) == 1
            assert await bodies.read_answer(answer(usage=None), "a") == (None, answer(usage=None))
            assert await bodies.read_answer(b"[" + answer() + b"]", "a") == (None, None)
            for broken in (b"{", answer()[:-1]):
                with pytest.raises(ApiError) as error:
                    await bodies.read_answer(broken, "a")
                assert (error.value.status, error.value.code) == BROKEN_OFF

    asyncio.run(scenario())


def test_a_body_of_which_the_other_process_dies_is_refused_and_the_next_one_is_read():
    async def scenario() -> None:
        async with LargeBodies() as bodies:
            await bodies.read_call(Api.CHAT, chat(), "a")
            process = children()[0]
            process.send_signal(signal.SIGSTOP)
            dying = asyncio.create_task(bodies.read_call(Api.CHAT, chat(), "a"))
            waiting = [asyncio.create_task(bodies.read_call(Api.CHAT, chat(), name)) for name in "ab"]
            await asyncio.sleep(0.1)
            assert not dying.done()
            process.kill()
            with pytest.raises(ApiError) as error:
                await dying
            assert (error.value.status, error.value.headers) == (503, {"retry-after": "1"})
            assert [call.model for call in await asyncio.gather(*waiting)] == ["m", "m"]
            children()[0].kill()
            await asyncio.sleep(0.1)
            assert await outcome(bodies.read_call(Api.CHAT, chat(), "a"))
            assert (await bodies.read_call(Api.CHAT, chat(), "a")).model == "m"

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_SECONDS))


def test_what_happens_to_one_body_does_not_end_the_other_process():
    async def scenario() -> None:
        async with LargeBodies() as bodies:
            await bodies.read_call(Api.CHAT, chat(), "a")
            process = children()[0]
            for body in (chat(n=1 << 62, max_tokens=1 << 62), chat(stream=True, stream_options={"x": deep(500)})):
                read = await outcome(bodies.read_call(Api.CHAT, body, "a"))
                assert read == await outcome(in_this_process(Api.CHAT, body))
            assert children() == [process]

    asyncio.run(scenario())


def test_an_error_of_the_program_costs_its_own_request_only(monkeypatch, capfd):
    def fail(*_: object) -> None:
        raise RuntimeError("the text of a prompt")

    def ask(name: str) -> dict[str, Any]:
        asked = b"".join(len(part).to_bytes(8) + part for part in (name.encode(), chat()))
        replies = io.BytesIO()
        serve(io.BytesIO(asked), replies)
        return json.loads(replies.getvalue()[8:])

    monkeypatch.setattr("rft_gateway.large_bodies.read_call", fail)
    error = ask(CHAT)["error"]
    assert (error["status"], error["code"], error["headers"]) == (503, "overloaded", {"retry-after": "1"})
    assert capfd.readouterr().err == "large bodies: RuntimeError\n"
    monkeypatch.undo()
    assert ask(CHAT)["call"]["model"] == "m"


def test_the_other_process_reads_the_last_event_of_a_large_response():
    async def scenario() -> None:
        async with LargeBodies() as bodies:
            usage = {"input_tokens": 7, "output_tokens": 2}
            event = {"type": "response.completed", "response": {"output": "x" * LARGE_BYTES, "usage": usage}}
            assert await bodies.read_last_event(json.dumps(event).encode(), "a") == Usage(7, 0, 2)
            for without in (b"{}", b"[]", b'{"response":[]}'):
                assert await bodies.read_last_event(without, "a") is None
            with pytest.raises(ApiError) as error:
                await bodies.read_last_event(b"{", "a")
            assert (error.value.status, error.value.code) == BROKEN_OFF

    asyncio.run(scenario())


def test_bodies_of_a_namespace_wait_for_each_other_before_those_of_others():
    ends = []

    async def read(bodies: LargeBodies, namespace: str) -> None:
        await bodies.read_call(Api.CHAT, chat(), namespace)
        ends.append(namespace)

    async def scenario() -> None:
        async with LargeBodies() as bodies:
            await asyncio.gather(*(read(bodies, namespace) for namespace in "aaaaab"))

    asyncio.run(scenario())
    assert ends == ["a", "b", "a", "a", "a", "a"]


def test_the_other_process_ends_when_its_input_does():
    replies = io.BytesIO()
    serve(io.BytesIO(), replies)
    serve(io.BytesIO(b"\0" * 7), replies)
    assert replies.getvalue() == b""


@pytest.mark.parametrize("stream", [False, True])
def test_large_bodies_are_answered_and_counted(gateway, server, stream):
    before = len(gateway.entries())
    body = chat(4 * LARGE_BYTES, max_tokens=4, stream=stream)
    answer = gateway.post(CHAT, body)
    assert answer.status_code == 200
    entry = gateway.wait_for_entries(before + 1)[-1]
    assert (entry["outcome"], entry["completion_tokens"]) == ("Answered", 4)
    added = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}}' if stream else b"}"
    assert server.bodies[-1] == body[:-1] + added


def test_a_gateway_that_is_killed_leaves_no_process(gateway, server):
    gateway.post(CHAT, chat())
    (process,) = psutil.Process(gateway.process.pid).children()
    gateway.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    gateway.start()
