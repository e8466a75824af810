"""OpenAI's graders: what their JSON may hold, templates and formulas, scores through the server, and asked models."""

import http.server
import json
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.services import Answer

from rft_api.openai_formula import parse_formula
from rft_api.openai_reward import OpenAIReward
from rft_api.openai_template import parse_template
from rft_api.reward_checks import reward_problems
from rft_api.reward_function import RewardFunction
from rft_reward.graders.openai_formula import compute
from rft_reward.graders.openai_values import NotInCompletion, Values
from rft_reward.graders.term import Unscorable

CHECK = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference_answer }}",
    "operation": "eq",
}
SIMILARITY = {**CHECK, "type": "text_similarity", "evaluation_metric": "rouge_l"}
del SIMILARITY["operation"]
SCORE_MODEL = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-any",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }} against {{ item.reference_answer }}."}],
}
LABEL_MODEL = {**SCORE_MODEL, "type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}


def multi(formula, **graders):
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


def python(source):
    return {"type": "python", "name": "code", "source": source}


@pytest.mark.parametrize(
    ("grader", "place", "problem"),
    [
        ({**CHECK, "operation": "equal"}, "string_check.operation", "'eq', 'ne', 'neq', 'like' or 'ilike'"),
        ({**CHECK, "input": "{{ sample.output_tools[0].function.name }}"}, "string_check.input", "hold no tool calls"),
        (
            {**CHECK, "reference": "{{ sample.choices[0].message.tool_calls }}"},
            "string_check.reference",
            "{{ sample.choices[0].message.tool_calls }}: completions hold no tool calls here",
        ),
        (
            multi("a", a={**CHECK, "input": "{{ sample.output_tools[0].function.name }}"}),
            "multi.graders.a.string_check.input",
            "{{ sample.output_tools[0].function.name }}: completions hold no tool calls here",
        ),
        (
            {**SCORE_MODEL, "sampling_params": {"max_tokens": 5, "max_completions_tokens": 5}},
            "score_model.sampling_params",
            "set one",
        ),
        (
            {**SCORE_MODEL, "sampling_params": {"max_completion_tokens": 5, "max_completions_tokens": 5}},
            "score_model.sampling_params",
            "max_completion_tokens and max_completions_tokens are the same: set one",
        ),
        (
            {**multi("a"), "graders": [{**CHECK, "name": "a"}, {**CHECK, "name": "a"}]},
            "multi.graders",
            "each grader of the list needs a name of its own",
        ),
        (
            {**multi("a"), "graders": [{**CHECK, "name": "my check"}]},
            "multi.graders",
            "my check cannot be used as a name in a formula",
        ),
        ({**CHECK, "pass": 1}, "string_check.pass", "Extra inputs"),
        ({**CHECK, "input": "{{ sample.text }}"}, "string_check.input", "sample has output_text, output_json"),
        ({**CHECK, "input": "{{ answer }}"}, "string_check.input", "write item.NAME or sample.NAME"),
        ({**CHECK, "input": "{{ item.a + 1 }}"}, "string_check.input", "is not understood"),
        ({**SIMILARITY, "evaluation_metric": "meteor"}, "text_similarity.evaluation_metric", "needs the WordNet data"),
        (multi("a", a=multi("b", b=CHECK)), "multi.graders.a", "does not match any of the expected tags"),
        (multi("b", a=CHECK), "multi.calculate_output", "there is no grader b; there is a"),
        (multi("1", **{"a-b": CHECK}), "multi.graders", "a-b cannot be used as a name in a formula"),
        (multi("max", max=CHECK), "multi.graders", "max cannot be used as a name in a formula"),
        (multi("x" * 129, **{"x" * 129: CHECK}), "multi.graders", "cannot be used as a name in a formula"),
        ({**SCORE_MODEL, "range": [1, 0]}, "score_model.range", "the smallest and the largest score"),
        ({**SCORE_MODEL, "input": []}, "score_model.input", "at least 1"),
        (
            {**SCORE_MODEL, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "score_model.input.0.content",
            "images and audio",
        ),
        ({**LABEL_MODEL, "passing_labels": ["best"]}, "label_model.passing_labels", "best is not among labels"),
        ({"type": "regex"}, "", "does not match any"),
        ({"type": "lambda", "lambda": {"function": "arn"}}, "", "is spec.lambda here: set its functionArn"),
        ({"type": "endpoint", "url": "https://x"}, "", "is spec.http here: set the url of your server"),
    ],
)
def test_wrong_graders_are_refused(grader, place, problem):
    with pytest.raises(ValidationError) as refused:
        OpenAIReward.model_validate({"grader": grader, "model": {"url": "http://x", "name": "m"}})
    error = refused.value.errors()[0]
    assert ".".join(map(str, error["loc"])) == ("grader." + place).rstrip(".")
    assert problem in error["msg"]


@pytest.mark.parametrize("place", ["", "graders.code."])
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def score(sample, item): pass", "defines no function grade"),
        ("def grade(sample): pass", "grade takes (sample), but it is called with two arguments: (sample, item)"),
        ("def grade(:", "is not valid Python: invalid syntax (line 1"),
        ("return 1\ndef grade(sample, item): pass", "is not valid Python: 'return' outside function (line 1"),
    ],
)
def test_wrong_code_of_graders_is_refused(source, problem, place):
    grader = multi("code", code=python(source)) if place else python(source)
    function = RewardFunction.model_validate({"metadata": {"name": "r"}, "spec": {"openai": {"grader": grader}}})
    ((document, violation),) = reward_problems(function, {})
    assert document == ("RewardFunction", "r")
    assert str(violation).startswith(f"spec.openai.grader.{place}source: {problem}")


