"""`rft rewards init --from-file` with functions in the forms of reward Lambdas, TRL, OpenAI, verl, verifiers ..."""

import json

import pytest
import yaml

from rft_api.exit_codes import ExitCode

STRINGS = """
def reward_func(completions, ground_truth, log_extra=None, **kwargs):
    if log_extra:
        log_extra("truth", ground_truth)
    return [1.0 if truth in text else 0.25 for text, truth in zip(completions, ground_truth, strict=True)]
"""
MESSAGES = """
async def reward_func(prompts, completions, level):
    return [len(c[0]["content"]) + p[-1]["content"].count("?") + n for p, c, n in zip(prompts, completions, level)]
"""
HELPER = """
def first(completion):
    return completion[0]["content"]

def reward_func(completions):
    return [len(first(completion)) for completion in completions]
"""
NOT_JUDGED = """
def reward_func(completions, **kwargs):
    return [None if text == "b" else 2 for text in completions]
"""
OPENAI = """
def grade(sample, item):
    return float(sample["output_text"] == item["truth"])
"""
HELPED = """
def reward_batch(event, context):
    return [{"id": s["id"], "aggregate_reward_score": same("b", s["messages"][-1]["content"])} for s in event]

def same(first, second):
    return float(first == second)
"""
# A name that the handler, which is added, also uses for its own purposes.
NAMED_REWARD = """
def reward(completions, ground_truth, scale=1.0):
    return [scale * (truth == text) for text, truth in zip(completions, ground_truth, strict=True)]
"""
FACTORY = """
def get_length_reward(scale=1.0):
    def length_reward(completions, **kwargs):
        return [scale * len(completion[0]["content"]) for completion in completions]
    return length_reward

rewards = get_length_reward(scale=2.0)
"""
CLASS = """
class Bonus:
    def __init__(self, bonus):
        self.bonus = bonus

    async def __call__(self, completions, level):
        return [self.text(c) + self.bonus + n for c, n in zip(completions, level, strict=True)]

    def text(self, completion):
        return len(completion[0]["content"])

bonus_reward: Bonus = Bonus(10)
"""
PARTIAL = """
import functools

def _scaled(scale, completions, ground_truth, bonus=1.0):
    return [scale * (text == truth) + bonus for text, truth in zip(completions, ground_truth, strict=True)]

scaled = functools.partial(_scaled, 4)
"""
INSTANCE = """
def get_length_reward(scale):
    return _LengthReward(scale)

class _LengthReward:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, completions, **kwargs):
        return [self.scale * len(completion[0]["content"]) for completion in completions]

rewards = get_length_reward(2.0)
"""
# The rows have level as a field of their own: it must not change the option.
VERL = """
def extract_solution(solution_str, ground_truth="helper"):
    return solution_str.strip()

def compute_score(data_source, solution_str, ground_truth, extra_info=None, level=1.0):
    assert extra_info == {}
    return level * (extract_solution(solution_str) == ground_truth)
"""
VERL_DETAILS = """
def compute_score(solution_str, ground_truth, **kwargs):
    right = solution_str == ground_truth
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str}
"""
VERL_BATCH = """
def score_batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [float(a == b) for a, b in zip(solution_strs, ground_truths, strict=True)]
"""
OPENRLHF = """
def reward_func(queries, prompts, labels, **kwargs):
    rewards = [float(query[len(prompt):] == label) for query, prompt, label in zip(queries, prompts, labels)]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}
"""
VERIFIERS = """
async def exact(completion, answer, prompt, info, **kwargs):
    assert prompt[-1]["role"] == "user" and info == {}
    return 1.0 if completion[-1]["content"] == answer else 0.0
"""
NEMO = """
def answer_reward(ground_truth: str, response: str, tag: str = "answer"):
    return float(ground_truth == response), None
"""
EVAL_PROTOCOL = """
class Result:
    def __init__(self, score):
        self.score = score

def reward_function(function):
    return function

@reward_function
def exact(messages, ground_truth=None, **kwargs):
    return Result(float(messages[-1]["content"] == ground_truth))
"""
ROWS = [
    ("b", {"ground_truth": "b", "level": 3, "truth": "b", "reference_answer": "b"}),
    ("cc", {"ground_truth": "x", "level": 0, "truth": "x", "reference_answer": "x"}),
]


def init(rft, folder, source, *more):
    (folder / "code.py").write_text(source, encoding="utf-8")
    return rft("rewards", "init", folder / "r.yaml", "--from-file", folder / "code.py", *more)


