"""Starting: arguments, manifests that cannot work, code that cannot be loaded, and the manifest's own tests."""

import json
import subprocess
import sys

import httpx
import pytest
from support.patience import PATIENCE_SECONDS, wait_until
from typer.testing import CliRunner

from rft_cli.main import app
from rft_reward.main import main

CODE = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])} for s in event]
"""


TERM = {"name": "a", "http": {"url": "http://x", "tokenKey": "NO_SUCH"}}
DEEP: dict[str, object] = {}
for _ in range(400):
    DEEP = {"not": DEEP}

# What nobody accepts: the manifest is wrong wherever it is used.
REFUSED = [
    ({}, "set exactly one of python, builtin"),
    ({"python": {"source": CODE}, "builtin": {"name": "Math"}}, "set exactly one of"),
    (
        {"python": {"source": "def lambda_handler(:\n  pass"}},
        "spec.python.source: is not valid Python: invalid syntax (line 1",
    ),
    ({"python": {"source": "x = 1\ny = (\n"}}, "spec.python.source: is not valid Python: '(' was never closed (line 2"),
    ({"python": {"source": CODE + "return 1"}}, "is not valid Python: 'return' outside function (line 4"),
    ({"python": {"source": CODE + "def f(a, a): pass"}}, "is not valid Python: duplicate argument"),
    ({"python": {"source": "x = 1"}}, "defines no function lambda_handler"),
    ({"python": {"source": CODE, "handler": "grade"}}, "defines no function grade"),
    (
        {"python": {"source": "class A:\n  def lambda_handler(self, context): pass"}},
        "defines no function lambda_handler",
    ),
    ({"python": {"source": "x = '\0'"}}, "null bytes"),
    ({"python": {"source": "-" * 200_000 + "1"}}, "is not valid Python: it nests too deeply"),
    ({"python": {"source": CODE}, "timeout": "0s"}, "spec.timeout: must be at least 1s"),
    ({"python": {"source": CODE}, "sandbox": {"memory": "1"}}, "spec.sandbox.memory: must be at least 16Mi"),
    ({"python": {"source": CODE}, "replica": 2}, "spec.replica: unknown field; did you mean replicas?"),
    ({"http": {"url": "http://x", "batch_size": 2}}, "spec.http.batch_size: unknown field; did you mean batchSize?"),
    ({"builtin": {"name": "Maths"}}, "spec.builtin.name"),
    ({"builtin": {"name": "Format", "format": {"pattern": "("}}}, "spec.builtin.format.pattern: is not a regular"),
    ({"builtin": {"name": "ExactMatch", "exactMatch": {"pattern": "["}}}, "spec.builtin.exactMatch.pattern"),
    ({"builtin": {"name": "F1", "f1": {"pattern": "a{99999999999}"}}}, "spec.builtin.f1.pattern: is not a regular"),
    (
        {"builtin": {"name": "Format", "format": {"language": "qq"}}},
        "spec.builtin.format.language: qq is not a language",
    ),
    ({"builtin": {"name": "Code", "code": {"timeout": "4s"}}}, "spec.builtin.code.timeout: the timeout of Code, 3s by"),
    ({"builtin": {"name": "Code", "code": {"timeout": "0s"}}}, "spec.builtin.code.timeout: must be at least 1s"),
    ({"builtin": {"name": "Code"}, "timeout": "20s"}, "at most a tenth of spec.timeout"),
    (
        {"combine": {"terms": [{"name": "a", "builtin": {"name": "Code"}}]}, "timeout": "29s"},
        "spec.combine.terms[0].bu",
    ),
    ({"builtin": {"name": "Json", "json": {"jsonSchema": {"type": "objekt"}}}}, "spec.builtin.json.jsonSchema: $.type"),
    (
        {"builtin": {"name": "Json", "json": {"jsonSchema": {"$ref": "#/a"}}}},
        "jsonSchema: refers to #/a, which it does",
    ),
    ({"builtin": {"name": "Json", "json": {"jsonSchema": {"not": {"$ref": "http://x/y"}}}}}, "refers to http://x/y, w"),
    ({"builtin": {"name": "Json", "json": {"jsonSchema": {"pattern": "a{99999999999}"}}}}, "jsonSchema: holds a patt"),
    ({"builtin": {"name": "Json", "json": {"jsonSchema": DEEP}}}, "is nested more than 100 levels deep (line 1)"),
    ({"http": {"url": "http://"}}, "spec.http.url"),
    ({"http": {"url": "http://x y"}}, "spec.http.url: is not a URL"),
    ({"http": {"url": "http://x:99999999"}}, "spec.http.url: is not a URL"),
    ({"http": {"url": "http://x", "headers": {"a b": "PATH"}}}, "headers.a b: is not a header"),
    ({"http": {"url": "http://x", "headers": {"Host": "PATH"}}}, "headers.Host: is not a header"),
    ({"lambda": {"functionArn": "arn:aws:s3:::bucket"}}, "spec.lambda.functionArn"),
    ({"judge": {"template": "Reasoning", "model": {"url": "http://x"}}}, "name goes with url"),
    (
        {"judge": {"template": "Reasoning", "model": {"url": "http:// x", "name": "m"}}},
        "spec.judge.model.url: is not a",
    ),
    ({"judge": {"template": "Reasoning", "votes": 2, "model": {"url": "http://x", "name": "m"}}}, "votes must be odd"),
    ({"combine": {"terms": [{"name": "a", "python": {"source": "x"}}]}}, "spec.combine.terms[0].python.source"),
    (
        {"openai": {"grader": {"type": "python", "name": "a", "source": "x"}}},
        "spec.openai.grader.source: defines no fu",
    ),
    ({"python": {"source": CODE}, "sandbox": {"readable": ["words"]}}, "spec.sandbox.readable[0]"),
    (
        {
            "python": {"source": CODE},
            "tests": [{"prompt": "", "completion": "", "expect": {"minimum": "1", "maximum": "0"}}],
        },
        "spec.tests[0].expect: minimum must not be above maximum",
    ),
]
# What only the machine lacks that is to score: a cluster may have it.
LACKING = [
    ({"http": {"url": "http://x", "tokenKey": "NO_SUCH"}}, "spec.http.tokenKey: there is no variable NO_SUCH"),
    ({"http": {"url": "http://x", "caKey": "PATH"}}, "spec.http.caKey: PATH holds no certificate in PEM"),
    ({"combine": {"terms": [TERM]}}, "spec.combine.terms[0].http.tokenKey"),
    (
        {"python": {"source": CODE}, "sandbox": {"readable": ["/", "/no/such/words"]}},
        "spec.sandbox.readable[1]: /no/such/words does not exist",
    ),
]
# What those that start the server replace before.
UNRESOLVED = [
    ({"python": {"sourceFrom": {"configMap": {"name": "a", "key": "b"}}}}, "spec.python.sourceFrom"),
    (
        {"judge": {"template": "Reasoning", "model": {"endpoint": "e"}}},
        "spec.judge.model.endpoint: must have been replaced by url",
    ),
]


@pytest.mark.parametrize(("spec", "message"), [*REFUSED, *LACKING, *UNRESOLVED])
def test_manifests_that_cannot_work_end_with_10(tmp_path, function_file, capsys, spec, message):
    file = function_file(tmp_path / "function.json", spec)
    assert main(["--function", str(file), "--port", "0"]) == 10
    output = capsys.readouterr()
    assert message in output.err
    assert not output.out


@pytest.mark.parametrize(("command", "cases"), [("validate", REFUSED), ("score", [*REFUSED, *LACKING])])
def test_the_command_line_refuses_them_with_the_same_sentences(tmp_path, function_file, capsys, command, cases):
    for number, (spec, _) in enumerate(cases):
        file = function_file(tmp_path / f"{number}.json", spec)
        main(["--function", str(file), "--port", "0"])
        refusal = capsys.readouterr().err
        result = CliRunner().invoke(app, [command, str(file), *(["no-completions"] if command == "score" else [])])
        # The command line marks a sentence that names no line as an error, because it has others to print.
        assert (result.exit_code, result.stderr.removeprefix("error: ")) == (10, refusal)


@pytest.mark.parametrize(("spec", "message"), LACKING)
def test_what_a_machine_lacks_is_no_fault_of_the_manifest(tmp_path, function_file, spec, message):
    result = CliRunner().invoke(app, ["validate", str(function_file(tmp_path / "function.json", spec))])
    assert result.exit_code == 0, result.stderr


def test_exit_code_and_no_traceback(tmp_path, function_file):
    command = [sys.executable, "-m", "rft_reward", "--function", function_file(tmp_path / "function.json", {})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 10
    assert "Traceback" not in done.stderr


def test_files_and_arguments_that_cannot_work_end_with_10(tmp_path, function_file, capsys):
    function = function_file(tmp_path / "function.json", {"python": {"source": CODE}})
    empty = tmp_path / "empty"
    empty.write_text("\n")
    two = tmp_path / "two.yaml"
    two.write_text(f"{function.read_text()}\n---\n{function.read_text().replace('test', 'other')}")
    for arguments, message in (
        (["--function", tmp_path / "absent"], "No such file"),
        (["--function", empty], "exactly one RewardFunction, but contains 0"),
        (["--function", two], "exactly one RewardFunction, but contains 2"),
        (["--function", function, "--host", "0.0.0.0"], "loopback addresses only"),
        (["--function", function, "--token-file", empty], "is empty"),
        (["--function", function, "--token-file", tmp_path / "absent"], "No such file"),
        (["--function", function, "--host", "203.0.113.1", "--token-file", function], "cannot listen there"),
    ):
        assert main([*map(str, arguments), "--port", "0"]) == 10
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "__import__('no_such_module')\n" + CODE,
            "ModuleNotFoundError: No module named 'no_such_module' (reward.py, line 1)",
        ),
        ("\nx = 1 / 0\n" + CODE, "ZeroDivisionError: division by zero (reward.py, line 2)"),
        ("lambda_handler = 3", "defines no function lambda_handler"),
        ("x = bytearray(1 << 40)\n" + CODE, "raise spec.sandbox.memory"),
        ("import os\nos._exit(4)\n" + CODE, "exit code 4"),
        ("raise SystemExit(2)\n" + CODE, "SystemExit(2)"),
        ("raise ValueError('half \\ud800')\n" + CODE, "ValueError: half ?"),
        (
            "import os\nfor n in range(3, 64):\n  try: os.write(n, b'0' * 99)\n  except OSError: pass\n" + CODE,
            "garbled",
        ),
        ("import socket\nsocket.socket()\n" + CODE, "PermissionError: [Errno 13]"),
    ],
)
def test_code_that_cannot_be_loaded_leaves_the_server_not_ready(start_server, build_sample, source, message):
    server = start_server({"sandbox": {"processes": 1}, "python": {"source": source}})
    server.wait_not_ready(message)
    response = server.client.post("/v1/score", json=[build_sample("a", "x")])
    assert response.status_code == 503
    assert message in response.json()["error"]
    assert server.client.get("/healthz").status_code == 200
    assert server.stop() == 0


def test_ready_only_when_the_manifests_tests_pass(start_server):
    tests = [
        {"prompt": "p", "completion": "four", "expect": {"minimum": "4", "maximum": "4"}},
        {"prompt": "p", "completion": "four", "expect": {"maximum": "0.5"}},
        {"prompt": "p", "completion": "four", "expect": {"minimum": "5"}},
    ]
    server = start_server({"python": {"source": CODE}, "tests": tests})
    text = server.wait_not_ready("test 2")
    assert text.splitlines() == [
        "test 2 (spec.tests[1]): expected a reward of at most 0.5, got 4",
        "test 3 (spec.tests[2]): expected a reward of at least 5, got 4",
    ]
    assert server.client.post("/v1/score", json=[]).status_code == 503
    ready = start_server({"python": {"source": CODE}, "tests": tests[:1]}).wait_ready()
    assert ready.score_one("x")["aggregate_reward_score"] == 1.0


def test_tests_that_all_score_the_same_say_so(start_server):
    source = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": float("label" in s["metadata"])} for s in event]
"""
    tests = [
        {"prompt": "p", "completion": "good", "referenceAnswer": "good", "expect": {"minimum": "1"}},
        {"prompt": "p", "completion": "bad", "referenceAnswer": "good", "expect": {"maximum": "0"}},
    ]
    text = start_server({"python": {"source": source}, "tests": tests}).wait_not_ready("test 1")
    assert text.startswith(
        "test 1 (spec.tests[0]): expected a reward of at least 1, got 0; spec.tests: all 2 completions"
    )
    assert 'the completion "good" with reference_answer "good" scored 0' in text
    passing = [{**test, "expect": {"maximum": "0"}} for test in tests]
    server = start_server({"python": {"source": source}, "tests": passing}).wait_ready()
    assert "WARNING spec.tests: all 2 completions scored 0, although 2 of them differ" in server.log()