def test_a_model_is_needed_where_one_is_asked():
    with pytest.raises(ValidationError, match="set model: score_model and label_model ask one"):
        OpenAIReward.model_validate({"grader": multi("a + b", a=CHECK, b=SCORE_MODEL)})


def test_a_model_for_embeddings_is_needed_where_they_are_compared():
    cosine = {**SIMILARITY, "evaluation_metric": "cosine"}
    with pytest.raises(ValidationError, match="set embeddings: text_similarity with cosine asks a model for them"):
        OpenAIReward.model_validate({"grader": cosine})
    with pytest.raises(ValidationError, match="embeddings come from an OpenAI-compatible API: set url and name"):
        OpenAIReward.model_validate({"grader": cosine, "embeddings": {"endpoint": "e"}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("a + 2 * b", 1.5),
        ("(a + b) / 2", 0.5),
        ("2 * a ^ 2 + 1", 1.5),
        ("2 ^ 3 ^ 2", 512.0),
        ("2 ** 3", 8.0),
        ("-a ^ 2", -0.25),
        ("- a - -b + +a", 0.5),
        ("min(a, b, 0.1) + max(a)", 0.6),
        ("abs(-a) + floor(1.5) + ceil(1.5)", 3.5),
        ("exp(0) + sqrt(4) + log(1)", 3.0),
        ("\n  a\n  + b\n", 1.0),
    ],
)
def test_formulas(text, value):
    assert compute(parse_formula(text, ["a", "b"]), {"a": 0.5, "b": 0.5}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "a +", "c", "a if b else a", "a and b", "a < b", "a % b", "a // b", "[a]", "'a'", "a.b", "a()", "min()",
        "log(a, b)", "min(*a)", "min(a, key=b)", "__import__('os')", "lambda: a", "a := b", "True", "1j", "a b",
        "f'{a}'", "(" * 500 + "a" + ")" * 500, "-" * 5000 + "a", "1" + "0" * 400,
    ],
)  # fmt: skip
def test_formulas_that_are_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_formula(text, ["a", "b"])


@pytest.mark.parametrize(
    "text", ["1 / (a - a)", "log(a - a)", "sqrt(0 - a)", "(0 - a) ^ 0.5", "exp(1000)", "9 ^ 9 ^ 9"]
)
def test_formulas_without_a_value_are_errors(text):
    with pytest.raises(Unscorable, match="calculate_output"):
        compute(parse_formula(text, ["a"]), {"a": 0.5})


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="ab01.+-*/^(), minmaxlogsqrt", max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_formulas_have_a_finite_value_or_are_refused(text, a, b):
    try:
        value = compute(parse_formula(text, ["a", "b"]), {"a": a, "b": b})
    except (ValueError, Unscorable):
        return
    assert math.isfinite(value)


