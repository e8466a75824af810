"""The builtin rewards and combine, through the server; and their pure parts with tables and generated cases."""

import json
from fractions import Fraction

import pycld2
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.builtins import grader, grader_options

from rft_api.builtin_table import BUILTINS
from rft_api.languages import LANGUAGES
from rft_reward.graders import exact_match, f1, json_fields, math_answer
from rft_reward.graders.builtin import BUILDERS
from rft_reward.graders.language import _OLD_CODES
from rft_reward.graders.term import Unscorable

EXPONENTIAL = "(a+)+$"


@pytest.fixture(scope="module")
def builtin(server_for):
    def get(name, **options):
        key = name[0].lower() + name[1:]
        return server_for({"timeout": "10s", "builtin": {"name": name, **({key: options} if options else {})}})

    return get


def test_every_builtin_has_a_grader():
    assert list(BUILDERS) == list(BUILTINS)
    for name, options in BUILTINS.items():
        example = yaml.safe_load(options.example)["builtin"]
        assert example["name"] == name
        assert callable(BUILDERS[name].load())


def components(row):
    return {metric["name"]: metric["value"] for metric in row["metrics_list"]}


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so \\boxed{1} and \\boxed{\\frac{1}{2}}, #### 3", "\\frac{1}{2}"),
        ("3 + 4\n#### 1,234", "1,234"),
        ("#### 5\nsome more", "5"),
        ("The answer is 12 apples.", "12"),
        ("The answer is 3.\nNo: the answer is 4.", "4"),
        ("Answer: **42**", "42"),
        ("answer: $18.50.", "$18.50"),
        ("The answer is \\(x^2\\).", "\\(x^2\\)"),
        ("the answer is 3 + 4 = 7", " 7"),
        ("the answer is B", "B"),
        ("So 3 + 4 = 7.", "7"),
        ("there are 5, so", "5"),
        ("it costs $5,000", "$5,000"),
        ("<think>Is it \\boxed{5}?</think>\nThe answer is 7.", "7"),
        ("<think>It is 5.</think>", None),
        ("<think>It is 5, or", None),
        ("nothing", None),
        ("", None),
        ("\\boxed{never closed", None),
    ],
)
def test_math_final_answer(completion, answer):
    assert math_answer.final_answer(completion) == answer


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("1,234.50", "1234.5", True),
        ("12,34", "1234", False),
        ("$5", "5", True),
        ("\\$5.00", "5", True),
        ("50%", "50", True),
        ("50\\%", "0.5", True),
        ("0.5", "50%", True),
        ("5%", "50%", False),
        ("3/4", "0.75", True),
        ("1 1/2", "1.5", True),
        ("-3/4", "-0.75", True),
        ("\\frac{3}{4}", "3/4", True),
        ("\\dfrac34", ".75", True),
        ("1e3", "1000", True),
        ("18 dollars", "18", True),
        ("5 \\text{ cm}", "5", True),
        ("**7**", "7", True),
        ("1/0", "1", False),
        ("5", "6", False),
        ("2x", "2", False),
        ("x^2+2x+1", "(x+1)^2", True),
        ("\\sqrt{2}", "1.41421356", True),
        ("\\frac{\\sqrt{3}}{2}", "\\sqrt{3}/2", True),
        ("(1, 2)", "(1,2)", True),
        ("\\{1, 2\\}", "\\{2, 1\\}", True),
        ("2\\pi", "\\pi", False),
        ("\\text{Blue}", "blue", True),
        ("5 km", "5", True),
        ("5km", "5", True),
        ("5 m", "5", True),
        ("5 km", "5 m", False),
        ("5 kilometers", "5 km", True),
        ("5\\,\\text{km}", "5\\text{ m}", False),
        ("5 minutes", "5 hours", False),
        ("18 dollars", "$18", True),
        ("€5", "5 €", True),
        ("90^\\circ", "90", True),
        ("1.234,50", "1234.5", True),
        ("-1.234.567", "-1234567", True),
        ("1 234 567", "1234567", True),
        ("1\u202f234,5", "1234.5", True),
        ("1'000'000", "10^6", True),
        ("1.234", "1234", False),
        ("12,5", "12.5", False),
        ("3\\times 10^3", "3,000", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("[1,2)", "[1, 2)", True),
        ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)", True),
        ("\\{1,2,3\\}", "\\{1,2\\}", False),
        ("1/2, 3/4", "0.5, 0.75", True),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
        ("\\begin{pmatrix}1\\\\3\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", False),
        ("1 2", "12", False),
        ("A", "B", False),
        ("", "0", False),
        ("9" * 5000, "1", False),
    ],
)
def test_math_equality(answer, expected, right):
    assert math_answer.equal(answer, expected, Fraction(0)) is right


