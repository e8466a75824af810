"""`rft rewards`: what it lists is what there is, its manifests work, and differences are counted right."""

from __future__ import annotations

import json
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import sample_reward

from rft_api.builtin_reward import BuiltinReward
from rft_api.exit_codes import ExitCode
from rft_api.remote_reward import JudgeReward
from rft_api.reward_function import RewardFunction
from rft_api.reward_protocol import build_sample
from rft_cli.check import read_manifests
from rft_cli.processes import RewardServer
from rft_cli.reward_diff import Order, Pair, compare_order, ranks, spearman
from rft_cli.reward_templates import TEMPLATES
from rft_cli.score import Line


def names(model: type, field: str) -> set[str]:
    return set(typing.get_args(model.model_fields[field].annotation))


def test_the_list_is_complete(rft):
    builtins = names(BuiltinReward, "name")
    judges = names(JudgeReward, "template")
    assert {name for name, template in TEMPLATES.items() if template.kind == "builtin"} == builtins
    assert {name for name, template in TEMPLATES.items() if template.kind == "judge"} == judges
    kinds = {kind for text in TEMPLATES.values() for kind in yaml.safe_load(text.manifest("a"))["spec"]}
    assert kinds >= {"python", "builtin", "judge", "lambda", "http", "openai", "combine"}
    result = rft("rewards", "list")
    assert result.returncode == 0
    for name in TEMPLATES:
        assert f" {name} " in result.stdout


@pytest.mark.parametrize("name", TEMPLATES)
def test_show(rft, name):
    result = rft("rewards", "show", name.upper())
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert f"metadata: {{name: {name.lower()}}}" in text
    manifest = yaml.safe_load(text[text.index("apiVersion:") :])
    RewardFunction.model_validate(manifest)
    if TEMPLATES[name].kind == "builtin":
        assert f"option of builtin.{name[0].lower()}{name[1:]}" in " ".join(text.split())


def test_an_unknown_name_gets_a_hint(rft):
    result = rft("rewards", "show", "Mat")
    assert (result.returncode, result.stderr.strip()) == (10, "error: there is no reward Mat; did you mean Math?")
    assert "rft rewards list shows them all" in rft("rewards", "init", "zzz").stderr


HANDLER = """import json
import yaml

from helpers import bonus


def grade(event, context=None):
    return [{"id": s["id"], "aggregate_reward_score": len(yaml.safe_load("[1]")) + bonus()} for s in event]


def unrelated(text):
    return text
"""


def test_init_from_files(rft, tmp_path):
    (tmp_path / "handler.py").write_text(HANDLER, encoding="utf-8")
    (tmp_path / "helpers.py").write_text("def bonus():\n    return 0.5\n", encoding="utf-8")
    manifest = tmp_path / "my reward.yaml"
    code = tmp_path / "handler.py"
    result = rft("rewards", "init", manifest, "--from-file", code, "--from-file", tmp_path / "helpers.py")
    assert result.returncode == 0, result.stderr
    assert "pyyaml" in result.stdout
    spec = yaml.safe_load(manifest.read_text(encoding="utf-8"))["spec"]
    assert spec["python"] == {
        "handler": "grade",
        "requirements": ["pyyaml"],
        "files": {"helpers.py": "def bonus():\n    return 0.5\n"},
        "source": HANDLER,
    }
    assert "source: |" in manifest.read_text(encoding="utf-8")
    completions = tmp_path / "completions.jsonl"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    completions.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    scored = rft("score", manifest, completions)
    assert scored.returncode == 0, scored.stderr
    assert "1.5" in scored.stdout


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        ("def f(:\n", (), "handler.py:1: is not valid Python"),
        ("def f(a, b): ...\ndef g(a, b): ...\n", (), "--handler. The file defines: f, g"),
        ("x = 1\n", (), "--handler. The file defines: none"),
        ("import numpy\ndef f(a, b): ...\n", ("--handler", "f"), ""),
        ("import numpy\ndef f(a): ...\n", ("--handler", "f"), "Add one that calls f, and name that"),
        ("\ndef lambda_handler(event): ...\n", (), "handler.py:2: lambda_handler takes (event), but it is called with"),
    ],
)
def test_init_from_a_file_that_is_unclear(rft, tmp_path, source, more, says):
    (tmp_path / "handler.py").write_text(source, encoding="utf-8")
    result = rft("rewards", "init", tmp_path / "r.yaml", "--from-file", tmp_path / "handler.py", *more)
    assert result.returncode == (ExitCode.CONFIGURATION_INVALID if says else 0)
    assert says in result.stderr
    assert (tmp_path / "r.yaml").exists() == (not says)


@pytest.mark.parametrize(
    ("name", "says"),
    [("tools.py", "imports tools, which is a file of yours: add --from-file"), ("tools/of.py", "a folder of yours")],
)
def test_init_does_not_take_a_file_beside_it_for_a_package(rft, tmp_path, name, says):
    (tmp_path / "tools").mkdir()
    (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "handler.py").write_text(
        "import numpy\nimport tools\ndef lambda_handler(a, b): return []\n", encoding="utf-8"
    )
    result = rft("rewards", "init", tmp_path / "r.yaml", "--from-file", tmp_path / "handler.py")
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "handler.py:2: " in result.stderr
    assert says in result.stderr
    assert not (tmp_path / "r.yaml").exists()