TOOLS = [{"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain { } }}", "plain { } }}"),
        ("{{sample.output_text}}", '{"a": [1, {"b c": "é"}], "n": null}'),
        ("[{{ item.reference_answer }}] {{  item.level }}", "[gold] 3"),
        ("{{ item.tags[1] }} {{ item.tags }}", 'y ["x", "y"]'),
        ("{{ sample.output_json.a[1]['b c'] }} {{ sample.output_json.a }}", 'é [1, {"b c": "é"}]'),
        ("{{ sample.output_tools[0].function.name }}", "find"),
        ("{{ sample.choices[0].message.role }}", "assistant"),
        ("{{ item.messages[0].content }}", "question"),
        ("{{ item.nothing }} {{ sample.output_json.n }}", "null null"),
    ],
)
def test_templates(template, text):
    answer = {"role": "assistant", "content": '{"a": [1, {"b c": "é"}], "n": null}', "tool_calls": TOOLS}
    sample = {
        "messages": [{"role": "user", "content": "question"}, answer],
        "reference_answer": "gold",
        "metadata": {"level": 3, "tags": ["x", "y"], "nothing": None},
    }
    assert Values(sample).render(parse_template(template)) == [text]


@pytest.mark.parametrize(
    ("template", "error", "text"),
    [
        ("{{ item.missing }}", Unscorable, "the data row has no item.missing"),
        ("{{ item.reference_answer.a }}", Unscorable, "item.reference_answer.a"),
        ("{{ item.tags[7] }}", Unscorable, r"item.tags\[7\]"),
        ("{{ sample.output_json.a }}", NotInCompletion, "no sample.output_json"),
        ("{{ sample.output_json.a }} {{ item.missing }}", Unscorable, "the data row has no item.missing"),
        ("{{ sample.output_json }}", NotInCompletion, "no sample.output_json"),
        ("{{ sample.output_tools[0] }}", NotInCompletion, r"no sample.output_tools\[0\]"),
    ],
)
def test_values_that_are_missing(template, error, text):
    sample = {
        "messages": [{"role": "assistant", "content": "no JSON"}],
        "reference_answer": "a",
        "metadata": {"tags": []},
    }
    with pytest.raises(error, match=text):
        Values(sample).render(parse_template(template))


@pytest.fixture(scope="module")
def grader(server_for):
    return lambda grader, **more: server_for({"timeout": "12s", "openai": {"grader": grader, **more}})


@pytest.mark.parametrize(
    ("operation", "completion", "score"),
    [
        ("eq", "Paris", 1.0), ("eq", "paris", 0.0), ("ne", "Rome", 1.0), ("ne", "Paris", 0.0),
        ("neq", "Rome", 1.0), ("neq", "Paris", 0.0),
        ("like", "It is Paris.", 1.0), ("like", "It is paris.", 0.0),
        ("ilike", "it is PARIS", 1.0), ("ilike", "Rome", 0.0),
    ],
)  # fmt: skip
def test_string_check(grader, operation, completion, score):
    row = grader({**CHECK, "operation": operation}).score_one(completion, "Paris")
    assert row["aggregate_reward_score"] == score
    assert row["metrics_list"] == [{"name": "exact", "value": score, "type": "Reward"}]


EVERY_METRIC = ("fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")


def test_text_similarity(grader, build_sample):
    graders = {name: {**SIMILARITY, "evaluation_metric": name} for name in EVERY_METRIC}
    server = grader(multi("+".join(EVERY_METRIC), **graders))
    text = "the quick brown fox jumps over it"
    rows = server.score(
        [
            build_sample("same", text, text),
            build_sample("near", "the quick brown dog jumps over it", text),
            build_sample("none", "zzz", text),
            build_sample("empty", "", text),
        ]
    )
    same, near, none, empty = ({m["name"]: m["value"] for m in row["metrics_list"]} for row in rows)
    assert set(same.values()) == {1.0}
    assert set(none.values()) | set(empty.values()) == {0.0}
    assert near["rouge_1"] == pytest.approx(6 / 7)
    assert near["rouge_2"] == pytest.approx(4 / 6)
    assert near["rouge_3"] == pytest.approx(2 / 5)
    assert near["rouge_4"] == near["rouge_5"] == 0.0
    assert near["rouge_l"] == pytest.approx(6 / 7)
    assert near["gleu"] == pytest.approx(12 / 22)
    assert near["bleu"] == pytest.approx(0.411, abs=0.001)
    assert 0.8 < near["fuzzy_match"] < 1


