"""Rewards from a server of the user's: what it is sent, and what becomes of everything that it may answer."""

import json
import random
import ssl
import time
import zlib
from datetime import UTC, datetime, timedelta

import pytest
from support.patience import PATIENCE_SECONDS
from support.raw_server import drip, raw_server
from support.services import Answer, Service

TOKEN = "token-of-the-users-server"


def lengths(asked):
    return Answer(
        [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])} for s in asked.json()][::-1]
    )


@pytest.fixture
def service(start_service):
    return start_service(lengths)


@pytest.fixture
def scored_by(service, start_server):
    def start(more=None, environment=None, timeout="60s"):
        spec = {"timeout": timeout, "http": {"url": f"{service.url}/grade", **(more or {})}}
        return start_server(spec, environment=environment).wait_ready()

    return start


def test_samples_are_posted_as_they_came(service, scored_by, build_sample):
    more = {"tokenKey": "GRADER_TOKEN", "headers": {"X-Team": "TEAM", "x-other": "OTHER"}}
    server = scored_by(more, {"GRADER_TOKEN": TOKEN, "TEAM": "red\n", "OTHER": "o", "UNNAMED": "not sent"})
    samples = [build_sample(str(number), "x" * number, {"k": 1.5}, {"topic": "tax"}) for number in range(100)]
    rows = server.score(samples)
    assert [row["aggregate_reward_score"] for row in rows] == [float(number) for number in range(100)]
    assert sorted(len(asked.json()) for asked in service.asked) == [36, 64]
    assert [s for asked in sorted(service.asked, key=lambda a: -len(a.json())) for s in asked.json()] == samples
    for asked in service.asked:
        assert asked.path == "/grade"
        assert asked.headers["authorization"] == f"Bearer {TOKEN}"
        assert asked.headers["x-team"] == "red"
        assert asked.headers["content-type"] == "application/json"
        assert "not sent" not in asked.headers.values()
    assert server.metric('rft_reward_remote_requests_total{grader="http",outcome="answered"}') == 2
    assert TOKEN not in server.log()


def first_letters(asked):
    """A server as people have it for Azure OpenAI's endpoint graders."""
    body = asked.json()
    return Answer({"score": float(body["sample"]["output_text"] == body["item"]["letter"] * 3)})


def test_an_endpoint_grader_gets_one_sample_with_its_row_in_each_request(service, scored_by, build_sample):
    service.respond = first_letters
    more = {"body": "SampleAndItem", "headers": {"X-Functions-Key": "FUNCTIONS_KEY"}}
    server = scored_by(more, {"FUNCTIONS_KEY": TOKEN})
    samples = [build_sample(f"{n}", letter * 3, {"a": 1}, {"letter": "x"}) for n, letter in enumerate("xyx")]
    rows = server.score(samples)
    assert [(row["id"], row["aggregate_reward_score"]) for row in rows] == [("0", 1.0), ("1", 0.0), ("2", 1.0)]
    assert len(service.asked) == 3
    asked = next(each for each in service.asked if each.json()["sample"]["output_text"] == "yyy")
    body = asked.json()
    assert set(body) == {"sample", "item", "trace_id"}
    assert body["item"]["letter"] == "x"
    assert body["item"]["reference_answer"] == {"a": 1}
    assert body["item"]["messages"] == samples[1]["messages"][:-1]
    assert body["sample"]["choices"][0]["message"] == samples[1]["messages"][-1]
    assert len({each.json()["trace_id"] for each in service.asked}) == 3
    assert asked.headers["x-functions-key"] == TOKEN
    assert TOKEN not in server.log()


@pytest.mark.parametrize("completion", ["1" * 30, f"[{'1' * 30}]", "[" * 500 + "]" * 500, '{"a": 1e999}', r'"\ud800"'])
def test_an_endpoint_grader_gets_completions_that_are_json_of_any_kind(service, scored_by, build_sample, completion):
    service.respond = lambda asked: Answer({"score": 1})
    server = scored_by({"body": "SampleAndItem"})
    assert server.score_one(completion)["aggregate_reward_score"] == 1.0
    assert service.asked[0].json()["sample"]["output_text"] == completion


