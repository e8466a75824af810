"""OpenAI's own client reads usage and costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from support.ledger_entries import NOON, entry

from rft_gateway.errors import ApiError
from rft_gateway.ledger import Entry, Ledger, Outcome, Price
from rft_gateway.usage_api import PAGES

PRICE = Price.per_million("1", "2", cached="0.5")
ENTRIES = [
    entry(price=PRICE),
    entry(price=PRICE, key="bob", time=NOON + timedelta(hours=1)),
    entry(price=PRICE, model="other", time=NOON + timedelta(days=1)),
    entry(namespace="team-b"),
    entry(outcome=Outcome.REFUSED, status=429),
]
MIDNIGHT = int(NOON.timestamp()) - 12 * 3600
DAY = 86_400

Result = TypeVar("Result")


def ask(
    tmp_path, question: Callable[[AsyncOpenAI], Awaitable[Result]], namespace: str | None = None,
    entries: list[Entry] = ENTRIES,
) -> Result:  # fmt: skip
    """What OpenAI's client gets from a server of the pages, for somebody who may see this namespace, or all."""

    async def run() -> Result:
        ledger = Ledger(str(tmp_path / "ledger.db"))
        await ledger.prepare()
        await asyncio.gather(*map(ledger.write, entries))

        async def respond(request: web.BaseRequest) -> web.Response:
            try:
                return web.json_response(await PAGES[request.path](ledger, request.query, namespace))
            except ApiError as error:
                return web.Response(status=error.status, body=error.body(), content_type="application/json")

        runner = web.ServerRunner(web.Server(respond))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        async with AsyncOpenAI(base_url=address, api_key="x", admin_api_key="x", max_retries=0) as client:
            try:
                return await question(client)
            finally:
                await runner.cleanup()
                await ledger.close()

    return asyncio.run(run())


def test_completions_by_key_and_model(tmp_path):
    page = ask(
        tmp_path,
        lambda client: client.admin.organization.usage.completions(
            start_time=MIDNIGHT, end_time=MIDNIGHT + 3 * DAY, group_by=["api_key_id", "model"], project_ids=["team-a"]
        ),
    )
    assert [(bucket.start_time, bucket.end_time) for bucket in page.data] == [
        (MIDNIGHT + day * DAY, MIDNIGHT + (day + 1) * DAY) for day in range(3)
    ]
    assert (page.has_more, page.next_page) == (False, None)
    first, second, third = ([*bucket.results] for bucket in page.data)
    assert [(result.project_id, result.api_key_id, result.model) for result in first] == [
        ("team-a", "alice", "amounts"),
        ("team-a", "bob", "amounts"),
    ]
    (result,) = second
    assert result.object == "organization.usage.completions.result"
    assert (result.num_model_requests, result.input_tokens, result.output_tokens) == (1, 100, 10)
    assert (result.input_cached_tokens, result.input_uncached_tokens, result.model) == (40, 60, "other")
    assert third == []


def test_without_groups_a_bucket_has_one_result(tmp_path):
    page = ask(
        tmp_path,
        lambda client: client.admin.organization.usage.completions(start_time=MIDNIGHT, end_time=MIDNIGHT + DAY),
    )
    ((result,),) = (bucket.results for bucket in page.data)
    assert (result.num_model_requests, result.input_tokens, result.project_id, result.model) == (3, 300, None, None)


def test_pages_of_hours_are_complete(tmp_path):
    start, end = int(NOON.timestamp()) - 1800, int(NOON.timestamp()) + 2 * 3600

    async def all_pages(client: AsyncOpenAI):
        pages, more = [], {}
        while True:
            page = await client.admin.organization.usage.completions(
                start_time=start, end_time=end, bucket_width="1h", limit=1, models=["amounts"], **more
            )
            pages.append(page)
            if not page.has_more:
                return pages
            more = {"page": page.next_page}

    pages = ask(tmp_path, all_pages)
    buckets = [bucket for page in pages for bucket in page.data]
    assert [len(page.data) for page in pages] == [1, 1, 1]
    assert [(bucket.start_time - start, bucket.end_time - start) for bucket in buckets] == [
        (0, 1800), (1800, 5400), (5400, 9000)
    ]  # fmt: skip
    assert [[result.num_model_requests for result in bucket.results] for bucket in buckets] == [[], [2], [1]]