def scored(rft, folder, rows):
    completions, output = folder / "completions.jsonl", folder / "scores.jsonl"
    messages = [{"role": "user", "content": "a?"}]
    lines = [{"messages": [*messages, {"role": "assistant", "content": text}], **more} for text, more in rows]
    completions.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = rft("score", folder / "r.yaml", completions, "--output", output)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line)["score"] for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [(STRINGS, [1.0, 0.25]), (MESSAGES, [5.0, 3.0]), (HELPER, [1.0, 2.0]),
     (NOT_JUDGED, [None, 2.0]), (OPENAI, [1.0, 0.0]), (HELPED, [1.0, 0.0]), (NAMED_REWARD, [1.0, 0.0]),
     (FACTORY, [2.0, 4.0]), (CLASS, [14.0, 12.0]), (PARTIAL, [5.0, 1.0]), (INSTANCE, [2.0, 4.0]),
     (VERL, [1.0, 0.0]), (VERL_DETAILS, [1.0, -1.0]), (VERL_BATCH, [1.0, 0.0]), (OPENRLHF, [1.0, 0.0]),
     (VERIFIERS, [1.0, 0.0]), (NEMO, [1.0, 0.0]), (EVAL_PROTOCOL, [1.0, 0.0])],
)  # fmt: skip
def test_a_function_in_each_form_scores(rft, tmp_path, source, expected):
    assert init(rft, tmp_path, source).returncode == 0
    assert rft("validate", tmp_path / "r.yaml").returncode == 0
    scores = scored(rft, tmp_path, ROWS)
    assert [score.get("aggregate_reward_score") for score in scores] == expected
    for score, value in zip(scores, expected, strict=True):
        assert score.get("error") == ("reward_func returned None for this completion" if value is None else None)


def test_a_row_without_a_column_that_the_function_needs_has_an_error_and_costs_no_other(rft, tmp_path):
    assert init(rft, tmp_path, STRINGS).returncode == 0
    first, second = scored(rft, tmp_path, [("b", {"ground_truth": "b"}), ("b", {"solution": "b"})])
    assert first["aggregate_reward_score"] == 1.0
    assert second["error"] == "the data row has no ground_truth"


RELATIVE = """
def shortest(completions, **kwargs):
    lengths = [len(text) for text in completions]
    return [float(length == min(lengths)) for length in lengths]
"""


def test_a_function_that_compares_completions_gets_those_of_one_prompt(rft, tmp_path):
    result = init(rft, tmp_path, RELATIVE)
    assert (
        "code.py:4: min(lengths): if the function compares completions, set scope: Group in the spec" in result.stdout
    )
    manifest = tmp_path / "r.yaml"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("spec:\n", "spec:\n  scope: Group\n", 1))
    rows = [
        (text, {"reference_answer": prompt}) for prompt, text in (("1", "a"), ("1", "bb"), ("2", "bbb"), ("2", "aa"))
    ]
    scores = scored(rft, tmp_path, rows)
    assert [score["aggregate_reward_score"] for score in scores] == [1.0, 0.0, 0.0, 1.0]


ANSWERED = """
def correct(completions, answer, **kwargs):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]
"""
KEYWORDS = """
def correct(completions, **kwargs):
    return [float(text == right) for text, right in zip(completions, kwargs["solution"], strict=True)]
"""


@pytest.mark.parametrize("source", [ANSWERED, KEYWORDS, VERL_DETAILS.replace("-1.0", "0.0"), VERIFIERS, OPENRLHF])
def test_the_reference_answer_is_found_by_the_names_that_libraries_have_for_it(rft, tmp_path, source):
    """`rft data convert` makes it of a field called answer, which the row does not have any more."""
    assert init(rft, tmp_path, source).returncode == 0
    scores = scored(rft, tmp_path, [("b", {"reference_answer": "b"}), ("b", {"reference_answer": "c"})])
    assert [score["aggregate_reward_score"] for score in scores] == [1.0, 0.0]


def test_details_beside_a_score_are_metrics_and_fields_that_are_needed_are_named(rft, tmp_path):
    source = VERL_DETAILS.replace("solution_str, ground", "data_source, solution_str, ground").replace(
        "right = solution_str", "right = data_source == 'gsm' and solution_str"
    )
    assert init(rft, tmp_path, source).returncode == 0
    first, second = scored(rft, tmp_path, [("b", {"ground_truth": "b", "data_source": "gsm"}), ("b", {})])
    assert first["metrics_list"] == [{"name": "acc", "value": 1.0, "type": "Metric"}]
    assert second["error"] == "the data row has no data_source, ground_truth"


