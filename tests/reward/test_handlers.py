"""Handlers as they are published for Amazon Bedrock, Amazon Nova and AWS Lambda: they run as they are."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from support.services import Answer, Service

from rft_api.python_source import call_problem, source_problem

WRAPPED = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": score(s)} for s in event]

def score(s):
    a = s["reference_answer"]
    truth = a.get("text", "") if isinstance(a, dict) else ""
    assert s["metadata"]["reference_answer"] == a
    return float(bool(truth) and truth in s["messages"][-1]["content"])
"""


@pytest.mark.parametrize(("form", "score"), [(None, 0.0), ("AsText", 0.0), ("AsObject", 1.0)])
def test_a_text_answer_reaches_the_handler_in_the_form_that_it_reads(server_for, form, score):
    python = {"source": WRAPPED, **({} if form is None else {"textReferenceAnswer": form})}
    server = server_for({"timeout": "20s", "python": python})
    assert server.score_one("2 * 3\n#### 6", "#### 6")["aggregate_reward_score"] == score
    assert server.score_one("2 * 3\n#### 6", {"text": "#### 6"})["aggregate_reward_score"] == 1.0


@pytest.mark.parametrize(
    ("builtin", "completion", "text"),
    [
        ({"name": "Math"}, "#### 6", "2 * 3 = 6\n#### 6"),
        ({"name": "ExactMatch"}, "Paris", "Paris"),
        ({"name": "F1"}, "b, a", "a, b"),
        ({"name": "Json"}, '{"a": 1}', '{"a": 1}'),
        ({"name": "Rouge"}, "the cat", "the cat"),
        ({"name": "Bleu"}, "the cat sat on it", "the cat sat on it"),
        ({"name": "ChrF"}, "the cat", "the cat"),
        ({"name": "Code"}, "def f(x): return x", "assert f(1) == 1"),
    ],
)
def test_builtins_read_a_text_answer_in_an_object(server_for, builtin, completion, text):
    server = server_for({"timeout": "80s", "builtin": builtin})
    assert server.score_one(completion, {"text": text})["aggregate_reward_score"] == pytest.approx(1.0)


def test_an_object_with_a_field_called_text_is_compared_as_an_object(server_for):
    server = server_for({"timeout": "80s", "builtin": {"name": "Json"}})
    assert server.score_one('{"text": "12"}', {"text": "12"})["aggregate_reward_score"] == 1.0
    assert server.score_one("12", {"text": "12"})["aggregate_reward_score"] == 0.0