def test_python(grader, build_sample):
    source = (
        "import re\n"
        "def grade(sample, item):\n"
        "    if sample['output_text'] == 'bool': return True\n"
        "    if sample['output_text'] == 'nan': return float('nan')\n"
        "    if sample['output_text'] == 'text': return 'x'\n"
        "    if sample['output_text'] == 'exit': raise SystemExit\n"
        "    if sample['output_text'] == 'loop':\n"
        "        while True: pass\n"
        "    return sample['output_json']['a'] / item['level'] + (item['reference_answer'] is None)\n"
    )
    server = grader(python(source), onError="Unscored")
    texts = ['{"a": 1}', "bool", "nan", "text", "exit", "no JSON", "loop", '{"a": 2}']
    rows = server.score([build_sample(text, text, "gold", {"level": 2}) for text in texts])
    assert [row["aggregate_reward_score"] for row in rows] == [0.5, None, None, None, None, None, None, 1.0]
    assert "grade must return a finite number, not True" in rows[1]["error"]
    assert "grade must return a finite number, not 'x'" in rows[3]["error"]
    assert "SystemExit" in rows[4]["error"]
    assert "TypeError" in rows[5]["error"]
    assert "(grader_code.py, line 9, in grade)" in rows[5]["error"]
    assert "share of spec.timeout" in rows[6]["error"]


SCORES = """
class Generous(int):
    def __float__(self): return 1.0
    __repr__ = lambda self: "Generous"
class Other(float):
    def __float__(self): return 1.0
class Silent:
    def __repr__(self): raise KeyError("no")
class Numeric:
    def __float__(self): return 1.0
    def __index__(self): return 1
VALUES = {
    "int": lambda: 2, "float": lambda: 0.25, "zero": lambda: 0, "other": lambda: Other(0.125),
    "false": lambda: False, "generous": lambda: Generous(0), "silent": Silent, "numeric": Numeric,
    "large": lambda: 10**400, "digits": lambda: 10**5000, "complex": lambda: 1j, "none": lambda: None,
    "infinity": lambda: Other("inf"),
}
def grade(sample, item):
    return VALUES[sample["output_text"]]()
"""


def test_scores_of_python_are_floats_and_ints_only(grader, build_sample):
    server = grader(python(SCORES), onError="Unscored")
    wrong = {
        "false": "False", "generous": "Generous", "silent": "a value of type Silent", "numeric": "<grader_code.Numeric",
        "large": "1000", "digits": "a value of type int", "complex": "1j", "none": "None", "infinity": "inf",
    }  # fmt: skip
    names = ["int", "float", "zero", "other", *wrong]
    rows = server.score([build_sample(name, name) for name in names])
    assert [row["aggregate_reward_score"] for row in rows] == [2.0, 0.25, 0.0, 0.125, *[None] * len(wrong)]
    for row, shown in zip(rows[4:], wrong.values(), strict=True):
        assert f"grade must return a finite number, not {shown}" in row["error"]


def test_a_boolean_is_an_error_where_an_exception_scores_zero(grader, build_sample):
    server = grader(python(SCORES))
    rows = server.score([build_sample(name, name) for name in ("false", "generous", "silent", "missing", "int")])
    assert [row["aggregate_reward_score"] for row in rows] == [None, None, 0.0, 0.0, 2.0]
    assert rows[0]["error"].endswith("grade must return a finite number, not False; convert it by float()")


def test_python_that_cannot_be_imported(start_server):
    server = start_server({"openai": {"grader": python("__import__('gone')\ndef grade(sample, item): return 1")}})
    server.wait_not_ready("ModuleNotFoundError: No module named 'gone'")


def test_multi_as_in_the_guide(grader, build_sample):
    name = {**SIMILARITY, "input": "{{sample.output_json.name}}", "reference": "{{item.name}}"}
    email = {**CHECK, "input": "{{sample.output_json.email}}", "reference": "{{item.email}}"}
    server = grader(
        multi(
            "(name + email) / 2",
            name={**name, "evaluation_metric": "fuzzy_match", "pass_threshold": 0.9},
            email=email,
        )
    )
    person = {"name": "John Doe", "email": "john@example.com"}
    rows = server.score(
        [
            build_sample("right", json.dumps(person), None, person),
            build_sample("half", json.dumps({**person, "email": "x"}), None, person),
            build_sample("part", json.dumps({"email": person["email"]}), None, person),
            build_sample("text", "John Doe, john@example.com", None, person),
            build_sample("data", json.dumps(person), None, {"name": "John Doe"}),
            build_sample("data and text", "no JSON", None, {"name": "John Doe"}),
        ]
    )
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, 0.5, 0.5, 0.0, None, None]
    assert rows[0]["metrics_list"] == [
        {"name": "name", "value": 1.0, "type": "Reward"},
        {"name": "name/passed", "value": 1.0, "type": "Metric"},
        {"name": "email", "value": 1.0, "type": "Reward"},
    ]
    for row in rows[4:]:
        assert row["error"] == "grader email: the data row has no item.email, which the grader's template names"