def test_what_an_endpoint_grader_may_answer(service, scored_by, build_sample):
    answers = {
        "a": Answer({"score": 8, "more": 1}),
        "b": Answer({"score": "8"}),
        "c": Answer({"error": {"message": "no"}}),
        "d": Answer(b"nothing"),
        "e": Answer({"score": float("nan")}),
        "f": Answer([{"score": 1}]),
    }
    service.respond = lambda asked: answers[asked.json()["sample"]["output_text"]]
    rows = scored_by({"body": "SampleAndItem"}).score([build_sample(name, name) for name in answers])
    assert rows[0]["aggregate_reward_score"] == 8.0
    assert "a string, not a number" in rows[1]["error"]
    for row in (rows[2], rows[3], rows[5]):
        assert row["error"].startswith('the answer is no JSON object with a score, such as {"score": 0.5}: ')
    assert [row["aggregate_reward_score"] for row in rows[1:]] == [None] * 5
    assert rows[4]["error"]


def test_requests_of_a_second_are_limited(service, scored_by, build_sample):
    times = []

    def note(asked):
        times.append(time.monotonic())
        return Answer({"score": 1})

    service.respond = note
    server, began = scored_by({"body": "SampleAndItem", "requestsPerSecond": 3, "concurrency": 64}), time.monotonic()
    server.score([build_sample(str(n), "x") for n in range(10)])
    assert len(times) == 10
    assert max(times) - began >= 3


def test_batches_are_as_large_as_stated(service, scored_by, build_sample):
    scored_by({"batchSize": 3, "concurrency": 2}).score([build_sample(str(n), "x") for n in range(10)])
    assert sorted(len(asked.json()) for asked in service.asked) == [1, 3, 3, 3]


def test_rows_that_are_missing_or_wrong_cost_only_themselves(service, scored_by, build_sample):
    server = scored_by()
    service.respond = lambda asked: Answer(
        [
            {"id": "a", "aggregate_reward_score": 1, "explanation": "told \ud800 well"},
            {"id": "b", "error": "b is empty"},
            {"id": "c", "aggregate_reward_score": "1"},
            {"id": "elsewhere", "aggregate_reward_score": 1},
        ]
    )
    a, b, c, d = server.score([build_sample(name, "x") for name in "abcd"])
    assert (a["aggregate_reward_score"], a["explanation"]) == (1.0, "told ? well")
    assert b["error"] == "b is empty"
    assert "a string, not a number" in c["error"]
    assert "no row with this id" in d["error"]
    assert server.metric('rft_reward_sample_errors_total{reason="unscored"}') == 3


@pytest.mark.parametrize("trouble", [Answer("busy", 429), Answer("broken", 500), Answer("away", 503), None])
def test_trouble_that_passes_is_waited_for(service, scored_by, build_sample, trouble):
    server, answers = scored_by(), [trouble, trouble]
    service.respond = lambda asked: answers.pop() if answers else lengths(asked)
    assert server.score_one("four")["aggregate_reward_score"] == 4.0
    assert len(service.asked) == 3


def test_retry_after_may_be_a_moment(service, scored_by):
    server, times = scored_by(timeout="30s"), []

    def later(asked):
        times.append(time.monotonic())
        moment = datetime.now(UTC) + timedelta(seconds=4)
        text = moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return Answer(b"", 503, {"retry-after": text}) if len(times) < 2 else lengths(asked)

    service.respond = later
    assert server.score_one("x")["aggregate_reward_score"] == 1.0
    assert times[1] - times[0] > 1.5


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413])
def test_a_refusal_is_not_asked_again(service, scored_by, status):
    server = scored_by({"tokenKey": "GRADER_TOKEN"}, {"GRADER_TOKEN": TOKEN})
    service.respond = lambda asked: Answer(f"no: {TOKEN}".encode(), status, {"location": "/elsewhere"})
    assert server.score_one("x")["error"] == f"{service.url}/grade answered {status}: no: ***"
    assert len(service.asked) == 1


def test_a_server_that_is_not_there_costs_the_samples(start_server, build_sample):
    with_port = Service(lengths)
    with_port.close()
    server = start_server({"timeout": "2s", "http": {"url": with_port.url}}).wait_ready()
    rows = server.score([build_sample(str(number), "x") for number in range(3)])
    for row in rows:
        assert "cannot be reached" in row["error"]
        assert "spec.timeout" in row["error"]


def test_a_server_that_hangs_costs_the_samples(service, scored_by):
    server = scored_by(timeout="4s")
    service.respond = lambda asked: time.sleep(PATIENCE_SECONDS)
    assert server.score_one("x")["aggregate_reward_score"] is None
    service.respond = lengths
    assert server.score_one("x")["aggregate_reward_score"] == 1.0