def test_without_an_end_the_last_bucket_is_today(tmp_path):
    now = datetime.now(UTC)
    start = int(now.timestamp()) // DAY * DAY - DAY
    page = ask(
        tmp_path,
        lambda client: client.admin.organization.usage.completions(start_time=start),
        entries=[entry(time=now)],
    )
    # another day may have begun since
    assert len(page.data) in (2, 3)
    assert sum(result.num_model_requests for bucket in page.data for result in bucket.results) == 1


@pytest.mark.parametrize("path", PAGES)
def test_the_last_bucket_is_that_of_the_last_date(tmp_path, path):
    end = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())

    async def both(client: AsyncOpenAI) -> tuple[dict[str, object], openai.APIStatusError]:
        question = f"{path.removeprefix('/v1')}?start_time="
        last = await client.get(f"{question}{end - 1}", cast_to=dict[str, object])
        with pytest.raises(openai.APIStatusError) as told:
            await client.get(f"{question}{end}", cast_to=object)
        return last, told.value

    last, told = ask(tmp_path, both)
    assert last["data"] == [{"object": "bucket", "start_time": end - 1, "end_time": end, "results": []}]
    assert (told.status_code, told.param) == (400, "start_time")


def test_costs_by_line_item(tmp_path):
    page = ask(
        tmp_path,
        lambda client: client.admin.organization.usage.costs(
            start_time=MIDNIGHT, end_time=MIDNIGHT + DAY, group_by=["line_item"], project_ids=["team-a"]
        ),
    )
    (bucket,) = page.data
    lines = {
        result.line_item: (result.quantity, result.quantity_unit, result.amount.value) for result in bucket.results
    }
    assert lines == {
        "amounts, input_tokens": (120, "tokens", 0.00012),
        "amounts, input_cached_tokens": (80, "tokens", 0.00004),
        "amounts, output_tokens": (20, "tokens", 0.00004),
    }
    assert {result.amount.currency for result in bucket.results} == {"usd"}


def test_costs_together_and_of_chosen_lines(tmp_path):
    async def both(client: AsyncOpenAI):
        end = MIDNIGHT + 2 * DAY
        costs = client.admin.organization.usage.costs
        return (
            await costs(start_time=MIDNIGHT, end_time=end),
            await costs(
                start_time=MIDNIGHT, end_time=end, line_items=["amounts, output_tokens"], group_by=["api_key_id"]
            ),
        )

    together, chosen = ask(tmp_path, both, "team-a")
    amounts = [[result.amount.value for result in bucket.results] for bucket in together.data]
    assert amounts == [[0.0002], [0.0001]]
    assert together.data[0].results[0].quantity is None
    assert [[(result.api_key_id, result.amount.value) for result in bucket.results] for bucket in chosen.data] == [
        [("alice", 0.00002), ("bob", 0.00002)],
        [],
    ]


def test_a_key_sees_its_own_namespace_only(tmp_path):
    async def both(client: AsyncOpenAI):
        usage = client.admin.organization.usage.completions
        end = MIDNIGHT + DAY
        return (
            await usage(start_time=MIDNIGHT, end_time=end, group_by=["project_id"]),
            await usage(start_time=MIDNIGHT, end_time=end, group_by=["project_id"], project_ids=["team-a"]),
        )

    own, foreign = ask(tmp_path, both, "team-b")
    assert [result.project_id for result in own.data[0].results] == ["team-b"]
    assert foreign.data[0].results == []


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({}, "start_time"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "9" * 30}, "start_time"),
        ({"start_time": 100, "end_time": 100}, "end_time"),
        ({"start_time": 100, "bucket_width": "1w"}, "bucket_width"),
        ({"start_time": 100, "limit": 32}, "limit"),
        ({"start_time": 100, "limit": 0}, "limit"),
        ({"start_time": 100, "group_by": "user_id"}, "group_by"),
        ({"start_time": 100, "page": "page_50"}, "page"),
        ({"start_time": 100, "page": "x"}, "page"),
        ({"start_time": 100, "batch": "true"}, "batch"),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path, parameters, param):
    def question(client: AsyncOpenAI) -> Awaitable[object]:
        return client.get("/organization/usage/completions", cast_to=object, options={"params": parameters})

    with pytest.raises(openai.BadRequestError) as told:
        ask(tmp_path, question, entries=[])
    assert told.value.param == param
    assert param in told.value.message