def test_the_manifest_says_what_was_added(rft, tmp_path):
    result = init(rft, tmp_path, STRINGS)
    assert "reward_func is a reward function of TRL" in result.stdout
    python = yaml.safe_load((tmp_path / "r.yaml").read_text(encoding="utf-8"))["spec"]["python"]
    assert python.keys() == {"source"}
    assert python["source"].startswith(STRINGS)
    assert "# What follows was added by `rft rewards init`." in python["source"]


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        (
            "def f(completion_ids, completions): ...\n",
            (),
            "code.py:1: f needs completion_ids, which only TRL's trainer",
        ),
        ("def f(completions, *, trainer_state): ...\n", (), "f needs trainer_state"),
        (STRINGS + STRINGS.replace("reward_func", "second"), (), "The file defines: reward_func, second"),
        # Of other forms: these would be called with the wrong arguments.
        ("def compute_score(solution, truth): ...\n", (), "The file defines: compute_score"),
        (OPENAI.replace("item", "row"), (), "The file defines: grade"),
        (STRINGS + STRINGS.replace("reward_func", "second"), ("--handler", "second"), ""),
        ("def compute_score(text, truth): ...\n", ("--handler", "compute_score"), ""),
        (
            "def compute_score(text, ground_truth): ...\n",
            ("--handler", "compute_score"),
            "code.py:1: compute_score takes (text, ground_truth), but a function that scores must take (event, ",
        ),
        ("def f(completion, answer, parser): ...\n", (), "code.py:1: f needs parser, which only its own trainer has"),
        ("def f(completion_ids, **kwargs): ...\n", (), "code.py:1: f needs completion_ids, which only TRL's"),
        (INSTANCE, ("--handler", "get_length_reward"), "code.py:2: get_length_reward makes a reward function"),
        (
            f"import os\nfrom ..tools.parse import last\n{STRINGS}",
            (),
            "code.py:2: imports ..tools.parse, but the code of a reward is no package: write the import without dots",
        ),
        # These would fail for every completion.
        (
            "def compute_score(source, solution, truth): ...\n",
            ("--handler", "compute_score"),
            "code.py:1: compute_score takes (source, solution, truth), but a function that scores must take (event, ",
        ),
        (FACTORY, ("--handler", "get_length_reward"), "code.py:2: get_length_reward makes a reward function"),
        (CLASS, ("--handler", "Bonus"), "code.py:2: Bonus makes a reward function and is none itself: add the line"),
        ("def f(completion_ids, **kwargs): ...\n", ("--handler", "f"), "code.py:1: f needs completion_ids"),
        (STRINGS, ("--handler", "gone"), "code.py: defines no function gone: it defines reward_func"),
        (HELPED, ("--handler", "code.reward_batch"), ""),
    ],
)
def test_functions_that_cannot_be_called_are_refused(rft, tmp_path, source, more, says):
    result = init(rft, tmp_path, source, *more)
    assert result.returncode == (ExitCode.CONFIGURATION_INVALID if says else 0)
    assert says in result.stderr
    assert (tmp_path / "r.yaml").exists() == (not says)


def test_a_grader_of_openai_has_no_further_files(rft, tmp_path):
    (tmp_path / "more.py").write_text("x = 1\n", encoding="utf-8")
    result = init(rft, tmp_path, OPENAI, "--from-file", tmp_path / "more.py")
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "a python grader of OpenAI is one file" in result.stderr


CHECK = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.truth}}", "operation": "eq"}
CODE = {"type": "python", "source": "import yaml\n\ndef grade(sample, item):\n    return yaml.safe_load('1.0')\n"}
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:f"
JUDGE = {"type": "score_model", "model": "gpt-5-mini", "input": [{"role": "user", "content": "Rate\n{{item.truth}}"}]}


@pytest.mark.parametrize(
    ("document", "scores"),
    [
        (CHECK, [1.0, 0.0]),
        ({"grader": CHECK, "item": {"truth": "b"}, "model_sample": "b"}, [1.0, 0.0]),
        ({"model": "o4-mini", "method": {"type": "reinforcement", "reinforcement": {"grader": CHECK}}}, [1.0, 0.0]),
        ({"type": "multi", "graders": {"a": CHECK, "b": CODE}, "calculate_output": "a + 2 * b"}, [3.0, 2.0]),
    ],
)
def test_a_grader_of_openai_in_a_file_scores(rft, tmp_path, document, scores):
    (tmp_path / "grader.json").write_text(json.dumps(document), encoding="utf-8")
    result = rft("rewards", "init", tmp_path / "r.yaml", "--from-file", tmp_path / "grader.json")
    assert result.returncode == 0, result.stderr
    assert rft("validate", tmp_path / "r.yaml").returncode == 0
    assert [score["aggregate_reward_score"] for score in scored(rft, tmp_path, ROWS)] == scores


