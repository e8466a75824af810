"""Rewards from an AWS Lambda, against a server that speaks Lambda's Invoke protocol."""

import json
import random
import re
import time

import pytest
from support.patience import PATIENCE_SECONDS
from support.services import Answer

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:grader:live"
MIB = 1024 * 1024


def rows(asked):
    return [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])} for s in asked.json()]


def raised(kind, message):
    return Answer({"errorType": kind, "errorMessage": message, "trace": []}, 200, {"x-amz-function-error": "Unhandled"})


def refused(status, kind, **headers):
    return Answer({"Type": "User", "message": f"it was {kind}"}, status, {"x-amzn-errortype": kind, **headers})


@pytest.fixture
def service(start_service):
    return start_service(lambda asked: Answer(rows(asked)))


@pytest.fixture
def scored_by(service, start_server):
    def start(more=None, environment=None, timeout="30s"):
        environment = environment or {
            "AWS_ENDPOINT_URL_LAMBDA": service.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
        }
        spec = {"timeout": timeout, "lambda": {"functionArn": ARN, **(more or {})}}
        environment = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nowhere", **environment}
        environment["AWS_SHARED_CREDENTIALS_FILE"] = "/nowhere"
        return start_server(spec, environment=environment).wait_ready()

    return start


def test_a_lambda_is_invoked_with_the_samples(service, scored_by, build_sample):
    server = scored_by()
    samples = [build_sample(str(number), "x" * number, {"k": 1.5}) for number in range(100)]
    assert [row["aggregate_reward_score"] for row in server.score(samples)] == [float(n) for n in range(100)]
    assert sorted(len(asked.json()) for asked in service.asked) == [36, 64]
    for asked in service.asked:
        assert re.fullmatch("/2015-03-31/functions/arn(:|%3A)aws.*live/invocations", asked.path)
        assert asked.headers.get("x-amz-invocation-type") == "RequestResponse"
        assert "AKIDEXAMPLE" in asked.headers["authorization"]
        assert "/eu-west-1/lambda/" in asked.headers["authorization"]
    assert max((asked.json() for asked in service.asked), key=len) == samples[:64]
    assert server.metric('rft_reward_remote_requests_total{grader="lambda",outcome="answered"}') == 2


@pytest.mark.parametrize("wrap", [lambda r: {"statusCode": 200, "body": r}, lambda r: {"body": json.dumps(r)}])
def test_wrapped_answers(service, scored_by, wrap):
    server = scored_by()
    service.respond = lambda asked: Answer(wrap(rows(asked)))
    assert server.score_one("four")["aggregate_reward_score"] == 4.0
    service.respond = lambda asked: Answer({"statusCode": 500, "body": "boom"})
    assert server.score_one("four")["error"] == "the handler answered statusCode 500: boom"


def test_rows_that_are_missing_cost_only_themselves(service, scored_by, build_sample):
    server = scored_by()
    service.respond = lambda asked: Answer([*rows(asked)[1:], {"id": "0", "aggregate_reward_score": 9}])
    first, second = server.score([build_sample("first", "x"), build_sample("second", "xx")])
    assert "no row with this id" in first["error"]
    assert second["aggregate_reward_score"] == 2.0


def test_a_handler_that_raises_costs_its_batch_with_the_message(service, scored_by, build_sample):
    server = scored_by({"batchSize": 2})
    service.respond = lambda asked: (
        raised("KeyError", "'answer'") if asked.json()[0]["id"] == "0" else Answer(rows(asked))
    )
    scored = server.score([build_sample(str(number), "x") for number in range(4)])
    assert [row.get("error") for row in scored] == ["the Lambda raised KeyError: 'answer'"] * 2 + [None] * 2
    assert len(service.asked) == 2  # it would raise again


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "TooManyRequestsException"), (500, "ServiceException"), (502, "EC2UnexpectedException"), (503, "x")],
)
def test_trouble_that_passes_is_waited_for(service, scored_by, status, kind):
    server, answers = scored_by(), [refused(status, kind)] * 2
    service.respond = lambda asked: answers.pop() if answers else Answer(rows(asked))
    assert server.score_one("four")["aggregate_reward_score"] == 4.0
    assert len(service.asked) == 3


