"""Every error class of the openai package, by mistakes of its users before a real gateway: each says what to do."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from support.fine_tuning import SCORE_MODEL, STRING_CHECK, request
from support.gateway import Gateway
from support.gateway_files import connect, data, knows
from support.gateway_in_cluster import ClusterGateway, Team
from support.patience import wait_until

from rft_api.gateway_key import Limits

GRADER = "method.reinforcement.grader"
SETTINGS = "method.reinforcement.hyperparameters"
HASTE_SECONDS = 0.2
"""How long a hasty client waits. The gateway stands still meanwhile, so that any time is too short."""
JOB_ID = "fine_tuning_job_id"
MISSING, UNKNOWN, INVALID = "missing_required_parameter", "unknown_parameter", "invalid_value"


@pytest.fixture
def client(tuning_gateway: ClusterGateway, team: Team) -> Iterator[openai.OpenAI]:
    """A client with a key of a namespace in which jobs can be created."""
    team.enable_fine_tuning(data="['s3://data/']")
    with connect(tuning_gateway, team.add_key("ci")) as client:
        yield client


def create(client: openai.OpenAI, *arguments: Any, **fields: Any) -> Any:
    return client.fine_tuning.jobs.create(**request(*arguments, **fields))


def upload(client: openai.OpenAI, content: bytes = data(), **fields: Any) -> Any:
    return client.files.create(file=("train.jsonl", content), **{"purpose": "fine-tune", **fields})


@contextmanager
def refused(kind: type[openai.APIStatusError], code: str, param: str | None, message: str) -> Iterator[None]:
    """Expects this class of error and no other one, with all that whoever made the mistake needs."""
    with pytest.raises(openai.APIError) as raised:
        yield
    error = raised.value
    assert type(error) is kind, error
    assert isinstance(error, openai.APIStatusError)
    assert (error.code, error.param) == (code, param)
    assert message in error.message
    expected = {openai.RateLimitError: "requests", openai.PermissionDeniedError: "permission_error"}
    other = "server_error" if error.status_code >= 500 else "invalid_request_error"
    assert error.type == expected.get(kind, other)
    assert error.request_id


def answered(**fields: Any) -> bytes:
    """The line of a conversation whose answer has these fields."""
    answer = {"role": "assistant", "content": "4", **fields}
    return json.dumps({"messages": [{"role": "user", "content": "2 + 2?"}, answer]}).encode() + b"\n"


WEIGHTED = answered(weight=2)
CALLS = answered(tool_calls=[{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}])
Call = Callable[[openai.OpenAI], Any]
BAD_REQUESTS: list[tuple[str, Call, str, str, str]] = [
    # as people have them for supervised fine-tuning
    (
        "preferences", lambda client: create(client, method={"type": "dpo", "dpo": {}}),
        INVALID, "method.type", "use reinforcement with a grader, or supervised",
    ),
    (
        "an interval", lambda client: client.fine_tuning.jobs.create(
            model="base", training_file="s3://data/a",
            method={"type": "supervised", "supervised": {"hyperparameters": {"eval_interval": 3}}},
        ),
        UNKNOWN, "method.supervised.hyperparameters.eval_interval", "unknown field",
    ),
    (
        "epochs of imitation", lambda client: client.fine_tuning.jobs.create(
            model="base", training_file="s3://data/a",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}},
        ),
        INVALID, "method.supervised.hyperparameters.n_epochs", 'must be "auto" or a whole number from 1 to 50',
    ),
    (
        "a grader of imitation", lambda client: client.fine_tuning.jobs.create(
            model="base", training_file="s3://data/a",
            method={"type": "supervised", "supervised": {}, "reinforcement": {"grader": STRING_CHECK}},
        ),
        INVALID, "method.reinforcement", "belongs to type reinforcement, and the type is supervised",
    ),
    (
        "a weight", lambda client: upload(client, data(1) + WEIGHTED),
        "invalid_file", "file", "line 2: messages[1].weight: must be 0 or 1, of a message of the assistant",
    ),
    (
        "an answer that calls a tool", lambda client: upload(client, data(1) + CALLS),
        "invalid_file", "file", "line 2: messages[1].tool_calls: tool calls are not supported",
    ),
    (
        "older hyperparameters", lambda client: create(client, extra_body={"hyperparameters": {"n_epochs": 1}}),
        INVALID, "hyperparameters", "write method.reinforcement.hyperparameters",
    ),
    # fields of a job
    (
        "no training file", lambda client: create(client, training_file=None),
        MISSING, "training_file", "training_file: is required",
    ),
    (
        "a file of somebody else", lambda client: create(client, training_file="file-abc"),
        "file_not_found", "training_file", "is neither the id of a file of the namespace, nor an address",
    ),
    (
        "batch size", lambda client: create(client, hyperparameters={"batch_size": 0}),
        INVALID, f"{SETTINGS}.batch_size", 'must be "auto" or a whole number from 1 to 256',
    ),
    (
        "unknown setting", lambda client: create(client, hyperparameters={"epochs": 1}),
        UNKNOWN, f"{SETTINGS}.epochs", "did you mean n_epochs?",
    ),
    (
        "learning rate", lambda client: create(client, hyperparameters={"learning_rate_multiplier": 1e6}),
        INVALID, f"{SETTINGS}.learning_rate_multiplier", "at most 0.1; the default is",
    ),
    (
        "suffix", lambda client: create(client, suffix="--"),
        INVALID, "suffix", "needs a letter from a to z, or a digit",
    ),
    (
        "integrations", lambda client: create(client, integrations=[{"type": "wandb", "wandb": {"project": "p"}}]),
        INVALID, "integrations", "leave integrations out",
    ),
    # graders
    (
        "no operation", lambda client: create(client, {**STRING_CHECK, "operation": None}),
        MISSING, f"{GRADER}.operation", "",
    ),
    (
        "a judge of OpenAI's", lambda client: create(client, {**SCORE_MODEL, "model": "gpt-4o-2024-08-06"}),
        "model_not_found", f"{GRADER}.model", "name an InferenceEndpoint of the namespace, or a model of graders",
    ),
    (
        "no RewardFunction", lambda client: create(client, {"type": "reward_function", "name": "exact"}),
        "reward_function_not_found", f"{GRADER}.name", "there is no RewardFunction exact",
    ),
    # lists
    (
        "a page of none", lambda client: client.fine_tuning.jobs.list(limit=0),
        INVALID, "limit", "must be a whole number from 1 to 100",
    ),
    (
        "unknown parameter", lambda client: client.fine_tuning.jobs.list(extra_query={"order": "asc"}),
        UNKNOWN, "order", "which has after, limit, metadata",
    ),
    # files
    (
        "another purpose", lambda client: upload(client, purpose="assistants"),
        INVALID, "purpose", "purpose must be fine-tune, not 'assistants'",
    ),
    (
        "a wrong line", lambda client: upload(client, data(1) + b"{no\n"),
        "invalid_file", "file", "line 2: is not JSON",
    ),
    (
        "pairs of prompt and completion", lambda client: upload(client, b'{"prompt": "a", "completion": "b"}\n'),
        "invalid_file", "file", "line 1: messages is missing; rft data convert",
    ),
    (
        "an unknown field of a form", lambda client: upload(client, extra_body={"colour": "red"}),
        UNKNOWN, "colour", "the field 'colour' is not supported here",
    ),
    (
        "a time to expire", lambda client: upload(client, expires_after={"anchor": "created_at", "seconds": 1}),
        INVALID, "expires_after", "must be a whole number from 3600",
    ),
    (
        "an upload without a name", lambda client: client.post("/uploads", cast_to=object, body={"bytes": 1}),
        MISSING, "filename", "filename: is required",
    ),
]  # fmt: skip


def test_bad_requests(client, team):
    for name, call, code, param, message in BAD_REQUESTS:
        with refused(openai.BadRequestError, code, param, message):
            print(name)  # pytest shows it with a failure
            call(client)


def test_a_job_that_has_ended(client, team):
    made = create(client)
    client.fine_tuning.jobs.cancel(made.id)
    with refused(openai.BadRequestError, "job_ended", JOB_ID, "it is cancelled. Create another one"):
        client.fine_tuning.jobs.resume(made.id)


def test_keys_that_open_nothing(client, team):
    with refused(openai.AuthenticationError, "invalid_api_key", None, "Incorrect API key provided"):
        client.with_options(api_key="sk-of-somebody-else").fine_tuning.jobs.list()
    team("delete", "secret", "ci")
    wait_until(lambda: not knows(client))
    for call in (lambda: create(client), lambda: upload(client), client.fine_tuning.jobs.list, client.files.list):
        with refused(openai.AuthenticationError, "invalid_api_key", None, "Incorrect API key provided"):
            call()


def test_a_namespace_without_fine_tuning(client, tuning_gateway, other_team):
    message = "it has no ConfigMap rft-fine-tuning. Whoever administrates the namespace has to create it"
    with (
        connect(tuning_gateway, other_team.add_key("ci")) as other,
        refused(openai.PermissionDeniedError, "fine_tuning_not_enabled", None, message),
    ):
        create(other)


def test_what_is_not_there(client, tuning_gateway, team):
    jobs = client.fine_tuning.jobs
    with refused(openai.NotFoundError, "model_not_found", "model", "does not exist or you do not have access to it"):
        create(client, model="gpt-4o-mini")
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.list_events, jobs.checkpoints.list):
        with refused(openai.NotFoundError, "job_not_found", JOB_ID, "There is no fine-tuning job ftjob-1"):
            call("ftjob-1")
    with refused(openai.NotFoundError, "job_not_found", "after", "There is no fine-tuning job ftjob-1"):
        jobs.list(after="ftjob-1")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with refused(openai.NotFoundError, "file_not_found", "id", "No such File object: file-abc"):
            call("file-abc")
    with refused(openai.NotFoundError, "unknown_url", None, "Invalid URL"):
        client.fine_tuning.checkpoints.permissions.retrieve("ftckpt-1")
    # a key that opens other models only does not learn which jobs and models there are
    made = create(client)
    team.add_adapter("tax", "base")
    with connect(tuning_gateway, team.add_key("narrow", models=("tax",))) as narrow:
        with refused(openai.NotFoundError, "job_not_found", JOB_ID, "or this key does not open its model"):
            narrow.fine_tuning.jobs.retrieve(made.id)
        with refused(openai.NotFoundError, "model_not_found", "model", "you do not have access to it"):
            create(narrow)


def test_a_judge_that_the_key_does_not_open_looks_like_none(client, tuning_gateway, team):
    create(client, {**SCORE_MODEL, "model": "base"})
    team.add_adapter("tax", "base")
    with connect(tuning_gateway, team.add_key("narrow", models=("base",))) as narrow:
        for name in ("tax", "none"):
            with refused(openai.BadRequestError, "model_not_found", f"{GRADER}.model", f"no model {name}, or this"):
                create(narrow, {**SCORE_MODEL, "model": name})


def test_a_job_in_deletion(client, team):
    """Somebody has deleted the job with kubectl, and it waits for a finalizer: it is no job to be handed out."""
    headers = {"Idempotency-Key": "notebook"}
    made = create(client, extra_headers=headers)
    team("patch", "rftjob", made.id, "--type=merge", '--patch={"metadata": {"finalizers": ["example.com/keep"]}}')
    team("delete", "rftjob", made.id, "--wait=false")
    jobs = client.fine_tuning.jobs
    calls = (
        lambda: create(client, extra_headers=headers), lambda: jobs.pause(made.id), lambda: jobs.resume(made.id),
        lambda: jobs.cancel(made.id),
    )  # fmt: skip
    for call in calls:
        with refused(openai.ConflictError, "job_in_deletion", None, f"Job {made.id} is being deleted"):
            call()
    team("patch", "rftjob", made.id, "--type=merge", '--patch={"metadata": {"finalizers": []}}')
    assert create(client, extra_headers=headers).id == made.id
    assert "deletionTimestamp" not in team.read("rftjob", made.id)["metadata"]


def test_a_limit_of_the_key(client, tuning_gateway, team):
    with connect(tuning_gateway, team.add_key("slow", limits=Limits(requests_per_minute=2))) as slow:
        made = create(slow)
        assert slow.fine_tuning.jobs.retrieve(made.id).id == made.id
        with refused(openai.RateLimitError, "rate_limit_exceeded", None, "Please try again in"):
            slow.fine_tuning.jobs.retrieve(made.id)
        with pytest.raises(openai.RateLimitError) as raised:
            upload(slow)
        assert int(raised.value.response.headers["retry-after"]) >= 1


def test_a_namespace_whose_administrator_has_made_a_mistake(client, team):
    team("patch", "configmap", "rft-fine-tuning", "--patch", json.dumps({"data": {"compute": "{gpus: 1}"}}))
    message = "Whoever administrates the namespace has to correct this: ConfigMap "
    with refused(openai.InternalServerError, "fine_tuning_misconfigured", None, message):
        create(client)


def test_a_store_of_files_that_is_away(tmp_path, kubeconfig, team, s3):
    environment = {**s3.environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    arguments = ("--fine-tuning", "--files", "s3://nothing/here", "--files-staging", str(tmp_path / "staging"))
    gateway = ClusterGateway(tmp_path / "gateway", kubeconfig, *arguments)
    gateway.environment |= environment
    with (
        gateway,
        connect(gateway, team.add_key("ci")) as client,
        refused(openai.InternalServerError, "files_unavailable", None, "Please try again"),
    ):
        upload(client)


class Killer(io.BytesIO):
    """The content of a file; in its middle the gateway is killed."""

    def __init__(self, content: bytes, gateway: Gateway):
        super().__init__(content)
        self._half = len(content) // 2
        self._gateway = gateway

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > self._half:
            self._gateway.kill()
        return super().read(size)


@pytest.fixture
def own_gateway(tmp_path: Path, kubeconfig: Path, team: Team) -> Iterator[ClusterGateway]:
    """A gateway that a test may kill."""
    team.enable_fine_tuning(data="['s3://data/']")
    arguments = ("--fine-tuning", "--files", str(tmp_path / "files"))
    gateway = ClusterGateway(tmp_path / "gateway", kubeconfig, *arguments)
    gateway.token = team.add_key("ci")
    with gateway:
        gateway.wait_until_ready()
        yield gateway


def test_a_gateway_that_is_killed_during_an_upload(own_gateway):
    content = data(200, 50_000)
    with connect(own_gateway, own_gateway.token) as client:
        with pytest.raises(openai.APIConnectionError) as raised:
            client.files.create(file=("train.jsonl", Killer(content, own_gateway)), purpose="fine-tune")
        assert type(raised.value) is openai.APIConnectionError
    own_gateway.start()
    with connect(own_gateway, own_gateway.token) as client:
        assert list(client.files.list()) == []
        assert client.files.content(upload(client, content).id).read() == content


def test_a_gateway_that_is_killed_while_it_creates_a_job(own_gateway, team):
    headers = {"Idempotency-Key": "notebook"}
    with connect(own_gateway, own_gateway.token) as client, ThreadPoolExecutor(1) as pool:
        own_gateway.process.send_signal(signal.SIGSTOP)
        asked = pool.submit(create, client, extra_headers=headers)
        own_gateway.kill()
        with pytest.raises(openai.APIConnectionError) as raised:
            asked.result()
        assert type(raised.value) is openai.APIConnectionError
    own_gateway.start()
    with connect(own_gateway, own_gateway.token) as client:
        made = create(client, extra_headers=headers)
        assert create(client, extra_headers=headers).id == made.id
        assert [job.id for job in client.fine_tuning.jobs.list()] == [made.id]
    assert len(team.read("rftjobs")["items"]) == 1


def test_a_gateway_that_does_not_answer_in_time(own_gateway):
    with connect(own_gateway, own_gateway.token) as client:
        made = create(client)
        own_gateway.process.send_signal(signal.SIGSTOP)
        try:
            hasty = client.with_options(timeout=HASTE_SECONDS)
            for call in (hasty.fine_tuning.jobs.list, lambda: create(hasty), lambda: upload(hasty)):
                with pytest.raises(openai.APITimeoutError):
                    call()
        finally:
            own_gateway.process.send_signal(signal.SIGCONT)
        assert client.fine_tuning.jobs.retrieve(made.id).id == made.id


def test_an_object_with_many_fields_is_refused_before_it_is_validated(client):
    many = {f"k{number}": 0 for number in range(1001)}
    said = "an object in the body has 1,001 fields, and may have at most 1,000"
    with refused(openai.BadRequestError, INVALID, None, said):
        create(client, metadata=many)
    with refused(openai.BadRequestError, INVALID, None, said):
        client.uploads.create(
            bytes=1, filename="a", mime_type="text/plain", purpose="fine-tune", extra_body={"a": many}
        )