@pytest.mark.parametrize(
    ("operation", "completion", "score"),
    [
        ("eq", '{"end": null}', 1.0),
        ("eq", '{"end": "2026"}', 0.0),
        ("eq", "{}", 0.0),
        ("eq", "no JSON", 0.0),
        ("eq", "null", 0.0),
        ("ne", '{"end": null}', 0.0),
        ("ne", '{"end": "2026"}', 1.0),
        ("ne", "{}", 0.0),
    ],
)
def test_a_null_equals_a_null_and_differs_from_a_field_that_is_missing(
    grader, build_sample, operation, completion, score
):
    server = grader(
        {**CHECK, "operation": operation, "input": "{{ sample.output_json.end }}", "reference": "{{ item.end }}"}
    )
    null, missing = server.score(
        [build_sample("null", completion, None, {"end": None}), build_sample("missing", completion, None, {})]
    )
    assert null["aggregate_reward_score"] == score
    assert missing["aggregate_reward_score"] is None
    assert "the data row has no item.end" in missing["error"]


def test_a_completion_that_is_null_equals_null(grader):
    server = grader({**CHECK, "input": "{{ sample.output_json }}", "reference": "null"})
    assert [server.score_one(text, None)["aggregate_reward_score"] for text in ("null", " null\n", "nul", "0")] == [
        1.0, 1.0, 0.0, 0.0,
    ]  # fmt: skip


def test_a_formula_without_a_value_names_itself(grader):
    row = grader(multi("1 / exact", exact=CHECK)).score_one("a", "b")
    assert row["error"] == "calculate_output: float division by zero"


def test_as_a_term_next_to_a_builtin(server_for):
    terms = [
        {"name": "same", "weight": "0.5", "openai": {"grader": CHECK}},
        {"name": "short", "weight": "0.5", "builtin": {"name": "Format", "format": {"maximumWords": 2}}},
    ]
    row = server_for({"timeout": "20s", "combine": {"terms": terms}}).score_one("Paris it is", "Paris")
    assert row["aggregate_reward_score"] == 0.0
    row = server_for({"timeout": "20s", "combine": {"terms": terms}}).score_one("Rome", "Paris")
    assert row["aggregate_reward_score"] == 0.5


class _Model(http.server.BaseHTTPRequestHandler):
    """Answers as the text after `answer:` in the last user's message says, and remembers what it was asked."""

    requests = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(request)
        asked = [message["content"] for message in request["messages"] if "answer:" in message["content"]][-1]
        text = asked.partition("answer:")[2].partition("|")[0]
        body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        payload = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def model():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {"url": f"http://127.0.0.1:{server.server_port}/v1", "name": "small"}
    server.shutdown()


def question(answer):
    return f"answer:{answer}|"