@settings(deadline=None, max_examples=50)
@given(st.integers(), st.sampled_from(["{:,}", "{}", "${:,}", "{}.0", "\\${}", " {} ", "**{}**", "{} apples"]))
def test_math_reads_every_spelling_of_an_integer(value, spelling):
    assert math_answer.equal(spelling.format(value), str(value), Fraction(0))
    assert not math_answer.equal(spelling.format(value), str(value + 1), Fraction(0))


@settings(deadline=None, max_examples=50)
@given(st.fractions(max_denominator=10**6), st.sampled_from(["0", "0.001", "0.1"]))
def test_math_tolerance_is_relative(value, tolerance):
    off = value * (1 + Fraction(tolerance))
    assert math_answer.equal(
        f"{off.numerator}/{off.denominator}", f"{value.numerator}/{value.denominator}", Fraction(tolerance)
    )
    too_far = value * (1 + Fraction(tolerance) * 2 + Fraction(1, 1000))
    right = math_answer.equal(
        f"{too_far.numerator}/{too_far.denominator}", f"{value.numerator}/{value.denominator}", Fraction(tolerance)
    )
    assert right is (value == 0)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="0123456789+-*/^(){}\\$%., xfracboxed\n", max_size=30))
def test_math_survives_any_completion(text):
    answer = math_answer.final_answer(text)
    assert answer is None or isinstance(answer, str)
    assert math_answer.number(text) is None or isinstance(math_answer.number(text), Fraction)


def test_math_through_the_server(builtin, build_sample):
    rows = builtin("Math").score(
        [
            build_sample("right", "#### 18", "18"),
            build_sample("wrong", "#### 17", {"final_answer": 18}),
            build_sample("none", "no idea", {"value": "18"}),
            build_sample("worked", "It is \\boxed{18}", "9 * 2 = 18\n#### 18"),
            build_sample("no reference", "#### 18", None),
            build_sample("bad reference", "#### 18", {"other": 1}),
            build_sample("list", "#### 18", [18]),
            {
                "id": "metadata",
                "messages": [{"role": "assistant", "content": [{"type": "text", "text": "18"}]}],
                "metadata": {"reference_answer": "18"},
            },
            build_sample("elsewhere", "#### 18", None, {"ground_truth": "18"}),
        ]
    )
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, 0.0, 0.0, 1.0, None, None, None, 1.0, None]
    assert components(rows[2]) == {"correct": 0.0, "answer_found": 0.0}
    assert rows[4]["error"].endswith("has no reference_answer")
    assert "if ground_truth is the answer: rft data convert FILE --from OpenAIChat --answer-field" in rows[8]["error"]
    assert "without final_answer or answer or value: set answerKey" in rows[5]["error"]
    assert "a list, not text" in rows[6]["error"]


def test_math_options(build_sample):
    grade = grader("Math", relativeTolerance="0.01", answerKey="gold")
    assert grade(build_sample("a", "#### 100.5", {"gold": "100", "answer": "1"}))[0] == 1.0
    assert grade(build_sample("a", "#### 102", {"gold": 100}))[0] == 0.0
    assert grade(build_sample("a", "\\boxed{\\sqrt{2}}", {"gold": "1.42"}))[0] == 1.0
    with pytest.raises(Unscorable, match="without gold"):
        grade(build_sample("a", "#### 102", {"answer": 100}))


def test_a_completion_that_hangs_the_algebra_costs_only_itself(builtin, build_sample):
    samples = [build_sample(str(number), f"#### {number}", str(number)) for number in range(20)]
    samples[3] = build_sample("3", "\\boxed{9^{9^{9^{9^{9}}}}+\\sqrt{x}}", "\\sqrt{3}")
    samples[5] = build_sample("5", "\\boxed{(x+1)^{99999}+y}", "(x+y+1)^{99998}")
    rows = builtin("Math").score(samples)
    assert [row["aggregate_reward_score"] for n, row in enumerate(rows) if n not in (3, 5)] == [1.0] * 18
    for row in (rows[3], rows[5]):
        assert row["aggregate_reward_score"] in (0.0, None)


