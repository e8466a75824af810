"""Rewards that an HTTP server of the user computes, by the contract of the reward server or by Azure OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rft_api.model import Json
from rft_api.remote_reward import HttpReward
from rft_reward import replies
from rft_reward.handler_samples import HandlerForm
from rft_reward.metrics import Metrics
from rft_reward.remote import retries
from rft_reward.remote.endpoint_body import read_score, write_item
from rft_reward.remote.errors import RemoteError
from rft_reward.remote.limits import Limiter
from rft_reward.remote.pieces import cut, score_pieces
from rft_reward.remote.rows import read_rows, write_samples
from rft_reward.remote.web import Web


class HttpServer:
    """Posts samples to a URL.

    Args:
        reward: settings of the manifest.
        headers: headers with credentials.
        certificates: CA certificates (PEM) for the server's certificate; None takes those of the system.
        metrics: metrics of the server.
    """

    def __init__(self, reward: HttpReward, headers: Mapping[str, str], certificates: str | None, metrics: Metrics):
        self._reward = reward
        self._metrics = metrics
        self._limiter = Limiter(reward.concurrency, reward.requests_per_second, window_seconds=1.0)
        self._web = Web(reward.url, headers, certificates)

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """See `RemoteGrader`."""

        if self._reward.body == "SampleAndItem":

            async def score_one(piece: Sequence[Json]) -> list[Json]:
                body = write_item(piece[0])
                return [read_score(piece[0], await self._ask(body, 1, deadline), body)]

            return await score_pieces(cut(samples, 1), score_one, deadline, self._metrics)

        async def score_piece(piece: Sequence[Json]) -> list[Json]:
            form = HandlerForm(self._reward.text_reference_answer == "AsObject", self._reward.assistant_role)
            body = write_samples(piece, form, lift_metadata=False)
            return await read_rows(piece, await self._ask(body, len(piece), deadline), body)

        return await score_pieces(cut(samples, self._reward.batch_size), score_piece, deadline, self._metrics)

    async def _ask(self, body: bytes, samples: int, deadline: float) -> bytes:
        limit = replies.maximum_bytes(samples, len(body))
        return await retries.ask(lambda seconds, _: self._post(body, seconds, limit), self._limiter, deadline)

    async def _post(self, body: bytes, seconds: float, maximum_bytes: int) -> bytes:
        outcome = "failed"
        try:
            status, answer = await self._web.post(body, seconds, maximum_bytes)
            outcome = "answered"
        finally:
            self._metrics.remote_requests.labels("http", outcome).inc()
        if status // 100 != 2:
            raise RemoteError(f"{self._reward.url} answered {status}: {self._web.words(answer)}")
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()
