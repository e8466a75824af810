"""10,000 replies of a worker that says what it likes: each sample has a score or an error, and the server goes on."""

import asyncio
import json
import random
from types import SimpleNamespace

import orjson
from support.mutation import bounded, mutated
from support.worker_settings import SETTINGS

from rft_reward import frames
from rft_reward.metrics import Metrics
from rft_reward.pool import Pool, PoolSettings
from rft_reward.worker_process import WorkerProcess

NUMBER = 10_000
IDS = ["one", "two", "three"]
POOL = PoolSettings(
    worker=SETTINGS, workers=1, timeout="60s", timeout_seconds=60.0, combined=(["first", "second"], [0.5, 0.5])
)
ROWS = [{"id": name, "aggregate_reward_score": 0.5, "metrics_list": [{"name": "m", "value": 1}]} for name in IDS]
REPLIES = [
    {"answers": [{"rows": ROWS}, {"rows": ROWS}], "crowded": False},
    {"answers": [{"rows": {"statusCode": 200, "body": json.dumps(ROWS)}}, {"rows": ROWS}], "crowded": True},
    {"answers": [{"rows": ROWS}, {"failure": "raised", "text": "ValueError: no"}], "crowded": False},
    {"answers": [{"failure": "timeout", "text": "line 3"}, {"failure": "memory", "text": ""}]},
]
ODD = [None, True, 0, -1, 1e300, 10**30, "", "timeout", "\ud800", [], {}, [[]], [None] * 3, {"rows": None}]


class Worker(WorkerProcess):
    """A worker without a process: what it replies is made up."""

    def __init__(self, choose):
        super().__init__(SETTINGS)
        self._choose = choose
        self._reader = asyncio.StreamReader(limit=1 << 20)
        self._writer = self
        self._process = SimpleNamespace(pid=0, poll=lambda: 1)

    def write(self, request):
        """Reply to a request of the server, in place of the pipe."""
        size, nonce, _ = frames.REQUEST_HEADER.unpack(request[: frames.REQUEST_HEADER.size])
        samples = json.loads(request[-size:])
        self._reader.feed_data(reply(self._choose, nonce, [sample["id"] for sample in samples]))
        self._reader.feed_eof()

    def _look_later(self): ...

    def _write_log(self): ...

    def _leftovers(self, crowded):
        return "leftover_files" if crowded else None


def reply(choose, nonce, ids):
    document = choose.choice(REPLIES)
    for _ in range(choose.choice([0, 0, 0, 1, 1, 2])):
        document = changed(choose, document)
    body = json.dumps(document).encode()
    if choose.random() < 0.3:
        body = mutated(choose, body)
    if choose.random() < 0.05:
        body = choose.choice([b"", b"null", b"[" * 100_000, b"9" * 6000, b"[{}," * 20_000, b"\xff", b'{"answers":'])
    size = len(body) if choose.random() < 0.95 else choose.choice([0, len(body) + 1, 1 << 31, len(body) // 2])
    if choose.random() < 0.03:
        nonce = choose.randbytes(len(nonce))
    whole = frames.REPLY_HEADER.pack(size, nonce) + body
    return whole if choose.random() < 0.97 else whole[: choose.randrange(len(whole))]


def changed(choose, value):
    """The value with another one at a place that is chosen on the way down."""
    if not isinstance(value, (dict, list)) or not value or choose.random() < 0.15:
        return choose.choice(ODD)
    copy = dict(value) if isinstance(value, dict) else list(value)
    place = choose.choice(list(copy)) if isinstance(copy, dict) else choose.randrange(len(copy))
    if isinstance(copy, list) and choose.random() < 0.2:
        return copy * choose.choice([0, 2, 50])
    copy[place] = changed(choose, copy[place])
    return copy


def test_10_000_replies_of_workers_lose_no_sample(caplog):
    choose = random.Random(20261130)
    pool = Pool(POOL, Metrics())
    given_back = []

    async def take():
        return Worker(choose)

    pool._take, pool._give_back = take, lambda worker, reason: given_back.append(reason)
    samples = [{"id": name, "messages": [{"role": "assistant", "content": "x"}]} for name in IDS]

    async def score_all():
        scored, errors = 0, set()
        for _ in range(NUMBER):
            with bounded():
                rows = await pool.score(samples)
            assert [row["id"] for row in rows] == IDS
            for row in rows:
                assert (row["aggregate_reward_score"] is None) == bool(row.get("error")), row
                assert row.get("error", "").isprintable()
                orjson.dumps(row)
                scored += row["aggregate_reward_score"] is not None
                errors.add(row.get("error", "")[:40])
        return scored, errors

    scored, errors = asyncio.run(score_all())
    assert NUMBER / 10 < scored < 2.5 * NUMBER
    assert len(errors) > 30
    assert {None, "garbled", "too_large", "timeout", "memory", "leftover_files"} <= set(given_back)
    assert "Traceback" not in caplog.text