@pytest.mark.parametrize(
    ("options", "answer", "expected", "same"),
    [
        ({}, " Paris\n", "Paris", True),
        ({}, "paris", "Paris", False),
        ({"ignoreCase": True}, "STRASSE", "straße", True),
        ({"ignoreWhitespace": True}, "a  b\nc", "a b c", True),
        ({}, "a  b", "a b", False),
        ({"ignorePunctuation": True}, "it's, fine!", "its fine", True),
        ({"ignorePunctuation": True, "ignoreWhitespace": True}, "a - b", "a b", True),
        ({"squad": True}, "The  Beatles!", "beatles", True),
        ({"squad": True}, "an apple, a day", "apple day", True),
        ({"squad": True}, "theatre", "atre", False),
        ({"squad": True}, "$5", "5", True),
    ],
)
def test_exact_match_options(options, answer, expected, same):
    options = grader_options("ExactMatch", options)
    assert (exact_match.normalize(answer, options) == exact_match.normalize(expected, options)) is same


def test_exact_match_through_the_server(builtin, build_sample):
    server = builtin("ExactMatch", pattern=r"<answer>(.*?)</answer>", ignoreCase=True)
    rows = server.score(
        [
            build_sample("last", "<answer>x</answer> <answer>Paris</answer>", "paris"),
            build_sample("none", "Paris", "Paris"),
            build_sample("error", "<answer>Paris</answer>", None),
        ]
    )
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, 0.0, None]
    assert components(rows[1]) == {"exact_match": 0.0, "answer_found": 0.0}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a, b,c", {"a", "b", "c"}),
        ("- Billing\n- refund\n\n* other\n1. first", {"billing", "refund", "other", "first"}),
        ('["A", "b, c", 3]', {"a", "b, c", "3"}),
        ("[not json], x", {"[not json]", "x"}),
        ('["a", {"b": 1}]', {'["a', '{"b": 1}]'}),
        ("'a', \"b\"", {"a", "b"}),
        ("a, A ,a", {"a"}),
        (" ,\n", set()),
    ],
)
def test_labels(text, found):
    assert f1.labels(text, ignore_case=True) == found


@pytest.mark.parametrize(
    ("options", "completion", "reference", "scores"),
    [
        ({}, "b, a", "A, B", (1.0, 1.0, 1.0)),
        ({"ignoreCase": False}, "b, a", "A, b", (0.5, 0.5, 0.5)),
        ({}, "a, b, c", ["a"], (1 / 3, 1.0, 0.5)),
        ({}, "a", '["a", "b"]', (1.0, 0.5, 2 / 3)),
        ({}, "", [], (1.0, 1.0, 1.0)),
        ({}, "a", [], (0.0, 0.0, 0.0)),
        ({}, "", "a", (0.0, 0.0, 0.0)),
        ({"answerKey": "tags"}, "1", {"tags": [1, 2]}, (1.0, 0.5, 2 / 3)),
        ({"pattern": "labels: (.*)"}, "I think\nlabels: a, b", "a,b", (1.0, 1.0, 1.0)),
        ({"pattern": "labels: (.*)"}, "a, b", "a,b", (0.0, 0.0, 0.0)),
        ({"compare": "Tokens"}, "the cat sat", "A cat, sat down.", (1.0, 2 / 3, 0.8)),
        ({"compare": "Tokens"}, "cat cat", "cat", (0.5, 1.0, 2 / 3)),
    ],
)
def test_f1(build_sample, options, completion, reference, scores):
    score, found = grader("F1", **options)(build_sample("a", completion, reference))
    values = {name: value for name, value, _ in found}
    assert (values["precision"], values["recall"], values["f1"]) == pytest.approx(scores)
    assert score == values["f1"]


def test_f1_without_labels_is_an_error(build_sample):
    for reference in ({"answer": [{"a": 1}]}, 3, True):
        with pytest.raises(Unscorable, match="neither a text nor a list of labels"):
            grader("F1")(build_sample("a", "a", reference))


def test_a_pattern_that_backtracks_for_ever_costs_only_its_samples(builtin, build_sample):
    server = builtin("Format", pattern=EXPONENTIAL)
    rows = server.score([build_sample("bad", "a" * 40 + "b"), *(build_sample(str(n), "aaa") for n in range(10))])
    assert "share of spec.timeout" in rows[0]["error"]
    assert {row["aggregate_reward_score"] for row in rows[1:]} == {1.0}
    assert "more than 10 s" in server.score_one("a" * 40 + "b")["error"]


