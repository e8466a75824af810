"""Asks the rollout servers for completions: ids in, ids and their log-probabilities out; lost requests are repeated."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rft_api.exact_json import parse_line
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import MAXIMUM_DOCUMENT, read_file
from rft_api.foreign.http import ForeignAnswerError, ask
from rft_api.foreign.text import one_line
from rft_trainer.generation import Finished
from rft_trainer.rollout_servers.command import SEQUENCES
from rft_trainer.rollout_servers.generation import Completion, Generation
from rft_trainer.rollout_servers.process import failure_file, unix_client

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
"""Pauses before a request is repeated; each is twice as long as the one before."""
LOSSES = 20
"""A request is repeated so many times because its server has failed while it computed the answer."""
ANSWER_SECONDS = 7200.0
"""Seconds for the answer to a request, from the moment that it is sent; it may wait for many others at the server. (A
server that has died or is silent for minutes is killed, which ends its requests.)"""
WARNING_SECONDS = 10.0
_BYTES_PER_TOKEN = 1024
"""Upper bound of the bytes of an answer for each token of prompt and completion."""
_HIGHEST_LOGPROB = 1e-3
"""Log-probabilities are at most 0, up to rounding."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. A request states every field, also those that never change."""

    temperature: float
    """0 takes the most likely token."""
    max_tokens: int
    end_ids: tuple[int, ...]
    """The EOS tokens, which end a completion and are part of it."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, too, and are part of it."""

    def body(self) -> dict[str, Any]:
        """Return the fields of a request that do not depend on its prompt."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop_token_ids": list(self.end_ids),
            "stop": list(self.stop),
            "include_stop_str_in_output": True,
            "n": 1,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_tokens": 0,
            "ignore_eos": False,
            "watermarking": False,
            "skip_special_tokens": False,
            "logprobs": 0,  # that of the sampled token, and none of others
            "return_token_ids": True,
            "stream": False,
        }


class Lost(Exception):
    """A request has no answer because of its server, and may be sent again."""


def sample_seed(*parts: int | str) -> int:
    """Return the seed of a sample from what identifies it in the run; other samples have unrelated seeds.

    Seeds that follow one another would not do for every sampler, and equal ones give equal random numbers.
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1  # it has to fit int64


