"""`GET /v1/organization/usage/completions` and `/v1/organization/costs`, as OpenAI's clients ask for them.

A project of OpenAI is a namespace here, and the id of a key is its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from multidict import MultiMapping

from rft_gateway.errors import ApiError
from rft_gateway.ledger import Ledger, LedgerError, Total, TotalsQuery

_LATEST = 253_402_214_400
"""The beginning of the last day of the year 9999. Buckets that begin before it end in this year, too: there are no
dates after it."""
_GROUPS = {"project_id": "namespace", "api_key_id": "key", "model": "model"}
_FILTERS = {"project_ids": "namespace", "api_key_ids": "key", "models": "model"}
_COMMON = {"start_time", "end_time", "bucket_width", "limit", "page", "group_by", "project_ids", "api_key_ids"}
_LINE_ITEM = "line_item"


@dataclass(frozen=True)
class _Width:
    seconds: int
    default: int
    """Buckets of a page."""
    most: int


_USAGE_WIDTHS = {"1m": _Width(60, 60, 1440), "1h": _Width(3600, 24, 168), "1d": _Width(86_400, 7, 31)}
_COST_WIDTHS = {"1d": _Width(86_400, 7, 180)}


async def completions_page(ledger: Ledger, query: MultiMapping[str], namespace: str | None) -> dict[str, Any]:
    """Return a page of the usage of tokens.

    Args:
        ledger: what is read.
        query: the parameters of the request.
        namespace: the only one that whoever asks may see; None for all of them.

    Raises:
        ApiError: a parameter is wrong, or the ledger cannot be read.
    """
    question = _Question(query, _USAGE_WIDTHS, set(_GROUPS), {"models"})
    return await question.page(ledger, namespace, question.groups, _usage_results)


async def costs_page(
    ledger: Ledger, query: MultiMapping[str], namespace: str | None, currency: str = "usd"
) -> dict[str, Any]:
    """Return a page of costs: see `completions_page`. The currency is that of the prices, in lower case."""
    question = _Question(query, _COST_WIDTHS, {"project_id", "api_key_id", _LINE_ITEM}, {"line_items"})
    lines = question.values("line_items")

    def results(totals: list[Total]) -> list[dict[str, Any]]:
        return _cost_results(totals, _LINE_ITEM in question.groups, lines, currency)

    return await question.page(ledger, namespace, [*question.groups, "model"], results)


PAGES: dict[str, Callable[[Ledger, MultiMapping[str], str | None], Coroutine[Any, Any, dict[str, Any]]]] = {
    "/v1/organization/usage/completions": completions_page,
    "/v1/organization/costs": costs_page,
}
"""What is answered to GET under each path."""


class _Question:
    """The parameters of a request; raises ApiError for those that are wrong."""

    def __init__(self, query: MultiMapping[str], widths: Mapping[str, _Width], groups: set[str], more: set[str]):
        self._query = query
        for name in query:
            if name.removesuffix("[]") not in _COMMON | more:
                raise _wrong(name, f"the parameter {name} is not supported here")
        width = self._choice("bucket_width", widths, "1d")
        self.width = widths[width]
        self.groups = self.values("group_by")
        for name in self.groups:
            if name not in groups:
                raise _wrong("group_by", f"group_by must be one of {', '.join(sorted(groups))}, not {name!r}")
        self.start = self._integer("start_time", 0, _LATEST - 1, None)
        # without an end, the bucket that contains the present is the last
        end_of_now = self._boundary(int(time.time()))
        self.end = self._integer("end_time", self.start + 1, _LATEST, max(end_of_now, self._boundary(self.start)))
        self.limit = self._integer("limit", 1, self.width.most, self.width.default)
        if "page" in query:
            page = query["page"].removeprefix("page_")
            if not page.isdecimal() or len(page) > 12 or not self.start <= int(page) < self.end:
                raise _wrong("page", "page must be the next_page of the previous answer to the same question")
            self.start = int(page)

    async def page(
        self,
        ledger: Ledger,
        namespace: str | None,
        groups: list[str],
        results: Callable[[list[Total]], list[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Read a page of buckets, and return it as JSON."""
        buckets = self._buckets()
        end = buckets[-1][1]
        only = {column: values for name, column in _FILTERS.items() if (values := self.values(name))}
        if namespace is not None:
            only["namespace"] = [namespace] if namespace in only.get("namespace", [namespace]) else []
        by = {_GROUPS[name] for name in groups if name in _GROUPS}
        if "key" in by:
            by.add("namespace")  # Keys of two namespaces may have the same name.
        try:
            start_time, end_time = (datetime.fromtimestamp(time, UTC) for time in (self.start, end))
            totals = await ledger.totals(TotalsQuery(start_time, end_time, by, self.width.seconds, only))
        except LedgerError as error:
            raise ApiError(503, "the usage cannot be read at the moment; try again later") from error
        by_bucket: dict[int, list[Total]] = {}
        for total in totals:
            by_bucket.setdefault(total.time // self.width.seconds, []).append(total)
        data = [
            {
                "object": "bucket",
                "start_time": first,
                "end_time": last,
                "results": results(by_bucket.get(first // self.width.seconds, [])),
            }
            for first, last in buckets
        ]
        more = end < self.end
        return {"object": "page", "data": data, "has_more": more, "next_page": f"page_{end}" if more else None}

    def values(self, name: str) -> list[str]:
        """Return the values of a parameter that may be repeated, with or without brackets behind its name."""
        return [*self._query.getall(name, []), *self._query.getall(f"{name}[]", [])]

    def _buckets(self) -> list[tuple[int, int]]:
        """Return the beginning and the end of each bucket of the page; the first and the last may be shorter than the
        others."""
        buckets: list[tuple[int, int]] = []
        first = self.start
        while first < self.end and len(buckets) < self.limit:
            last = min(self._boundary(first), self.end)
            buckets.append((first, last))
            first = last
        return buckets

    def _boundary(self, second: int) -> int:
        return (second // self.width.seconds + 1) * self.width.seconds

    def _integer(self, name: str, least: int, most: int, default: int | None) -> int:
        text = self._query.get(name)
        if text is None and default is not None:
            return default
        if text is None or not text.isdecimal() or len(text) > 12 or not least <= int(text) <= most:
            raise _wrong(name, f"{name} must be a whole number from {least} to {most}")
        return int(text)

    def _choice(self, name: str, choices: Mapping[str, object], default: str) -> str:
        value = self._query.get(name, default)
        if value not in choices:
            raise _wrong(name, f"{name} must be one of {', '.join(choices)}")
        return value


def _wrong(name: str, message: str) -> ApiError:
    return ApiError(400, message, param=name.removesuffix("[]"))


def _usage_results(totals: list[Total]) -> list[dict[str, Any]]:
    return [
        {
            "object": "organization.usage.completions.result",
            "num_model_requests": total.requests,
            "input_tokens": total.prompt_tokens,
            "input_cached_tokens": total.cached_tokens,
            "input_uncached_tokens": total.prompt_tokens - total.cached_tokens,
            "output_tokens": total.completion_tokens,
            "project_id": total.namespace,
            "api_key_id": total.key,
            "model": total.model,
            "user_id": None,
            "batch": None,
            "service_tier": None,
        }
        for total in totals
    ]


def _cost_results(totals: list[Total], by_line: bool, lines: list[str], currency: str) -> list[dict[str, Any]]:
    sums: dict[tuple[str | None, str | None, str | None], tuple[int, Decimal]] = {}
    for total in totals:
        for line, tokens, cost in _line_items(total):
            if tokens and (not lines or line in lines):
                group = (total.namespace, total.key, line if by_line else None)
                quantity, amount = sums.get(group, (0, Decimal(0)))
                sums[group] = (quantity + tokens, amount + cost)
    return [
        {
            "object": "organization.costs.result",
            "amount": {"value": float(amount), "currency": currency},
            "line_item": line,
            "quantity": quantity if by_line else None,
            "quantity_unit": "tokens" if by_line else None,
            "project_id": namespace,
            "api_key_id": key,
            "user_id": None,
        }
        for (namespace, key, line), (quantity, amount) in sums.items()
    ]


def _line_items(total: Total) -> Iterator[tuple[str, int, Decimal]]:
    """Yield the lines of a bill for one model: name, tokens and cost."""
    yield f"{total.model}, input_tokens", total.prompt_tokens - total.cached_tokens, total.prompt_cost
    yield f"{total.model}, input_cached_tokens", total.cached_tokens, total.cached_cost
    yield f"{total.model}, output_tokens", total.completion_tokens, total.completion_cost