def test_format(builtin):
    server = builtin(
        "Format",
        pattern="<think>.*</think>.*",
        minimumCharacters=5,
        maximumCharacters=40,
        contains=["a", "z"],
        excludes=["!"],
    )
    row = server.score_one("<think>\na</think>\nb")
    assert row["aggregate_reward_score"] == pytest.approx(5 / 6)
    assert components(row) == {
        "pattern": 1.0, "minimum_characters": 1.0, "maximum_characters": 1.0,
        "contains/1": 1.0, "contains/2": 0.0, "excludes/1": 1.0,
    }  # fmt: skip
    assert server.score_one("!")["aggregate_reward_score"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("text", "words", "sentences", "lines"),
    [
        ("", 0, 0, 0),
        ("One.", 1, 1, 1),
        ("One. Two! Three? four", 4, 4, 1),
        ("He paid $3.50 to Dr.Who at 3 p.m.", 8, 1, 1),
        ('"Stop!" she said. (Really?)', 4, 3, 1),
        ("Wait... what?!", 2, 2, 1),
        ("これは文です。次の文！", 1, 2, 1),
        ("a\n\n  \nb\r\nc", 3, 1, 3),
        ("...", 1, 0, 1),
    ],
)
def test_format_measures(build_sample, text, words, sentences, lines):
    for unit, size in (("Words", words), ("Sentences", sentences), ("Lines", lines)):
        for minimum, maximum, kept in ((size, size, 1.0), (size + 1, size + 1, 0.5), (size + 1, None, 0.0)):
            options = {f"minimum{unit}": minimum, f"maximum{unit}": maximum}
            assert grader("Format", **options)(build_sample("a", text))[0] == kept, unit


@pytest.mark.parametrize(
    ("text", "language", "kept"),
    [
        ("The weather is fine today.", "en", 1.0),
        ("Das Wetter ist heute schön.", "en", 0.0),
        ("Das Wetter ist heute schön.", "de", 1.0),
        ("当期純利益は増加しました。", "ja", 1.0),
        ("שלום לכולם", "he", 1.0),
        ("42", "en", 0.0),
        ("", "en", 0.0),
        ("\ud800\x00", "en", 0.0),
    ],
)
def test_format_language(build_sample, text, language, kept):
    score, found = grader("Format", language=language)(build_sample("a", text))
    assert (score, found) == (kept, [("language", kept, "Reward")])


def test_known_languages_are_those_of_the_library():
    codes = dict(pycld2.LANGUAGES)
    told = {codes[name].partition("-")[0] for name in pycld2.DETECTED_LANGUAGES}
    assert {_OLD_CODES.get(code, code) for code in LANGUAGES} <= told


TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.mark.parametrize(
    ("name", "options", "completion", "reference", "score"),
    [
        ("Rouge", {"variant": "Rouge1"}, "the fox", TEXT, 4 / 11),
        ("Rouge", {"variant": "Rouge2"}, "quick brown dog", TEXT, 2 / 10),
        ("Rouge", {}, "the dog jumps", TEXT, 4 / 12),
        ("Rouge", {}, "Le café, noir!", "le CAFÉ noir", 1.0),
        ("Rouge", {}, "東京都", "東京", 0.8),
        ("Rouge", {}, "", TEXT, 0.0),
        ("Rouge", {}, "...", "!", 0.0),
        ("Bleu", {}, TEXT, TEXT, 1.0),
        ("Bleu", {}, "the quick brown fox", TEXT, 0.2865),  # exp(1 - 9/4): all n-grams, but short
        ("Bleu", {"tokenizer": "char"}, "東京都", "東京都", 1.0),
        ("Bleu", {}, "", TEXT, 0.0),
        ("ChrF", {}, TEXT, TEXT, 1.0),
        ("ChrF", {"wordOrder": 2}, TEXT, TEXT, 1.0),
        ("ChrF", {}, "777", TEXT, 0.0),
        ("ChrF", {}, "", TEXT, 0.0),
    ],
)
def test_overlap(build_sample, name, options, completion, reference, score):
    grade = grader(name, **options)
    assert grade(build_sample("a", completion, {"answer": reference}))[0] == pytest.approx(score, abs=1e-4)