def test_tests_that_failed_are_tried_again(start_server):
    source = """
calls = []
def lambda_handler(event, context):
    calls.append(1)
    return [{"id": s["id"], "aggregate_reward_score": len(calls) - 1} for s in event]
"""
    tests = [{"prompt": "p", "completion": "c", "expect": {"minimum": "1"}}]
    server = start_server({"sandbox": {"processes": 1}, "python": {"source": source}, "tests": tests})
    server.wait_ready()
    assert "test 1 (spec.tests[0]): expected a reward of at least 1, got 0" in server.log()


def test_a_test_that_cannot_be_scored_says_why(start_server):
    source = "def lambda_handler(event, context):\n    return [event[0]['metadata']['topic'], 1 / 0]"
    test = {"prompt": "p", "completion": "c", "metadata": {"topic": "tax"}, "expect": {"minimum": "1"}}
    text = start_server({"python": {"source": source}, "tests": [test]}).wait_not_ready("could not be scored")
    assert "ZeroDivisionError: division by zero (reward.py, line 2, in lambda_handler)" in text


def test_yaml_and_no_token_on_loopback(tmp_path):
    file = tmp_path / "function.yaml"
    file.write_text(
        "apiVersion: rft.dev/v1alpha1\nkind: RewardFunction\nmetadata: {name: yaml}\n"
        "spec: {builtin: {name: Format, format: {contains: [x]}}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "rft_reward", "--function", str(file), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = process.stdout.readline().split()[-1]
    client = httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False)
    wait_until(lambda: client.get("/readyz").status_code == 200)
    body = [{"id": "a", "messages": [{"role": "assistant", "content": "x"}]}]
    assert json.loads(client.post("/v1/score", json=body).content)[0]["aggregate_reward_score"] == 1.0
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 0


def test_what_only_remote_graders_need_is_loaded_for_them_alone():
    code = "import sys, rft_reward.main, rft_reward.server; print({'httpx', 'boto3', 'botocore'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