def numbers_of(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of each prompt; prompts are numbered in their order, and equal ones have the same number."""
    numbers: dict[tuple[int, ...], int] = {}
    return [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]


class RolloutClient:
    """Connections of this process to the rollout servers of its machine.

    Args:
        sockets: where the servers are reached.
        should_stop: polled while servers are waited for; when true, waiting ends with INTERRUPTED.
    """

    def __init__(self, sockets: Sequence[Path], should_stop: Callable[[], bool]):
        self._sockets = sockets
        self._should_stop = should_stop
        self._warnings: dict[int, float] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True).start()
        self._clients = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> list[httpx.AsyncClient]:
        return [unix_client(socket, SEQUENCES) for socket in self._sockets]

    def close(self) -> None:
        """Close the connections, and end the event loop."""

        async def close() -> None:
            for client in self._clients:
                await client.aclose()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def wait_until_ready(self) -> None:
        """Wait until all servers can be reached.

        Raises:
            RunError: INTERRUPTED when the run is to stop.
            RuntimeError: when a server cannot be started.
        """

        async def wait() -> None:
            for server in range(len(self._sockets)):
                await self._reach(server, self._should_stop)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def generate(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_finished: Finished = lambda completions: None,
        numbers: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Return one completion for each prompt, in their order; all ranks call it.

        Each is a request of its own with its own seed, and so does not depend on the others or on the server. A
        request that loses its server is sent again, when the server has been started again.

        Args:
            model: name of the version of the policy.
            prompts: token ids.
            seeds: the seed of each prompt's completion.
            sampling: how they are sampled.
            on_finished: called in this thread with completions that have ended while others go on.
            numbers: the number of each prompt among those of all processes of this machine, by which they take turns at
                the servers; where left out, their numbers in `prompts`. Completions with the same number share a
                server, which computes their prompt once.

        Raises:
            Stopped: on every rank, when one is to stop.
            RuntimeError: when a server cannot be started any more, refuses a request, or answers what cannot be right.
        """
        return self.begin(model, prompts, seeds, sampling, numbers).wait(on_finished)

    def begin(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        numbers: Sequence[int] | None = None,
    ) -> Generation:
        """Request one completion for each prompt, as `generate` does; return without waiting for them."""
        answers: queue.SimpleQueue[tuple[int, Completion] | None] = queue.SimpleQueue()
        places = numbers_of(prompts) if numbers is None else numbers
        work = self._generate(model, prompts, seeds, sampling, places, answers.put)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return Generation(future, answers, len(prompts), self._should_stop)

    async def _generate(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        numbers: Sequence[int],
        put: Callable[[tuple[int, Completion]], None],
    ) -> None:
        async def one(place: int) -> None:
            body = {**sampling.body(), "model": model, "prompt": list(prompts[place]), "seed": seeds[place]}
            put((place, await self._complete(numbers[place] % len(self._sockets), body)))

        tasks = [asyncio.create_task(one(place)) for place in range(len(prompts))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _complete(self, server: int, body: Mapping[str, Any]) -> Completion:
        """Return the completion of a request; send it again when its server has failed."""
        pause, losses = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                return await self._ask(server, body)
            except Lost as error:
                losses += 1
                if losses == LOSSES:
                    raise RuntimeError(f"vLLM server {server} {error}, {LOSSES} times in a row") from error
                self._warn(server, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _warn(self, server: int, error: Lost) -> None:
        """Write to the log that requests are lost, once for all that are lost together."""
        now = time.monotonic()
        if now - self._warnings.get(server, -math.inf) > WARNING_SECONDS:
            log.warning("vLLM server %d %s; its requests are sent again", server, error)
        self._warnings[server] = now

    async def _ask(self, server: int, body: Mapping[str, Any]) -> Completion:
        await self._reach(server)
        maximum = _BYTES_PER_TOKEN * (len(body["prompt"]) + body["max_tokens"] + 64)
        try:
            answer = await ask(
                self._clients[server], "POST", "/v1/completions", ANSWER_SECONDS, maximum,
                content=json.dumps(body).encode(), headers={"content-type": "application/json"},
            )  # fmt: skip
        except ForeignAnswerError as error:
            raise Lost(str(error)) from error
        if answer.status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Lost(f"answered {answer.status}: {one_line(answer.text())}")
        if answer.status != httpx.codes.OK:
            raise RuntimeError(f"vLLM server {server} answered {answer.status}: {one_line(answer.text())}")
        try:
            return read_completion(parse_line(answer.body), body)
        except ValueError as error:
            raise RuntimeError(f"the answer of vLLM server {server} {error}") from error

    async def _reach(self, server: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until a server can be reached; it starts, or starts again."""
        failure = failure_file(self._sockets[server])
        while not self._sockets[server].exists():
            if should_stop():
                raise RunError(ExitCode.INTERRUPTED, f"stopped while vLLM server {server} was away")
            if failure.exists():
                raise RuntimeError(read_file(failure, MAXIMUM_DOCUMENT).decode("utf-8", "replace"))
            await asyncio.sleep(FIRST_PAUSE_SECONDS)


def read_completion(answer: Any, request: Mapping[str, Any]) -> Completion:
    """Return the completion in a server's answer to a request.

    Raises:
        ValueError: when it is not what was asked for; the text is the end of a sentence about the answer.
        Lost: when the server has given the request up.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or len(answer["choices"]) != 1:
        raise ValueError("does not have one completion")
    # A server that does not know an adapter could answer with the base model.
    if answer.get("model") != request["model"]:
        raise ValueError(f"is of model {one_line(str(answer.get('model')))}, and {request['model']} was asked")
    choice = answer["choices"][0]
    if not isinstance(choice, dict) or choice.get("prompt_token_ids") != request["prompt"]:
        raise ValueError("is not to the prompt that was sent")
    reason, ids = choice.get("finish_reason"), choice.get("token_ids")
    if reason == "abort":
        raise Lost("has aborted a request")
    logprobs = choice["logprobs"].get("token_logprobs") if isinstance(choice.get("logprobs"), dict) else None
    if not (_are_all(ids, int) and _are_all(logprobs, float) and ids and logprobs and len(ids) == len(logprobs)):
        raise ValueError("does not have a log-probability for each token")
    if not all(math.isfinite(value) and value <= _HIGHEST_LOGPROB for value in logprobs):
        raise ValueError("has a log-probability that is no finite number below 0")
    has_ended = ids[-1] in request["stop_token_ids"] or choice.get("stop_reason") in request["stop"]
    if len(ids) > request["max_tokens"] or reason != ("stop" if has_ended else "length"):
        raise ValueError(f"ends with the reason {one_line(str(reason))} after {len(ids)} tokens")
    if not has_ended and len(ids) < request["max_tokens"]:
        raise ValueError(f"was cut off after {len(ids)} of {request['max_tokens']} tokens")
    return Completion(ids, logprobs, "stop" if has_ended else "length")


def _are_all(values: Any, kind: type) -> bool:
    # JSON's true would be an int, too.
    return isinstance(values, list) and all(type(value) is kind for value in values)
