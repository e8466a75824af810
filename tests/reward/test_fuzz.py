"""Requests made at random: none ends the server, none is answered by a failure of it, none gets a score it must not."""

import asyncio
import collections
import json
import math
import random

from support.reward_server import TOKEN

REQUESTS = 10_000
AT_ONCE = 32
SEED = 20261121
SOURCE = """
def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        score = {"good": 0.5, "nan": float("nan"), "text": "1", "none": None}[text]
        rows.append({"id": sample["id"], "aggregate_reward_score": score})
    return rows
"""
ODD_VALUES = [
    None, True, 0, -1, 1e308, 10**400, "", "x", "\0", "\ud800", "é" * 300, [], [[]], {}, {"": None}, [None], 2**63,
]  # fmt: skip


def test_fuzzed_requests_neither_end_the_server_nor_yield_scores(start_server):
    server = start_server({"timeout": "20s", "python": {"source": SOURCE}}).wait_ready()
    process, port = server.process.pid, int(server.url.rsplit(":", 1)[1])
    outcomes = asyncio.run(_send_all(port))
    assert sum(outcomes.values()) == REQUESTS
    # Every way of failing occurred, and so did success: the requests are no monotony.
    assert {200, 400, 401, 404, 405} <= set(outcomes), outcomes
    assert server.process.poll() is None
    assert server.process.pid == process
    assert server.client.get("/healthz").status_code == 200
    assert server.score_one("good")["aggregate_reward_score"] == 0.5
    assert "Traceback" not in server.log()
    assert "Exception" not in server.log()


async def _send_all(port):
    generator, outcomes = random.Random(SEED), collections.Counter()
    requests = iter([_Request(random.Random(generator.getrandbits(64))) for _ in range(REQUESTS)])

    async def work():
        connection = _Connection(port)
        for request in requests:
            outcomes[await request.send(connection)] += 1
        connection.close()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return outcomes


class _Connection:
    """HTTP by hand: a client of a library would mend, or refuse, most of what is sent here."""

    def __init__(self, port):
        self.port = port
        self._writer = None

    async def ask(self, message):
        """The answer's status and body; the connection is kept where the server keeps it."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(message)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split()[1])
        length = int(head.partition(b"content-length: ")[2].split()[0])
        body = await self._reader.readexactly(length)
        if status == 400 or b"connection: close" in head:
            self.close()
        return status, body

    def close(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Request:
    """One request: mostly a valid one with a few things wrong."""

    def __init__(self, chance):
        self._chance = chance

    async def send(self, connection):
        """Sends it and checks the answer; the answer's status, or 0 when the server rightly closed the connection."""
        chance = self._chance
        body = self._body()
        kind = chance.random()
        if kind < 0.05:
            return await self._send_raw(connection.port, body)
        method, path = (b"POST", b"/v1/score") if kind < 0.95 else chance.choice(
            [(b"GET", b"/v1/score"), (b"PUT", b"/v1/score"), (b"POST", b"/v1/score/"), (b"POST", b"/"),
             (b"POST", b"/%00%ff"), (b"POST", b"/v1/../v1/score"), (b"DELETE", b"/healthz"), (b"POST", b"/metrics")]
        )  # fmt: skip
        token = f"Bearer {TOKEN}".encode()
        if chance.random() < 0.05:
            token = chance.choice([b"", b"Bearer", b"Bearer x", b"Basic eDp4", b"bearer " + b"y" * 4000, b"\xe9\xff"])
        kind = chance.choice([b"application/json", b"text/plain", b"multipart/form-data", b"x", b""])
        head = b"%b %b HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-type: %b\r\n" % (method, path, token, kind)
        if chance.random() < 0.1:
            message = head + b"transfer-encoding: chunked\r\n\r\n" + _chunks(body, chance.randint(1, 2000))
        else:
            message = head + b"content-length: %d\r\n\r\n" % len(body) + body
        status, answer = await connection.ask(message)
        assert status < 500, answer
        if status == 200 and path == b"/v1/score":
            self._check(json.loads(answer), json.loads(body))
        return status

    def _check(self, rows, samples):
        assert [sample["id"] for sample in samples] == [row["id"] for row in rows]
        for sample, row in zip(samples, rows, strict=True):
            score = row["aggregate_reward_score"]
            if sample["messages"][-1].get("content") == "good":
                assert score == 0.5
            else:
                assert score is None, row
                assert row["error"]

    async def _send_raw(self, port, body):
        """Bytes that are no whole request: cut, with a wrong length, or no HTTP at all."""
        chance = self._chance
        length = chance.choice([len(body) + 100, -1, "x", "1" * 30, 0, len(body)])
        start = f"POST /v1/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n".encode()
        message = chance.choice(
            [
                start + f"content-length: {length}\r\n\r\n".encode() + body[: chance.randint(0, len(body))],
                start + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + body,
                start + b"transfer-encoding: chunked\r\n\r\n5\r\n[{\r\n",
                start[: chance.randint(1, len(start))],
                chance.randbytes(200),
            ]
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(message)
            writer.write_eof()
            answer = await reader.read()
        except ConnectionError:
            return 0
        finally:
            writer.close()
        status = int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0
        assert status < 500, answer
        return status

    def _body(self):
        chance = self._chance
        kind = chance.random()
        if kind < 0.05:
            return chance.choice([b"", b"null", b"{}", b"[", b"\xff\xfe", b"[]", b'"x"', b"NaN", b"[NaN]", b"[1e999]"])
        if kind < 0.07:
            depth = chance.choice([10, 200, 300, 1100, 20_000])
            return b"[" * depth + b"]" * (depth - chance.randint(0, 1))
        if kind < 0.10:
            return chance.randbytes(chance.randint(1, 500))
        samples = [self._sample(number) for number in range(chance.choice([0, 1, 1, 1, 2, 3, 8]))]
        if kind < 0.14 and samples:
            samples.append(chance.choice([samples[0], {**samples[0], "messages": []}]))
        text = json.dumps(samples)  # with NaN and halves of surrogate pairs, as Python writes them
        if chance.random() < 0.1:
            place = chance.randint(0, len(text))
            text = text[:place] + chance.choice(["", ",", "NaN", "Infinity", "-", "\\ud800", "\0", "}"]) + text[place:]
        body = text.encode()
        return body[: chance.randint(0, len(body))] if chance.random() < 0.05 else body

    def _sample(self, number):
        chance = self._chance
        identifier = chance.choice([str(number), f"{number}-" + "x" * 5000, f"{number}\u202e\0\n", f"{number}é"])
        text = chance.choice(["good", "good", "nan", "text", "none", "raises", "x" * 2000])
        sample = {
            "id": identifier,
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}],
            "reference_answer": chance.choice([None, "x", {"a": math.nan} if chance.random() < 0.1 else {"a": 1}]),
            "metadata": {"reference_answer": None, "more": chance.choice([1, "x", [1.5]])},
        }
        if chance.random() < 0.4:
            field = chance.choice([*sample, "extra"])
            if chance.random() < 0.3:
                sample.pop(field, None)
            else:
                sample[field] = chance.choice(ODD_VALUES)
        if chance.random() < 0.1 and isinstance(sample.get("messages"), list) and sample["messages"]:
            broken = {"role": chance.choice(ODD_VALUES), "content": chance.choice(ODD_VALUES)}
            sample["messages"] = [chance.choice(ODD_VALUES), broken, *sample["messages"]][:: chance.choice([1, -1])]
        return sample


def _chunks(body, size):
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