WORDS = st.text(alphabet='abcÄ東。,.!?-\n \ud800"[]{}1', max_size=30)


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS.filter(str.strip))
def test_every_text_has_a_score_from_0_to_1(completion, reference):
    graders = [
        grader("F1"), grader("F1", compare="Tokens"), grader("ExactMatch", squad=True),
        grader("Format", minimumWords=3, maximumSentences=2, minimumLines=2, language="en"),
        *(grader("Rouge", variant=variant) for variant in ("Rouge1", "Rouge2", "RougeL")),
        *BLEU_AND_CHRF,
    ]  # fmt: skip
    sample = {"messages": [{"role": "assistant", "content": completion}], "reference_answer": reference}
    for grade in graders:
        score, found = grade(sample)
        assert 0 <= score <= 1
        assert all(0 <= value <= 1 for _, value, _ in found)


BLEU_AND_CHRF = [grader("Bleu"), grader("ChrF", wordOrder=2)]


@pytest.mark.parametrize("name", ["Rouge", "Bleu", "ChrF", "F1"])
def test_overlap_through_the_server(builtin, build_sample, name):
    rows = builtin(name).score(
        [build_sample("same", TEXT, TEXT), build_sample("none", "777", TEXT), build_sample("error", TEXT, None)]
    )
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, 0.0, None]
    assert next(iter(components(rows[0]))) == name.lower()


@pytest.mark.parametrize(
    ("value", "expected", "score"),
    [
        ({"a": 1}, {"a": 1}, 1.0),
        ({"a": 1}, {"a": 1.0}, 1.0),
        ({"a": True}, {"a": 1}, 0.0),
        ({"a": "1"}, {"a": 1}, 0.0),
        ({"a": 1, "b": 2}, {"a": 1}, 2 / 3),
        ({"a": [1, 2, 2]}, {"a": [2, 1, 2]}, 1.0),
        ({"a": [1, 2]}, {"a": [2, 2]}, 0.5),
        ([{"x": 1}, {"x": 2}], [{"x": 2}, {"x": 1}], 1.0),
        ({"a": {"b": None}}, {"a": {"b": None}}, 1.0),
        ({}, {}, 1.0),
        ({}, {"a": 1}, 0.0),
        ({"a.b": 1}, {"a": {"b": 1}}, 0.0),
        (3, 3, 1.0),
    ],
)
def test_json_field_f1(value, expected, score):
    assert json_fields.field_f1(value, expected)[2] == pytest.approx(score)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=50)
@given(JSON, JSON)
def test_json_field_f1_is_1_for_equal_values_and_symmetric(value, other):
    assert json_fields.field_f1(value, value) == (1.0, 1.0, 1.0)
    assert json_fields.field_f1(value, json.loads(json.dumps(value))) == (1.0, 1.0, 1.0)
    precision, recall, f1 = json_fields.field_f1(value, other)
    assert (recall, precision, f1) == json_fields.field_f1(other, value)
    assert 0 <= f1 <= 1


