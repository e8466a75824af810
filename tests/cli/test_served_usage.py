"""What `rft serve` shows of requests and tokens."""

from __future__ import annotations

import io

from rich.console import Console

from rft_cli.served_usage import UsageDisplay, parse_usage

METRICS = """\
# TYPE rft_gateway_requests_total counter
rft_gateway_requests_total{code="200",model="tuned",namespace="default",outcome="Answered"} 1200.0
rft_gateway_requests_total{code="499",model="tuned",namespace="default",outcome="ClientLeft"} 34.0
rft_gateway_requests_total{code="200",model="base",namespace="default",outcome="Answered"} 1.0
rft_gateway_tokens_total{kind="prompt",model="tuned",namespace="default"} 5000.0
rft_gateway_tokens_total{kind="cached",model="tuned",namespace="default"} 4000.0
rft_gateway_tokens_total{kind="completion",model="tuned",namespace="default"} 1.5e+06
rft_gateway_errors_total{code="invalid_api_key"} 7.0
"""


def test_metrics_become_requests_and_tokens_of_each_model():
    assert parse_usage(METRICS) == {
        "tuned": {"requests": 1234, "prompt": 5000, "cached": 4000, "completion": 1_500_000},
        "base": {"requests": 1},
    }
    assert parse_usage("") == {}


def test_without_a_terminal_each_change_is_a_line():
    output = io.StringIO()
    with UsageDisplay(Console(file=output, width=200), ("tuned", "base")) as display:
        display.update({})
        display.update(parse_usage(METRICS))
        display.update(parse_usage(METRICS))
    assert output.getvalue().splitlines() == [
        "tuned: 1,234 requests, 5,000 prompt tokens (4,000 cached), 1,500,000 completion tokens",
        "base: 1 request, 0 prompt tokens, 0 completion tokens",
    ]


def test_on_a_terminal_it_is_a_table():
    output = io.StringIO()
    with UsageDisplay(Console(file=output, width=80, force_terminal=True), ("tuned", "base")) as display:
        display.update(parse_usage(METRICS))
    text = output.getvalue()
    for part in ("requests", "completion", "1,234", "1,500,000"):
        assert part in text
