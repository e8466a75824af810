"""10,000 broken bodies of /progress, /readyz and /adapters each: no error, and nothing that a status cannot have."""

import asyncio
import json
import random
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.mutation import bounded
from views import ADAPTER, NOW, pod

from rft_api.adapter_protocol import AdapterReport, AdapterReports
from rft_api.conditions import ConditionType, Reason
from rft_api.foreign.http import Answer
from rft_api.progress import HackingVerdict, Progress
from rft_api.readiness import NotReady, NotReadyReason, Readiness
from rft_api.termination import parse_result
from rft_operator.inference_endpoint.probe import ask_servers
from rft_operator.pods.pod_view import read_pod
from rft_operator.pods.probe import MAXIMUM_BYTES
from rft_operator.reward_function.probe import ask_readiness
from rft_operator.rft_job.probe import ask_progress
from rft_operator.rft_job.results import describe_progress, describe_result
from rft_operator.status.conditions import Finding, build_conditions

COUNT = 10_000
STATUS = Draft202012Validator(
    yaml.safe_load((Path(__file__).parents[2] / "crds" / "rftjobs.yaml").read_text(encoding="utf-8"))["spec"][
        "versions"
    ][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
)
FORGED = "x\n2026-01-31 ERROR forged\x1b[2J\u202e\u2028\u0085\x00\u200b"
VALUES = [
    None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**63, -(2**63), 10**400, 1e300, -1e300, 1e-320, 0.1, "", "1", "NaN",
    "Training", FORGED, FORGED * 2000, "\ud800", "é" * 5000, [], {}, [[]], {"message": FORGED}, [None] * 500,
    float("nan"), float("inf"), -float("inf"),
]  # fmt: skip
PROGRESS = Progress(
    phase="Training", message="step 3", done=3, planned=10, unit="steps", detail="3/10", step=3, total_steps=10,
    epoch=0.5, reward=0.25, validation_reward=0.5, episode_length=12.0, gradient_norm=1.5, rewards_failed=1,
    eta_seconds=90.0, reward_hacking=HackingVerdict(suspected=True, message="the reward rises"),
)  # fmt: skip
READINESS = Readiness(
    reasons=[
        NotReady(reason=NotReadyReason.TEST_FAILED, message="test 1: expected 1", test=0),
        NotReady(reason=NotReadyReason.WORKERS_FAILING, message="the code cannot be loaded"),
    ]
)
REPORTS = AdapterReports(adapters=[AdapterReport(name="x", uri="s3://a/x", state="Failed", message="no such file")])


class Pods:
    """Answers as a pod whose program says something, in place of the client."""

    body = b""

    async def ask_all(self, pods, question):
        return [await question(each) for each in pods]

    async def get(self, pod, port, path, any_status=False):
        return Answer(200, self.body)


def places(value, path=()):
    """All places in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


def changed(value, path, change):
    """The value with another one at a place."""
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], change)
    return copy


def broken(choose, document):
    """A body that is a real one with faults."""
    for _ in range(choose.randint(1, 3)):
        path = choose.choice(list(places(document)))

        def change(value):
            if isinstance(value, dict) and value and choose.random() < 0.5:
                copy = dict(value)
                name = choose.choice(list(copy))
                copy[choose.choice([name.upper(), FORGED, "new", name])] = copy.pop(name)
                return copy
            if isinstance(value, list) and choose.random() < 0.5:
                return value * choose.choice([0, 2, 300])
            return choose.choice(VALUES)

        document = changed(document, path, change)
    body = json.dumps(document, ensure_ascii=choose.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = choose.randrange(12)
    if kind == 0:
        body = body[: choose.randint(0, len(body))]
    elif kind == 1:
        place = choose.randint(0, len(body))
        body = body[:place] + choose.randbytes(choose.randint(1, 8)) + body[place:]
    elif kind == 2:
        body = choose.choice([b"[" * 30_000, b'{"a":' * 10_000, b"9" * 60_000, b"\xff\xfe", b"", b"null", b'"x"'])
    elif kind == 3:
        body = b'{"message":"\\ud800",' + body[1:]
    return body[:MAXIMUM_BYTES]


def conditions(text):
    """A condition with a text, as JSON; it is one that the status of every kind may have."""
    found = build_conditions([Finding(ConditionType.READY, "False", Reason.STARTING, text)], [], 1, NOW)
    return [condition.to_json_object() for condition in found]


def check(status, *texts):
    """Every text is harmless, and the API server would take the status."""
    assert all(text.isprintable() for text in texts)
    encoded = json.dumps(status, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert len(encoded) < 4 * 2000 + 2000
    STATUS.validate(json.loads(encoded))


def fuzz(document, question, seed):
    """Ask for broken bodies; returns how many were accepted."""
    choose, pods = random.Random(seed), Pods()

    async def ask():
        accepted = 0
        for number in range(COUNT):
            pods.body = broken(choose, document) if number else json.dumps(document).encode()
            try:
                with bounded():
                    accepted += await question(pods)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__} by {pods.body[:500]!r}") from error
        return accepted

    return asyncio.run(ask())


def test_progress():
    async def question(pods):
        progress = await ask_progress(pods, [pod(ip="10.0.0.1")])
        if progress is None:
            return False
        verdict = progress.reward_hacking
        texts = [progress.message, progress.detail, *([verdict.message] if verdict else [])]
        status = {
            "progress": describe_progress(progress).to_json_object(),
            "conditions": conditions(f"{progress.phase}: {progress.message}") + conditions(texts[-1]),
        }
        check(status, *texts)
        return True

    accepted = fuzz(PROGRESS.model_dump(mode="json", by_alias=True), question, 1)
    assert COUNT / 20 < accepted < COUNT / 2


def test_readiness():
    async def question(pods):
        waiting = pod(ip="10.0.0.1", ready=False)
        readiness = (await ask_readiness(pods, [waiting])).get("pod")
        if readiness is None:
            return False
        check({"conditions": conditions(readiness.message)}, *readiness.message.split("\n"))
        assert len(readiness.reasons) <= 100
        return True

    accepted = fuzz(READINESS.model_dump(mode="json"), question, 2)
    assert COUNT / 20 < accepted < COUNT / 2


def test_adapters():
    async def question(pods):
        answer = (await ask_servers(pods, [pod(ip="10.0.0.1")], ADAPTER, was_ready=True))["pod"]
        if answer.adapter is None:
            return False
        check({"conditions": conditions(f"pod x: {answer.adapter.message}")}, answer.adapter.message)
        return True

    accepted = fuzz(REPORTS.model_dump(mode="json"), question, 3)
    assert COUNT / 50 < accepted < COUNT / 2


def test_lists_of_models():
    async def question(pods):
        report = {**REPORTS.model_dump(mode="json")["adapters"][0], "state": "Loaded"}
        loader, server = json.dumps({"adapters": [report]}).encode(), pods.body

        async def get(pod, port, path, any_status=False):
            return Answer(200, loader if path == "/adapters" else server)

        pods.get = get
        answer = (await ask_servers(pods, [pod(ip="10.0.0.1")], ADAPTER, was_ready=True))["pod"]
        assert answer.problem in (None, "the server does not list x")
        return answer.problem is None

    accepted = fuzz({"object": "list", "data": [{"id": "x", "object": "model"}]}, question, 4)
    assert COUNT / 20 < accepted < COUNT * 0.8


RESULT = {
    "steps": 24, "stoppedEarly": False, "bestStep": 20, "prompts": 200, "baseReward": 0.5, "tunedReward": 0.75,
    "gain": {"mean": 0.25, "low": 0.125, "high": 0.375}, "baseRevision": "a" * 40,
    "checkpoints": [{"step": step, "validationReward": 0.5} for step in (20, 16, 24)],
}  # fmt: skip


def test_results():
    """What a trainer leaves when it ends becomes the result of its job. Its image may be any."""

    async def question(pods):
        result = parse_result(pods.body.decode("utf-8", "replace"))
        if result is None:
            return False
        described, checkpoints = describe_result(result, "s3://bucket/out", "hf://a/b")
        kept = [checkpoint.to_json_object() for checkpoint in checkpoints]
        check({"result": described.to_json_object(), "checkpoints": kept})
        return True

    accepted = fuzz(RESULT, question, 5)
    assert COUNT / 50 < accepted < COUNT / 2


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("baseReward", "1e300", "1.0000e+300"),
        ("tunedReward", "-1e300", "-1.0000e+300"),
        ("baseReward", "NaN", None),
        ("tunedReward", "Infinity", None),
        ("steps", "9" * 30, None),
        ("bestStep", "-1", None),
    ],
)
def test_results_that_a_status_cannot_have(name, number, shown):
    result = parse_result(json.dumps({**RESULT, name: 0}).replace(f'"{name}": 0', f'"{name}": {number}'))
    assert (result is None) == (shown is None)
    if result is not None:
        described, _ = describe_result(result, "s3://bucket/out", "hf://a/b")
        assert shown in described.to_json_object().values()


def test_conditions_are_shown_as_they_are_on_no_terminal():
    """kubectl prints them raw. Addresses of specs, and what sidecars say, are a part of them."""
    (condition,) = conditions("pod x: \x1b[2J\x9b1A\u202etxt\u2066\n second line")
    assert condition["message"] == "pod x: \\x1b[2J\\x9b1A\\u202etxt\\u2066\n second line"


@pytest.mark.parametrize("index", ["x", "", "-1", "1.5", "٣", "1" * 63])
def test_a_label_of_a_user_is_no_index(index):
    labels = {"batch.kubernetes.io/job-completion-index": index}
    view = read_pod({"metadata": {"name": "p", "labels": labels}}, "reward")
    assert view.index in (None, int("1" * 63))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e300", "9" * 5000, "true", '"NaN"', "{}"])
@pytest.mark.parametrize("name", ["step", "totalSteps", "epoch", "reward", "gradientNorm", "etaSeconds", "done"])
def test_numbers_that_a_status_cannot_have(name, number):
    pods = Pods()
    pods.body = f'{{"phase": "Training", "{name}": {number}}}'.encode()
    progress = asyncio.run(ask_progress(pods, [pod(ip="10.0.0.1")]))
    if progress is not None:
        check({"progress": describe_progress(progress).to_json_object()})


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("gradientNorm", "1e14", "100000000000000.0000"),
        ("gradientNorm", "1.23456789e27", "1.2346e+27"),
        ("gradientNorm", "1e300", "1.0000e+300"),
        ("gradientNorm", "NaN", None),
        ("gradientNorm", "Infinity", None),
        ("gradientNorm", "1e999", None),
        ("gradientNorm", "-1.5", None),
        ("reward", "-1e300", "-1.0000e+300"),
        ("reward", "-Infinity", None),
        ("validationReward", "1e28", "1.0000e+28"),
        ("epoch", "-1", None),
        ("epoch", "-0.0", "0.0000"),
        ("episodeLength", "1e40", "1.0000e+40"),
        ("eta", "1e300", None),
        ("eta", "Infinity", None),
        ("eta", "-5", None),
        ("trainedTokens", "9007199254740992", 2**53),
        ("trainedTokens", "9007199254740993", None),
        ("trainedTokens", "-1", None),
    ],
)
def test_a_number_that_a_status_cannot_have_does_not_cost_the_others(name, number, shown):
    pods = Pods()
    field = "etaSeconds" if name == "eta" else name
    pods.body = f'{{"phase": "Training", "step": 7, "totalSteps": 9, "{field}": {number}}}'.encode()
    progress = asyncio.run(ask_progress(pods, [pod(ip="10.0.0.1")]))
    assert progress is not None
    status = describe_progress(progress).to_json_object()
    check({"progress": status})
    assert (status["phase"], status["step"], status["totalSteps"], status.get(name)) == ("Training", 7, 9, shown)