def test_a_certificate_of_the_users_own(start_server, tmp_path, build_sample):
    certificate, key = self_signed("127.0.0.1")
    (tmp_path / "both.pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    service = Service(lengths, context)
    spec = {"timeout": "60s", "http": {"url": service.url, "caKey": "GRADER_CA"}}
    trusting = start_server(spec, environment={"GRADER_CA": certificate}).wait_ready()
    assert trusting.score_one("four")["aggregate_reward_score"] == 4.0
    spec = {"timeout": "10s", "http": {"url": service.url}}
    assert "CERTIFICATE_VERIFY_FAILED" in start_server(spec).wait_ready().score_one("four")["error"]
    other, _ = self_signed("127.0.0.1")
    spec = {"timeout": "8s", "http": {"url": service.url, "caKey": "GRADER_CA"}}
    server = start_server(spec, environment={"GRADER_CA": other}).wait_ready()
    assert "CERTIFICATE_VERIFY_FAILED" in server.score_one("four")["error"]
    service.close()


def self_signed(host):
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "grader")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def compressed(asked):
    content = zlib.compress(json.dumps(lengths(asked).body).encode())
    return Answer(content, 200, {"content-encoding": "deflate"})


def much(asked):
    return Answer(b"[" + b" " * (1 << 20) + json.dumps(lengths(asked).body).encode()[1:])


@pytest.mark.parametrize(
    ("respond", "problem"),
    [
        (compressed, "sends a compressed answer, though none was asked for"),
        (much, "answers with more than 128 KiB"),
    ],
)
def test_an_answer_that_is_not_read_costs_the_samples(service, scored_by, respond, problem):
    server = scored_by()
    service.respond = respond
    error = server.score_one("four")["error"]
    assert error.startswith(f"{service.url}/grade {problem}"), error
    assert len(service.asked) == 1
    assert service.asked[0].headers["accept-encoding"] == "identity"


def test_an_answer_that_drips_costs_the_samples(start_server, build_sample):
    with raw_server(drip) as url:
        server = start_server({"timeout": "3s", "http": {"url": url}}).wait_ready()
        assert server.score_one("x")["error"].startswith("there was no answer (asked once;")


def test_trouble_whose_words_are_not_read_is_waited_for(service, scored_by):
    server, answers = scored_by(), [Answer(zlib.compress(b"busy"), 503, {"content-encoding": "deflate"})]
    service.respond = lambda asked: answers.pop() if answers else lengths(asked)
    assert server.score_one("four")["aggregate_reward_score"] == 4.0


def test_nonsense_never_scores_and_never_ends_the_server(service, scored_by, build_sample):
    server = scored_by({"batchSize": 1}, timeout="5s")
    wrong = [
        b"", b"null", b"{}", b"[]", b"[null]", b'"x"', b"5", b"[[[]]]", b"\xff\xfe", b"<html>", b"[" * 100_000,
        b"[" * 900 + b"]" * 900, b"1" * 5000, b'[{"id": 1, "aggregate_reward_score": 1e999}]',
        b'[{"id": "ID", "aggregate_reward_score": NaN}]', b'[{"id": "ID", "aggregate_reward_score": true}]',
        b'[{"id": "ID", "aggregate_reward_score": -Infinity}]', b'[{"id": "ID"}]', b'{"body": "["}',
        b'[{"id": "ID", "error": ' + b"[" * 700 + b"]" * 700 + b"}]",
        b'[{"id": ' + b"[" * 700 + b"]" * 700 + b', "aggregate_reward_score": 1}]',
        b'{"statusCode": 500, "body": []}', b'{"statusCode": 200, "body": "{}"}',
    ]  # fmt: skip
    randomness = random.Random(0)
    wrong += [bytes(randomness.choices(range(256), k=randomness.randint(0, 200))) for _ in range(20)]
    whole = json.dumps([{"id": "ID", "aggregate_reward_score": 1}]).encode()
    wrong += [whole[: randomness.randrange(len(whole))] for _ in range(10)]
    headers = [{}, {"content-encoding": "gzip"}, {"content-encoding": "br"}, {"content-type": "text/html"}]

    def nonsense(asked):
        number = int(asked.json()[0]["id"])
        return Answer(wrong[number].replace(b"ID", str(number).encode()), 200, headers[number % len(headers)])

    service.respond = nonsense
    rows = server.score([build_sample(str(number), "x") for number in range(len(wrong))])
    assert [row["id"] for row in rows if row["aggregate_reward_score"] is not None] == []
    service.respond = lengths
    assert server.score_one("four")["aggregate_reward_score"] == 4.0
    assert "Traceback" not in server.log()