def test_score_model(grader, model, build_sample):
    sampling = {"temperature": 0.5, "max_completions_tokens": 99, "seed": 7}
    server = grader({**SCORE_MODEL, "range": [0, 10], "pass_threshold": 5, "sampling_params": sampling}, model=model)
    step = {"description": "d", "conclusion": "because"}
    answers = [
        json.dumps({"result": 7, "steps": [step]}),
        '{"result": 99}',
        '{"result": -1}',
        '{"result": "7"}',
        "seven",
    ]
    rows = server.score([build_sample(str(n), question(answer), "gold") for n, answer in enumerate(answers)])
    assert [row["aggregate_reward_score"] for row in rows] == [7.0, 10.0, 0.0, None, None]
    assert rows[0]["metrics_list"] == [
        {"name": "judge", "value": 7.0, "type": "Reward"},
        {"name": "judge/passed", "value": 1.0, "type": "Metric"},
    ]
    assert rows[0]["explanation"] == "judge: because"
    assert (
        """holds no result: {"result": "7"} (result must be a number without quotes, and not "7")""" in rows[3]["error"]
    )
    assert "holds no result: seven (it has no JSON object)" in rows[4]["error"]
    again = _Model.requests[-1]["messages"][-1]["content"]
    assert again.startswith("That is not the answer that was asked for: ")
    assert "Answer with one JSON object only" in again
    request = _Model.requests[0]
    assert (request["model"], request["temperature"], request["max_completion_tokens"]) == ("small", 0.5, 99)
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]
    assert request["messages"][-1]["content"].endswith("against gold.")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"result": "0.7"}', 'result must be a number without quotes, and not "0.7"'),
        ('{"result": null}', "result must be a number, and not null"),
        ('{"result": true}', "result must be a number, and not true"),
        ('{"result": [7]}', "result must be a number, and not [7]"),
        ('{"result": 1e999}', "result must be a number, and not Infinity"),
        ('{"score": 7}', "its JSON object has no result"),
        ("", "it has no JSON object"),
    ],
)
def test_an_answer_without_a_number_says_what_came_and_what_is_expected(grader, model, answer, problem):
    row = grader(SCORE_MODEL, model=model).score_one(question(answer), "gold")
    assert row["aggregate_reward_score"] is None
    assert row["error"].endswith(f"({problem})")


def test_label_model(grader, model, build_sample):
    server = grader(LABEL_MODEL, model=model)
    answers = ['{"label": "good"}', 'Well. ```json\n{"label": "bad"}\n```', '{"label": "fair"}']
    rows = server.score([build_sample(str(n), question(answer), "gold") for n, answer in enumerate(answers)])
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, 0.0, None]
    assert rows[2]["error"].endswith('and not "fair")')


def test_a_multi_of_models_and_others(grader, model, build_sample):
    code = python("def grade(sample, item):\n    return len(item['reference_answer']) / 4")
    graders = multi("judge * code + exact", judge=SCORE_MODEL, code=code, exact=CHECK)
    server = grader(graders, model=model, onError="Unscored")
    answer = question('{"result": 0.5}')
    rows = server.score(
        [
            build_sample("scored", answer, "gold"),
            build_sample("no answer", "answer:|", "gold"),
            build_sample("no reference", answer, None),
        ]
    )
    assert rows[0]["aggregate_reward_score"] == 0.5
    assert {metric["name"]: metric["value"] for metric in rows[0]["metrics_list"]} == {
        "code": 1.0, "exact": 0.0, "judge": 0.5,
    }  # fmt: skip
    assert "holds no result" in rows[1]["error"]
    assert rows[2]["error"].startswith("grader code: the code raised KeyError: 'reference_answer'")


def test_a_multi_with_models_keeps_what_scored_zero_by_an_exception(grader, model):
    code = python("def grade(sample, item):\n    return item['level'] / 4")
    graders = {**multi("judge + code", judge=SCORE_MODEL, code=code), "pass_threshold": 0.5}
    row = grader(graders, model=model).score_one(question('{"result": 0.5}'), "gold")
    assert row["aggregate_reward_score"] == 0.5
    assert {metric["name"]: metric["value"] for metric in row["metrics_list"]} == {
        "code": 0.0, "judge": 0.5, "all/passed": 1.0,
    }  # fmt: skip
    assert row["warnings"][0]["message"].startswith("grader code: the code raised ")


def test_the_threshold_of_a_multi_is_a_metric(grader):
    graders = {**multi("exact / 2", exact=CHECK), "pass_threshold": 0.5}
    for completion, passed in (("Paris", 1.0), ("Rome", 0.0)):
        row = grader(graders).score_one(completion, "Paris")
        assert row["aggregate_reward_score"] == passed / 2
        assert row["metrics_list"][-1] == {"name": "all/passed", "value": passed, "type": "Metric"}


def test_what_openai_has_and_the_sandbox_decides_itself_is_taken(grader, model):
    code = {**python("def grade(sample, item):\n    return 1"), "image_tag": "2025-05-08"}
    assert grader(code).score_one("x")["aggregate_reward_score"] == 1.0
    _Model.requests.clear()
    server = grader({**SCORE_MODEL, "sampling_params": {"max_tokens": 77}}, model=model)
    assert server.score_one(question('{"result": 1}'), "gold")["aggregate_reward_score"] == 1.0
    assert _Model.requests[-1]["max_completion_tokens"] == 77
    assert "max_tokens" not in _Model.requests[-1]
    server = grader({**SCORE_MODEL, "sampling_params": {"max_completion_tokens": 78, "seed": None}}, model=model)
    assert server.score_one(question('{"result": 1}'), "gold")["aggregate_reward_score"] == 1.0
    assert _Model.requests[-1]["max_completion_tokens"] == 78