def test_init_of_nothing(rft):
    result = rft("rewards", "init")
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "--from-file CODE.py" in result.stderr


def test_packages_that_cannot_be_installed(rft, tmp_path):
    (tmp_path / "handler.py").write_text("import numpy\ndef lambda_handler(a, b): return []\n", encoding="utf-8")
    manifest, completions = tmp_path / "r.yaml", tmp_path / "completions.jsonl"
    assert rft("rewards", "init", manifest, "--from-file", tmp_path / "handler.py").returncode == 0
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("- numpy", "- numpy==0.0.1"), encoding="utf-8")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    completions.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    result = rft("score", manifest, completions)
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "the packages numpy==0.0.1 could not be installed" in result.stderr


def test_init_never_overwrites(rft, tmp_path):
    file = tmp_path / "My Reward.yaml"
    result = rft("rewards", "init", "math", file)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(file.read_text())["metadata"] == {"name": "my-reward"}
    assert rft("validate", file).returncode == 0
    before = file.read_bytes()
    again = rft("rewards", "init", "Code", file)
    assert again.returncode == ExitCode.OUTPUT_INVALID
    assert "exists already" in again.stderr
    assert file.read_bytes() == before


def test_every_manifest_that_needs_no_service_passes_its_own_tests(tmp_path: Path):
    files = []
    for name, template in TEMPLATES.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(template.manifest(name.lower()), encoding="utf-8")
        files.append(file)
    found, errors = read_manifests(files)
    assert errors == []
    functions = [f for f in found.reward_functions.values() if not (f.spec.judge or f.spec.lambda_ or f.spec.http)]
    assert all(len(function.spec.tests) >= 2 for function in functions)

    def start(function: RewardFunction) -> None:
        with RewardServer(function, tmp_path, tmp_path / f"{function.metadata.name}.log") as server:
            server.wait_until_ready()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(start, functions))


def reward(name: str, fails: str, expression: str) -> str:
    return sample_reward(
        name,
        f"""\
if text == {fails!r}:
    return {{"id": sample["id"], "error": "no opinion"}}
return {{"id": sample["id"], "aggregate_reward_score": {expression}}}
""",
    )


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(reward(name="a", fails="ccc", expression="len(text)"), encoding="utf-8")
    second.write_text(reward(name="b", fails="", expression="-abs(len(text) - 4)"), encoding="utf-8")
    return first, second


def completions(folder: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": text}]}
        for question, texts in (("one?", ["a", "bb", "ccc", "dddd", "eeeeeeee"]), ("two?", ["bb", "ffffff", "gg"]))
        for text in texts
    ]
    file = folder / "completions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_diff(rft, tmp_path, versions):
    result = rft("rewards", "diff", *versions, completions(tmp_path), "--samples", 2)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "7 completions" in text
    assert "Scores differ for 7 of 7 completions." in text
    outcome = json.loads(result.stdout.splitlines()[-1])
    # one?: lengths 1, 2, 4, 8 against -3, -2, 0, -4: 8 against each other one flips. two?: 2, 6, 2 against -2, -2, -2.
    assert outcome == {
        "completions": 8,
        "scoredByBoth": 7,
        "unscored": [1, 0],
        "means": [pytest.approx(25 / 7), pytest.approx(-15 / 7)],
        "differing": 7,
        "rankCorrelation": pytest.approx(spearman([1, 2, 4, 8, 2, 6, 2], [-3, -2, 0, -4, -2, -2, -2])),
        "pairs": 9,
        "flipped": 3,
        "tied": 2,
        "untied": 0,
    }
    assert "Of 9 pairs of completions of the same prompt, 33.3% are the other way round, 22.2% became ties" in text
    assert result.stdout.count("moved by") == 2
    assert "eeeeeeee" in text


def test_diff_of_a_reward_with_itself(rft, tmp_path, versions):
    result = rft("rewards", "diff", versions[1], versions[1], completions(tmp_path))
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert (outcome["differing"], outcome["flipped"], outcome["rankCorrelation"]) == (0, 0, pytest.approx(1.0))
    assert "moved by" not in result.stdout


def test_diff_where_nothing_is_scored_by_both(rft, tmp_path, versions):
    versions[0].write_text(reward(name="a", fails="x", expression="None"), encoding="utf-8")
    result = rft("rewards", "diff", *versions, completions(tmp_path))
    assert result.returncode == 14
    assert "no completion was scored by both" in result.stderr


def test_ranks_share_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]
    assert ranks([]) == []


@pytest.mark.parametrize(
    ("first", "second", "correlation"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [2], None),
    ],
)
def test_spearman(first, second, correlation):
    assert spearman(first, second) == (correlation if correlation is None else pytest.approx(correlation))


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_comparisons_stay_in_bounds(scores):
    correlation = spearman(*map(list, zip(*scores, strict=True)))
    assert correlation is None or -1 - 1e-9 <= correlation <= 1 + 1e-9
    line = Line(1, {}, build_sample("1", [{"role": "user", "content": "?"}], "a", None, {}))
    order = compare_order([Pair(line, a, b) for a, b in scores])
    assert order.pairs == len(scores) * (len(scores) - 1) // 2
    assert order.flipped + order.tied + order.untied <= order.pairs
    assert compare_order([Pair(line, a, a) for a, _ in scores]) == Order(order.pairs, 0, 0, 0)