def test_throttling_that_stays_says_so(service, scored_by):
    server = scored_by(timeout="15s")
    service.respond = lambda asked: refused(429, "TooManyRequestsException", **{"retry-after": "1"})
    error = server.score_one("x")["error"]
    assert "TooManyRequestsException" in error
    assert re.search(r"asked ([2-9]|1[0-5]) times", error)


def test_a_refusal_is_not_asked_again(service, scored_by):
    server = scored_by()
    service.respond = lambda asked: refused(404, "ResourceNotFoundException")
    assert "it was ResourceNotFoundException" in server.score_one("x")["error"]
    assert len(service.asked) == 1


def test_missing_credentials_are_said(service, scored_by):
    server = scored_by(environment={"AWS_ENDPOINT_URL_LAMBDA": service.url})
    assert "Unable to locate credentials" in server.score_one("x")["error"]
    assert service.asked == []


def test_a_lambda_that_cannot_be_reached(scored_by):
    server = scored_by(environment={
        "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
    }, timeout="8s")  # fmt: skip
    assert "Could not connect" in server.score_one("x")["error"]


def test_a_lambda_that_takes_too_long(service, scored_by):
    server = scored_by(timeout="1s")
    service.respond = lambda asked: time.sleep(PATIENCE_SECONDS)
    assert server.score_one("x")["aggregate_reward_score"] is None


def test_payloads_are_kept_within_aws_limits(service, scored_by, build_sample):
    server = scored_by(timeout="60s")
    samples = [build_sample(str(number), "x" * MIB) for number in range(10)]
    samples.append(build_sample("huge", "x" * (7 * MIB)))
    scored = server.score(samples)
    assert [row["aggregate_reward_score"] for row in scored[:-1]] == [float(MIB)] * 10
    assert "a Lambda takes at most 6 MiB" in scored[-1]["error"]
    assert max(len(asked.body) for asked in service.asked) <= 6 * MIB


def test_an_answer_that_is_too_large_is_asked_for_in_parts(service, scored_by, build_sample):
    server = scored_by()
    too_large = raised("Function.ResponseSizeTooLarge", "Response payload size exceeded")
    service.respond = lambda asked: too_large if len(asked.json()) > 2 else Answer(rows(asked))
    scored = server.score([build_sample(str(number), "x") for number in range(5)])
    assert [row["aggregate_reward_score"] for row in scored] == [1.0] * 5
    service.respond = lambda asked: too_large
    assert "answer to one sample is larger than 6 MiB" in server.score_one("x")["error"]


def test_an_answer_that_aws_would_not_send_is_read_to_its_limit(service, scored_by, build_sample):
    server = scored_by()
    service.respond = lambda asked: Answer(b"[" + b" " * (6 * MIB) + json.dumps(rows(asked)).encode()[1:])
    assert "answer to one sample is larger than 6 MiB" in server.score_one("x")["error"]


def test_nonsense_never_scores_and_never_ends_the_server(service, scored_by, build_sample):
    server = scored_by({"batchSize": 1}, timeout="15s")
    wrong = [
        b"", b"null", b"{}", b"[]", b"[null]", b"\xff", b"[" * 100_000, b'{"errorType": 5}', b'{"body": "["}',
        b'[{"id": "ID", "aggregate_reward_score": NaN}]', b'[{"id": "ID", "aggregate_reward_score": "1"}]',
    ]  # fmt: skip
    randomness = random.Random(0)
    wrong += [bytes(randomness.choices(range(256), k=randomness.randint(0, 200))) for _ in range(10)]
    headers = [{}, {"x-amz-function-error": "Unhandled"}, {"x-amz-log-result": "%%"}]
    statuses = [200, 200, 400]

    def nonsense(asked):
        number = int(asked.json()[0]["id"])
        body = wrong[number // 3].replace(b"ID", str(number).encode())
        return Answer(body, statuses[number % 3], headers[number % 3])

    service.respond = nonsense
    scored = server.score([build_sample(str(number), "x") for number in range(3 * len(wrong))])
    assert [row["id"] for row in scored if row["aggregate_reward_score"] is not None] == []
    service.respond = lambda asked: Answer(rows(asked))
    assert server.score_one("four")["aggregate_reward_score"] == 4.0
    assert "Traceback" not in server.log()
    assert "secret-of-aws" not in server.log()