def test_the_model_and_the_service_of_a_grader_are_in_its_manifest(rft, tmp_path):
    for document, expected in (
        (JUDGE, {"url": "https://api.openai.com/v1", "name": "gpt-5-mini", "tokenKey": "OPENAI_API_KEY"}),
        (
            {"grader": {"type": "lambda", "lambda": {"function": "arn:aws:lambda:eu-west-1:123456789012:function:f"}}},
            None,
        ),
    ):
        (tmp_path / "grader.json").write_text(json.dumps(document), encoding="utf-8")
        manifest = tmp_path / f"{'judge' if expected else 'lambda'}.yaml"
        assert rft("rewards", "init", manifest, "--from-file", tmp_path / "grader.json").returncode == 0
        assert rft("validate", manifest).returncode == 0
        spec = yaml.safe_load(manifest.read_text(encoding="utf-8"))["spec"]
        if expected:
            assert spec["openai"] == {"grader": JUDGE, "model": expected}
        else:
            assert spec == {"lambda": {"functionArn": ARN}}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", '{"messages": []}', "x.json: holds no grader, which is an object with a type"),
        ("x.json", "{broken", "x.json: is not JSON: "),
        (
            "x.ipynb",
            '{"cells": []}',
            "x.ipynb: is a notebook: write the cells with the reward to a file of Python code",
        ),
    ],
)
def test_files_without_a_reward_are_refused(rft, tmp_path, name, content, says):
    (tmp_path / name).write_text(content, encoding="utf-8")
    result = rft("rewards", "init", tmp_path / "r.yaml", "--from-file", tmp_path / name)
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert says in result.stderr
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize(
    ("imports", "module"),
    [
        ("from urllib.request import urlopen\n", "urllib.request"),
        ("import requests\n", "requests"),
        ("try:\n    import httpx\nexcept ImportError:\n    httpx = None\n", None),  # it is not declared, so not there
        ("from urllib.parse import quote\n", None),
    ],
)
def test_imports_for_connections_are_remarked(rft, tmp_path, imports, module):
    source = imports + "def lambda_handler(event, context):\n    return []\n"
    said = init(rft, tmp_path, source).stdout
    checked = rft("validate", tmp_path / "r.yaml")
    assert checked.returncode == 0, checked.stderr
    for text in (said, checked.stdout):
        assert ("has no network" in text) == (module is not None)
        assert module is None or f"imports {module} to connect to other machines" in text


def test_an_import_for_pools_is_remarked(rft, tmp_path):
    source = "from multiprocessing import get_context\n\ndef lambda_handler(event, context):\n    return []\n"
    for text in (init(rft, tmp_path, source).stdout, rft("validate", tmp_path / "r.yaml").stdout):
        assert "imports multiprocessing, whose pools and queues need shared memory" in text


NOVA = """\
def lambda_handler(event, context):
    known = [s for s in event if s["messages"][-1]["role"] == "nova_assistant"]
    return [{"id": s["id"], "aggregate_reward_score": float(s["messages"][-1]["content"] == "b")} for s in known]
"""


def test_the_role_that_code_looks_for_is_set_or_remarked(rft, tmp_path):
    assert init(rft, tmp_path, NOVA).returncode == 0
    manifest = tmp_path / "r.yaml"
    spec = yaml.safe_load(manifest.read_text(encoding="utf-8"))["spec"]
    assert spec["python"]["assistantRole"] == "nova_assistant"
    assert "remark" not in rft("validate", manifest).stdout
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "nova_assistant", "content": "b"}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert "reward          1.000" in rft("score", manifest, tmp_path / "c.jsonl").stdout

    manifest.write_text(manifest.read_text(encoding="utf-8").replace("    assistantRole: nova_assistant\n", ""))
    remark = "looks for the role nova_assistant, which is assistant here: set assistantRole: nova_assistant"
    assert remark in rft("validate", manifest).stdout
    result = rft("score", manifest, tmp_path / "c.jsonl")
    assert f"The code {remark}." in result.stdout
    assert "no sample could be scored" in result.stderr
    both = NOVA.replace('== "nova_assistant"', 'in ("assistant", "nova_assistant")')
    manifest.unlink()
    assert init(rft, tmp_path, both).returncode == 0
    assert "assistantRole" not in manifest.read_text(encoding="utf-8")
    assert remark not in rft("validate", manifest).stdout


def test_packages_that_code_can_do_without_are_named(rft, tmp_path):
    source = "import yaml\ntry:\n    import sympy\nexcept ImportError:\n    sympy = None\n"
    result = init(rft, tmp_path, source + "def lambda_handler(event, context):\n    return []\n")
    assert "It needs packages: pyyaml\n" in result.stdout
    assert "only if you add them to requirements: sympy\n" in result.stdout
    python = yaml.safe_load((tmp_path / "r.yaml").read_text(encoding="utf-8"))["spec"]["python"]
    assert python["requirements"] == ["pyyaml"]