def test_the_graders_of_a_multi_may_be_a_list(grader):
    graders = [{**CHECK, "name": "exact"}, {**python("def grade(sample, item): return 0.5"), "pass_threshold": 0.5}]
    row = grader({**multi("(exact + code) / 2"), "graders": graders}).score_one("Paris", "Paris")
    assert row["aggregate_reward_score"] == 0.75
    assert [(metric["name"], metric["value"]) for metric in row["metrics_list"]] == [
        ("exact", 1.0),
        ("code", 0.5),
        ("code/passed", 1.0),
    ]
    row = grader({**multi("exact"), "graders": {**CHECK, "name": "exact"}}).score_one("Paris", "Paris")
    assert row["aggregate_reward_score"] == 1.0


def test_fields_that_openais_client_writes_as_null_are_absent():
    code = {**python("def grade(sample, item): return 1"), "image_tag": None, "pass_threshold": None}
    stated = python("def grade(sample, item): return 1")
    messages = [{"role": "user", "content": [{"type": "text", "text": "Rate {{ sample.output_text }}"}]}]
    model = {"url": "http://x", "name": "m"}
    for nulls, absent in (
        (code, stated),
        (
            {**SCORE_MODEL, "input": messages, "range": None, "sampling_params": None},
            {**SCORE_MODEL, "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}]},
        ),
    ):
        documents = [{"grader": grader, "model": model} for grader in (nulls, absent)]
        assert OpenAIReward.model_validate(documents[0]) == OpenAIReward.model_validate(documents[1])


VECTORS = {"same": [0.6, 0.8], "near": [0.8, 0.6], "opposite": [-0.6, -0.8]}


@pytest.fixture
def embeddings(start_service):
    """An API of embeddings of two dimensions."""

    def answer(asked):
        data = [{"index": n, "embedding": VECTORS[text]} for n, text in enumerate(asked.json()["input"])]
        return Answer({"data": data[::-1], "usage": {"prompt_tokens": 3}})

    return start_service(answer)


def test_cosine_compares_embeddings(start_server, embeddings, build_sample):
    cosine = {**SIMILARITY, "evaluation_metric": "cosine", "pass_threshold": 0.9, "name": "near"}
    model = {"url": f"{embeddings.url}/v1", "name": "small", "tokenKey": "KEY"}
    spec = {"timeout": "20s", "openai": {"grader": cosine, "embeddings": model}}
    server = start_server(spec, environment={"KEY": "secret-of-the-api"}).wait_ready()
    rows = server.score([build_sample(text, text, "same") for text in (*VECTORS, "  ")])
    assert [row["aggregate_reward_score"] for row in rows] == pytest.approx([1.0, 0.96, -1.0, 0.0])
    assert rows[1]["metrics_list"][1] == {"name": "near/passed", "value": 1.0, "type": "Metric"}
    assert len(embeddings.asked) == 3
    assert embeddings.asked[0].path == "/v1/embeddings"
    assert embeddings.asked[0].json()["model"] == "small"
    assert embeddings.asked[0].headers["authorization"] == "Bearer secret-of-the-api"
    assert server.score_one("near", "same")["aggregate_reward_score"] == pytest.approx(0.96)
    assert len(embeddings.asked) == 3  # the pair was compared before
    embeddings.respond = lambda asked: Answer({"error": "no such model"}, 404)
    assert "model small answered 404" in server.score_one("same", "near")["error"]


def test_cosine_beside_other_graders(start_server, embeddings):
    graders = multi("(close + exact) / 2", close={**SIMILARITY, "evaluation_metric": "cosine"}, exact=CHECK)
    model = {"url": f"{embeddings.url}/v1", "name": "small"}
    server = start_server({"timeout": "20s", "openai": {"grader": graders, "embeddings": model}}).wait_ready()
    assert server.score_one("near", "same")["aggregate_reward_score"] == pytest.approx(0.48)