def start_before_service(start_server, kind, **fields):
    """A reward server with a reward of a kind, http or lambda, and the service that this reward asks."""
    service = Service(lambda asked: Answer([{"id": s["id"], "aggregate_reward_score": 1} for s in asked.json()]))
    spec = {"url": service.url} if kind == "http" else {"functionArn": "arn:aws:lambda:eu-west-1:1:function:g"}
    environment = {
        "AWS_ENDPOINT_URL_LAMBDA": service.url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = start_server({"timeout": "30s", kind: {**spec, **fields}}, environment=environment)
    return server, service


@pytest.mark.parametrize(("form", "answer"), [("AsText", "#### 6"), ("AsObject", {"text": "#### 6"})])
@pytest.mark.parametrize("kind", ["lambda", "http"])
def test_services_get_the_same_form_and_lambdas_the_fields_at_the_top(start_server, kind, form, answer):
    server, service = start_before_service(start_server, kind, textReferenceAnswer=form)
    server.wait_ready().score_one("6", "#### 6", {"level": 3, "id": "of the row"})
    (sample,) = service.asked[0].json()
    assert sample["reference_answer"] == sample["metadata"]["reference_answer"] == answer
    assert sample["id"] == "one"
    assert sample.get("level") == (3 if kind == "lambda" else None)
    service.close()


RAISES = """
import json
def lambda_handler(event, context):
    return [
        {"id": s["id"], "aggregate_reward_score": float(json.loads(s["messages"][-1]["content"])["k"])} for s in event
    ]
"""
GRADE = 'def grade(sample, item): return float(sample["output_json"]["k"] == 1)'
OPENAI = {"grader": {"type": "python", "name": "g", "source": GRADE}}
TEXTS = ('{"k": 1}', "no json", '{"k": 0}')


@pytest.mark.parametrize(
    ("spec", "scores", "error"),
    [
        ({"python": {"source": RAISES}}, [1.0, None, 0.0], "JSONDecodeError"),
        ({"python": {"source": RAISES, "onError": "Unscored"}}, [1.0, None, 0.0], "JSONDecodeError"),
        ({"python": {"source": RAISES, "onError": "Zero"}}, [1.0, 0.0, 0.0], "JSONDecodeError"),
        ({"openai": OPENAI}, [1.0, 0.0, 0.0], "TypeError: 'NoneType'"),
        ({"openai": {**OPENAI, "onError": "Zero"}}, [1.0, 0.0, 0.0], "TypeError: 'NoneType'"),
        ({"openai": {**OPENAI, "onError": "Unscored"}}, [1.0, None, 0.0], "TypeError: 'NoneType'"),
        (
            {"combine": {"terms": [{"name": "a", "weight": "2", "python": {"source": RAISES, "onError": "Zero"}}]}},
            [2.0, 0.0, 0.0],
            "term a: the code raised JSONDecodeError",
        ),
    ],
)
def test_an_exception_scores_what_the_manifest_says_and_is_counted(server_for, build_sample, spec, scores, error):
    server = server_for({"timeout": "20s", **spec})
    zeros, failures = (
        'rft_reward_sample_warnings_total{reason="ErrorScoredZero"}',
        'rft_reward_samples_total{outcome="failed"}',
    )
    before = server.metric(zeros), server.metric(failures)
    rows = server.score([build_sample(text, text) for text in TEXTS])
    assert [row["aggregate_reward_score"] for row in rows] == scores
    after = server.metric(zeros), server.metric(failures)
    if scores[1] is None:
        assert error in rows[1]["error"]
        assert after == (before[0], before[1] + 1)
    else:
        (warning,) = rows[1]["warnings"]
        assert warning["reason"] == "ErrorScoredZero"
        assert error in warning["message"]
        assert after == (before[0] + 1, before[1])
    assert "warnings" not in rows[0]


def test_time_limits_never_score_zero(server_for, build_sample):
    source = """
def lambda_handler(event, context):
    while any("hang" in s["messages"][-1]["content"] for s in event): pass
    return [{"id": s["id"], "aggregate_reward_score": 1} for s in event]
"""
    server = server_for({"timeout": "4s", "python": {"source": source, "onError": "Zero"}})
    rows = server.score([build_sample("a", "hang"), build_sample("b", "")])
    assert [row["aggregate_reward_score"] for row in rows] == [None, 1.0]


LAMBDA = """
import os
assert os.environ["AWS_REGION"] == os.environ["AWS_DEFAULT_REGION"]
TABLE = os.environ["AWS_LAMBDA_FUNCTION_NAME"] + "-table"

async def grade(sample):
    return sample["level"] + sample["metadata"]["level"]

async def lambda_handler(event, context):
    assert TABLE == context.function_name + "-table"
    assert os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == str(context.memory_limit_in_mb)
    return [{"id": s["id"], "aggregate_reward_score": await grade(s)} for s in event]
"""


@pytest.mark.parametrize("handler", ["lambda_handler", "lambda_function.lambda_handler", "src/reward.lambda_handler"])
@pytest.mark.parametrize("namespaces", [True, False])
def test_habits_of_lambdas(server_for, handler, namespaces):
    server = server_for({"timeout": "20s", "python": {"source": LAMBDA, "handler": handler}}, namespaces=namespaces)
    assert server.score_one("x", None, {"level": 2})["aggregate_reward_score"] == 4.0


def test_an_async_handler_is_interrupted_in_time(server_for, build_sample):
    source = """
import asyncio
async def lambda_handler(event, context):
    await asyncio.sleep(60 if len(event[0]["messages"][-1]["content"]) > 3 else 0)
    return [{"id": s["id"], "aggregate_reward_score": 1} for s in event]
"""
    server = server_for({"timeout": "4s", "python": {"source": source}})
    assert "scoring took more than" in server.score_one("long")["error"]
    assert server.score_one("x")["aggregate_reward_score"] == 1.0


def test_a_field_of_the_row_never_replaces_one_of_the_sample(handler):
    source = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": float(s["messages"][-1]["content"])} for s in event]
"""
    row = handler(source).score_one("7", None, {"id": "other", "messages": [], "metadata": 3})
    assert row["aggregate_reward_score"] == 7.0


def test_the_role_of_data_for_nova_is_the_assistants(handler):
    source = """
def lambda_handler(event, context):
    right = event[0]["messages"][-1]["role"] in ("assistant", "nova_assistant")
    return [{"id": s["id"], "aggregate_reward_score": int(right)} for s in event]
"""
    sample = {"id": "a", "messages": [{"role": "nova_assistant", "content": "x"}]}
    assert handler(source).score([sample])[0]["aggregate_reward_score"] == 1.0


# As published for Amazon Nova: a sample whose last message has another role gets no row.
NOVA = """
def lambda_handler(event, context):
    rows = []
    for s in event:
        last = s["messages"][-1]
        if last["role"] != "nova_assistant" or s["messages"][0]["role"] == "nova_assistant":
            print("last message is not from assistant")
            continue
        rows.append({"id": s["id"], "aggregate_reward_score": float(last["content"] == s["reference_answer"])})
    return rows
"""


@pytest.mark.parametrize(("role", "scores"), [(None, [None, None]), ("assistant", [None, None]),
                                              ("nova_assistant", [1.0, 0.0])])  # fmt: skip
def test_the_completion_has_the_role_that_the_handler_looks_for(server_for, build_sample, role, scores):
    python = {"source": NOVA, **({} if role is None else {"assistantRole": role})}
    server = server_for({"timeout": "20s", "python": python})
    turn = {"role": "assistant", "content": "an earlier turn"}
    samples = [build_sample(text, text, "6") for text in ("6", "7")]
    samples = [{**sample, "messages": [turn, *sample["messages"]]} for sample in samples]
    assert [row["aggregate_reward_score"] for row in server.score(samples)] == scores


@pytest.mark.parametrize("kind", ["lambda", "http"])
def test_services_get_the_role_that_they_look_for(start_server, kind):
    server, service = start_before_service(start_server, kind, assistantRole="nova_assistant")
    server.wait_ready().score_one("6", "6")
    (sample,) = service.asked[0].json()
    assert sample["messages"][-1] == {"role": "nova_assistant", "content": "6"}
    service.close()


def test_rows_that_are_no_objects_are_said(handler):
    source = """
from dataclasses import dataclass

@dataclass
class Row:
    id: str
    aggregate_reward_score: float

def lambda_handler(event, context):
    return [Row(s["id"], 1.0) for s in event]
"""
    error = handler(source).score_one("7", None)["error"]
    assert error == (
        "the handler returned no row with this id; 1 of its rows have no id "
        "(the first: the row is not JSON: Object of type Row is not JSON serializable)"
    )


# As published: for a sample without an answer it appends a row, and goes on.
FORGOTTEN_CONTINUE = """
def lambda_handler(event, context):
    rows = []
    for s in event:
        if s["reference_answer"] is None:
            rows.append({"id": s["id"], "aggregate_reward_score": 0.0})
        rows.append({"id": s["id"], "aggregate_reward_score": 1.0})
    return rows
"""


def test_two_rows_for_a_null_answer_are_explained_by_the_answer(handler, build_sample):
    rows = handler(FORGOTTEN_CONTINUE).score([build_sample("null", "x"), build_sample("text", "x", "y")])
    assert rows[0]["error"] == ("the sample has no reference_answer, and the handler returned this id more than once")
    assert rows[1]["aggregate_reward_score"] == 1.0


TEMPORARY = """
import tempfile
def lambda_handler(event, context):
    with tempfile.NamedTemporaryFile("w+") as file, tempfile.TemporaryDirectory() as folder:
        file.write("x")
        file.flush()
        open(folder + "/y", "w").close()
        size = len(open(file.name).read())
    return [{"id": s["id"], "aggregate_reward_score": size} for s in event]
"""
SLASH_TMP = """
import os
def lambda_handler(event, context):
    with open("/tmp/rft-cache.json", "a") as file:
        file.write("x")
    return [{"id": s["id"], "aggregate_reward_score": os.stat("/tmp/rft-cache.json").st_size} for s in event]
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_temporary_files(server_for, namespaces):
    server = server_for({"timeout": "20s", "python": {"source": TEMPORARY}}, namespaces=namespaces)
    assert server.score_one("x")["aggregate_reward_score"] == 1.0
    server = server_for({"timeout": "20s", "python": {"source": SLASH_TMP}}, namespaces=namespaces)
    row = server.score_one("x")
    if server.layer("namespaces"):  # a /tmp of its own, as in AWS Lambda
        assert row["aggregate_reward_score"] >= 1.0
        assert not Path("/tmp/rft-cache.json").exists()
    else:
        assert "/tmp is closed to the code here: use tempfile.gettempdir() (reward.py, line 4" in row["error"]


@pytest.fixture
def open_folder():
    """A folder below /tmp that every user may read, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="rft-readable-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_what_the_code_may_read_below_tmp_stays_there(server_for, open_folder):
    (open_folder / "words").mkdir()
    (open_folder / "words" / "a").write_text("12")
    (open_folder / "more").write_text("30")
    (open_folder / "secret").write_text("x")
    source = f"""
from pathlib import Path
def lambda_handler(event, context):
    score = int(Path("{open_folder}/words/a").read_text()) + int(Path("{open_folder}/more").read_text())
    for name in ("words/a", "more", "words/b"):
        try:
            Path("{open_folder}", name).write_text("0")
        except OSError:
            score += 100
    try:
        Path("{open_folder}/secret").read_text()
    except OSError:
        score += 1000
    return [{{"id": s["id"], "aggregate_reward_score": score}} for s in event]
"""
    readable = [str(open_folder / "words"), str(open_folder / "more")]
    spec = {"timeout": "20s", "sandbox": {"readable": readable}, "python": {"source": source}}
    for namespaces in (True, False):
        server = server_for(spec, namespaces=namespaces)
        if server.metric("rft_reward_isolated"):
            assert server.score_one("x")["aggregate_reward_score"] == 1342.0
    assert (open_folder / "more").read_text() == "30"


def test_an_f_string_of_python_3_12_is_named():
    source = 'def lambda_handler(event, context):\n    return f"{event["id"]}"\n'
    problem = source_problem(source, "lambda_handler")
    if sys.version_info >= (3, 12):
        assert problem is None
    else:
        assert "this is Python 3.11, and the f-string may need Python 3.12 (line 2 of the text)" in str(problem)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "def f(event): ...",
            "f takes (event), but it is called with two arguments: (event, context) (line 1 of the text)",
        ),
        ("def f(): ...", "f takes ()"),
        ("def f(a, b, c): ...", "f takes (a, b, c)"),
        ("def f(completions, **columns): ...", "f takes (completions, **columns)"),
        ("def f(a, *, b): ...", "f takes (a, *, b)"),
        ("def f(a, b, *, c): ...", "f takes (a, b, *, c)"),
        ("async def f(event): ...", "f takes (event)"),
        ("def f(a, b): ...", None),
        ("def f(a, b=None): ...", None),
        ("def f(a, b, c=1, *, d=2): ...", None),
        ("def f(a, /, b): ...", None),
        ("def f(*everything): ...", None),
        ("def f(a, *rest): ...", None),
        # What the code does not show is left to the first call.
        ("@with_context\ndef f(a): ...", None),
        ("def f(a): ...\nf = wrapped(f)", None),
        ("if True:\n    def f(a): ...", None),
        ("from more import f", None),
        ("def g(f): ...\ndef f(a, b): ...", None),
    ],
)
def test_a_function_that_cannot_be_called_with_two_arguments(source, problem):
    found = call_problem(source, "f", "event, context")
    assert found is None if problem is None else str(found).startswith(problem)