def test_json_through_the_server(builtin, build_sample):
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    server = builtin("Json", jsonSchema=schema)
    rows = server.score(
        [
            build_sample("right", '```json\n{"a": 1}\n```', {"a": 1}),
            build_sample("part", '{"a": 1, "b": 2}', '{"a": 1}'),
            build_sample("schema", '{"a": "1"}', {"a": 1}),
            build_sample("text", "Here: {}", {"a": 1}),
            build_sample("nan", '{"a": NaN}', {"a": 1}),
            build_sample("deep", "[" * 100_000, {"a": 1}),
            build_sample("none", '{"a": 1}', None),
            build_sample("not json", '{"a": 1}', "a"),
        ]
    )
    scores = [row["aggregate_reward_score"] for row in rows]
    assert scores == [1.0, pytest.approx(2 / 3), 0.0, 0.0, 0.0, 0.0, None, None]
    assert components(rows[2]) == {"valid_json": 1.0, "schema": 0.0, "field_f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert "text that is not JSON" in rows[7]["error"]
    plain = builtin("Json", compareValues=False, allowCodeFence=False)
    assert plain.score_one("[1]")["aggregate_reward_score"] == 1.0
    assert plain.score_one("```\n[1]\n```")["aggregate_reward_score"] == 0.0


def test_schemas_are_never_downloaded(build_sample):
    # A server does not start with it (test_start.py); its grader would not fetch it either.
    grade = grader("Json", jsonSchema={"$ref": "http://127.0.0.1:1/schema.json"})
    with pytest.raises(Unscorable, match="refers to something that it does not contain"):
        grade(build_sample("a", "{}", {}))


LENGTH = """
def lambda_handler(event, context):
    for sample in event:
        if "stop" in sample["messages"][-1]["content"]:
            raise ValueError("no stopping")
    return [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"]),
             "metrics_list": [{"name": "inner", "value": 7}]} for s in event]
"""


def test_combine(server_for, build_sample):
    terms = [
        {"name": "correct", "weight": "0.8", "builtin": {"name": "ExactMatch"}},
        {"name": "length", "weight": "0.01", "python": {"source": LENGTH}},
        {"name": "seen", "weight": "0", "builtin": {"name": "Format", "format": {"contains": ["P"]}}},
    ]
    rows = server_for({"timeout": "20s", "combine": {"terms": terms}}).score(
        [build_sample("a", "Paris", "Paris"), build_sample("b", "stop", "x"), build_sample("c", "Rome", None)]
    )
    assert rows[0]["aggregate_reward_score"] == pytest.approx(0.85)
    assert [(m["name"], m["value"], m["type"]) for m in rows[0]["metrics_list"]] == [
        ("correct", 1.0, "Reward"),
        ("correct/exact_match", 1.0, "Metric"),
        ("correct/answer_found", 1.0, "Metric"),
        ("length", 5.0, "Reward"),
        ("length/inner", 7.0, "Metric"),
        ("seen", 1.0, "Metric"),
        ("seen/contains/1", 1.0, "Metric"),
    ]
    assert "term length: the code raised ValueError: no stopping (reward_length.py, line 5" in rows[1]["error"]
    assert rows[2]["error"].startswith("term correct: the sample has no reference_answer")


@pytest.mark.parametrize(
    ("size", "score"), [(0, 0.0), (768, 0.0), (769, -1 / 256), (896, -0.5), (1024, -1.0), (5000, -1.0)]
)
def test_the_soft_limit_is_that_of_dapo(size, score):
    grade = grader("LengthPenalty", shape="SoftLimit", maximum=1024, buffer=256)
    sample = {"id": "a", "messages": [{"role": "assistant", "content": "x"}], "metadata": {"rft": {"tokens": size}}}
    assert grade(sample) == (
        pytest.approx(score),
        [("length_penalty", pytest.approx(score), "Reward"), ("length", float(size), "Metric")],
    )


@pytest.mark.parametrize(
    ("size", "right", "wrong"), [(0, 1.0, -1.0), (500, 0.75, -0.75), (1000, 0.5, -0.5), (9000, 0.5, -0.5)]
)
def test_the_cosine_is_that_of_open_r1_and_stays_at_its_end(size, right, wrong):
    grade = grader("LengthPenalty", shape="Cosine", maximum=1000)
    for text, score in (("#### 42", right), ("#### 41", wrong)):
        sample = {
            "id": "a",
            "messages": [{"role": "assistant", "content": text}],
            "reference_answer": "42",
            "metadata": {"rft": {"tokens": size}},
        }
        assert grade(sample)[0] == pytest.approx(score)
        assert ("correct", float(text == "#### 42"), "Metric") in grade(sample)[1]


def test_lengths_in_other_units_and_without_tokens(builtin):
    for unit, size in (("Words", 3), ("Characters", 11)):
        options = {"shape": "SoftLimit", "maximum": size, "buffer": size, "unit": unit}
        assert builtin("LengthPenalty", **options).score_one("a few words")["aggregate_reward_score"] == -1.0
    server = builtin("LengthPenalty", shape="SoftLimit", maximum=8, buffer=4)
    assert "has no metadata.rft.tokens" in server.score_one("x")["error"]
    assert server.score_one("x", None, {"rft": {"tokens": 6}})["aggregate_reward_score"] == -0.5


@pytest.mark.parametrize("buffer", [None, 9])
def test_the_soft_limit_needs_a_buffer_within_it(buffer):
    with pytest.raises(ValidationError, match="shape SoftLimit needs buffer"):
        grader_options("LengthPenalty", {"shape": "SoftLimit", "maximum": 8, "buffer": buffer})


@pytest.mark.parametrize(
    ("text", "options", "score"),
    [
        ("a b c d e", {}, 0.0),
        ("a b c a b c a b c", {}, -4 / 7),  # 7 sequences of three words, 3 of them different
        ("A b c a B C", {}, -1 / 4),
        ("a a a a", {"size": 1}, -3 / 4),
        ("a b", {}, 0.0),
        ("", {}, 0.0),
        ("哈哈哈哈", {"unit": "Characters", "size": 2}, -2 / 3),
    ],
)
def test_repetition(text, options, score):
    grade = grader("Repetition", **options)
    assert grade({"id": "a", "messages": [{"role": "assistant", "content": text}]})[0] == pytest.approx(score)
