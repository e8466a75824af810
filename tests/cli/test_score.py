"""`rft score`, against the real reward server."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.finished_runs import BASE_REWARDS, write_evaluation
from support.manifests import python_reward, reward_manifest, sample_reward
from support.patience import PATIENCE_SECONDS, wait_until
from support.services import Answer, Service

from rft_api.exit_codes import ExitCode
from rft_api.manifests import load_manifests
from rft_api.prompts import Prompt
from rft_api.reward_protocol import Score
from rft_api.run_folder import RunFolder
from rft_cli import stage_display
from rft_cli.processes import reward_environment
from rft_trainer.rollouts import scored, write_rollouts

REWARD = (
    sample_reward(
        "same",
        """\
if text == "unclear":
    return {"id": sample["id"], "error": "no \\x1b[31m opinion"}
right = float(text == sample["reference_answer"])
level = sample["metadata"].get("level", 0)
metrics = [{"name": "level", "value": level, "type": "Metric"}]
return {"id": sample["id"], "aggregate_reward_score": right, "metrics_list": metrics}
""",
    )
    + '  tests:\n  - {prompt: a, completion: b, referenceAnswer: b, expect: {minimum: "1"}}\n'
)


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    file = tmp_path / "reward.yaml"
    file.write_text(REWARD, encoding="utf-8")
    return file


def line(answer: str, reference: object = "4", **further: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "reference_answer": reference, **further}


def written(folder: Path, *rows: object) -> Path:
    file = folder / "completions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_command_that_is_told_to_end_leaves_no_files(tmp_path):
    endless, temporary = tmp_path / "reward.yaml", tmp_path / "temporary"
    endless.write_text(python_reward("endless", "while True:\n    pass\ndef lambda_handler(event, context): ...\n"))
    temporary.mkdir()
    command = [sys.executable, "-m", "rft_cli.main", "score", endless, written(tmp_path, line("4"))]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)})
    wait_until(lambda: list(temporary.glob("rft-scratch-*/endless.token")) or process.poll() is not None)
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert list(temporary.glob("rft-scratch-*")) == []


def test_scores_are_summed_up_and_written(rft, tmp_path, reward):
    rows = [line("4", level=1), line("5", level=2), line("unclear"), line("4", level=3)] * 40
    result = rft("score", reward, written(tmp_path, *rows), "--output", tmp_path / "scores.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    assert "160 completions mean std min 25 % median 75 % max" in text
    assert "reward 0.667 0.471 0.000 0.000 1.000 1.000 1.000" in text
    assert "level 2.000" in text
    assert "Not scored: 40 of 160 (25.0%)" in text
    assert "completions.jsonl:3: no \\x1b[31m opinion" in text
    assert "and 30 more" in text
    scored = [json.loads(row) for row in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(scored) == len(rows)
    assert scored[0] == {
        **rows[0],
        "score": {
            "aggregate_reward_score": 1.0,
            "metrics_list": [{"name": "level", "value": 1.0, "type": "Metric"}],
        },
    }
    assert scored[2]["score"]["error"] == r"no \x1b[31m opinion"


def test_the_server_reads_texts_that_look_like_numbers_as_texts(rft, tmp_path, reward):
    """1e-5 in quotes: PyYAML would write it without them, and kubectl and rft would then take it for a number."""
    reward.write_text(REWARD.replace('minimum: "1"', 'minimum: "1e-5"'), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert (result.returncode, result.stderr) == (0, "")
    assert "reward 1.000" in " ".join(result.stdout.split())


def test_stored_rollouts_are_scored_again(rft, tmp_path, reward):
    folder = RunFolder(tmp_path)
    write_evaluation(folder, "base", BASE_REWARDS, ["x"] * len(BASE_REWARDS))
    result = rft("score", reward, folder.evaluation("base"))
    assert result.returncode == 0, result.stderr
    assert "10 completions" in result.stdout
    assert "Stored rewards of the same completions: mean 0.450; 7 of 10 differ" in result.stdout


def test_bad_lines_are_reported_all_at_once(rft, tmp_path, reward):
    file = tmp_path / "completions.jsonl"
    good = json.dumps(line("4"))
    wrong = [
        "{", "[]", '{"messages": []}', '{"messages": [{"role": "bot"}]}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "assistant", "content": null}]}',
    ]  # fmt: skip
    file.write_text("\n".join([good, "", *wrong]) + "\n", encoding="utf-8")
    result = rft("score", reward, file)
    assert result.returncode == 11
    assert "6 lines cannot be used" in result.stderr
    assert f"{file}:3: is not JSON" in result.stderr
    assert f"{file}:4: must be a JSON object with messages, not list" in result.stderr
    assert f"{file}:5: messages must be a list with at least one message" in result.stderr
    assert f"{file}:6: messages[0].role must be one of" in result.stderr
    assert f"{file}:7: the last message must be the assistant's, which is scored, not the user's" in result.stderr
    assert f"{file}:8: messages[0].content is missing" in result.stderr


def test_the_first_bad_lines_are_shown_and_the_others_counted(rft, tmp_path, reward):
    file = tmp_path / "completions.jsonl"
    file.write_text("{}\n" * 300, encoding="utf-8")
    result = rft("score", reward, file)
    assert result.returncode == 11
    assert "300 lines cannot be used" in result.stderr
    assert result.stderr.splitlines()[-1] == "and 280 more"


def test_the_output_never_replaces_what_is_read(rft, tmp_path, reward):
    file = tmp_path / "completions.jsonl"
    file.write_text(json.dumps(line("4")) + "\n", encoding="utf-8")
    for source in (file, reward):
        before = source.read_bytes()
        result = rft("score", reward, file, "--output", source)
        assert result.returncode == ExitCode.OUTPUT_INVALID
        assert f"--output {source} would overwrite {source}, which is read; name another file" in result.stderr
        assert source.read_bytes() == before


def test_a_file_is_read_as_training_reads_it(rft, tmp_path, reward):
    file = tmp_path / "completions.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(line("4")).encode() + b"\r\n\r\n" + json.dumps(line("5")).encode())
    result = rft("score", reward, file)
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 completions" in result.stdout


@pytest.mark.parametrize("form", ["jsonl", "array", "gzip"])
def test_a_row_is_divided_as_in_training(rft, tmp_path, reward, form):
    """Answer in the metadata, parts of text, system beside the messages, further fields: all reach the reward."""
    messages = [{"role": "user", "content": [{"text": "2 + 2?"}]}, {"role": "assistant", "content": [{"text": "4"}]}]
    rows = [{"system": "s", "messages": messages, "metadata": {"reference_answer": "4", "level": 3}}] * 3
    text = json.dumps(rows, indent=1) if form == "array" else "\n".join(map(json.dumps, rows))
    file = tmp_path / "completions"
    file.write_bytes(gzip.compress(text.encode()) if form == "gzip" else b"\xef\xbb\xbf" + text.encode())
    result = rft("score", reward, file, "--output", tmp_path / "scores.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    scores = [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [score["aggregate_reward_score"] for score in scores] == [1.0] * 3
    assert [score["metrics_list"][0]["value"] for score in scores] == [3.0] * 3


def test_what_cannot_be_carried_is_named_before_a_server_starts(rft, tmp_path, reward):
    file = written(tmp_path, line("4"), line("4", float("nan")), line("x \ud83d"), line("4", 2**70))
    result = rft("score", reward, file)
    assert result.returncode == 11
    assert f"{file}:2: reference_answer is NaN, which JSON does not have" in result.stderr
    assert f"{file}:3: messages[1].content has half of a surrogate pair" in result.stderr
    assert f"{file}:4: reference_answer is an integer of more than 64 bits" in result.stderr


def test_rollouts_have_the_metadata_that_the_reward_uses(rft, tmp_path, reward):
    prompt = Prompt("s-1", "s", "r", [{"role": "user", "content": "2 + 2?"}], "4", {"level": 7, "tags": ["ä"]})
    completions = [scored(prompt, text, 1, False, Score(id="", aggregate_reward_score=1.0)) for text in "45"]
    write_rollouts(tmp_path / "step-1.parquet", completions)
    result = rft("score", reward, tmp_path / "step-1.parquet", "--output", tmp_path / "scores.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [score["score"]["metrics_list"][0]["value"] for score in scores] == [7.0, 7.0]
    assert scores[0]["metadata"] == {"level": 7, "tags": ["ä"]}
    result = rft("rewards", "diff", reward, reward, tmp_path / "step-1.parquet")
    assert json.loads(result.stdout.splitlines()[-1])["means"] == [0.5, 0.5]


def test_tables_of_conversations_are_scored_too(rft, tmp_path, reward):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([line("4"), line("5")]), tmp_path / "data.parquet")
    result = rft("score", reward, tmp_path / "data.parquet")
    assert "reward 0.500" in " ".join(result.stdout.split())


def test_nothing_to_score(rft, tmp_path, reward):
    assert rft("score", reward, written(tmp_path)).returncode == 11
    assert rft("score", reward, tmp_path / "gone.jsonl").returncode == 11
    assert rft("score", reward, tmp_path / "gone.parquet").returncode == 11


def test_a_function_that_fails_its_tests_does_not_score(rft, tmp_path, reward):
    reward.write_text(REWARD.replace('minimum: "1"', 'maximum: "0.5"'), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert result.returncode == 14
    assert "test 1 (spec.tests[0])" in result.stderr


def test_code_that_does_not_start(rft, tmp_path, reward):
    reward.write_text(REWARD.replace("source: |\n", 'source: |\n      __import__("gone")\n'), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert result.returncode == 14
    assert "gone" in result.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in result.stderr


def test_a_reward_that_scores_nothing_is_an_error(rft, tmp_path, reward):
    result = rft("score", reward, written(tmp_path, line("unclear")))
    assert result.returncode == 14
    assert "no sample could be scored" in result.stderr


def test_the_manifest_has_to_define_one_function(rft, tmp_path, reward):
    reward.write_text(REWARD + "---\n" + REWARD.replace("same", "other"), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert result.returncode == 10
    assert "it defines same, other" in result.stderr
    reward.write_text(REWARD.replace("kind: RewardFunction", "kind: Reward"), encoding="utf-8")
    assert rft("score", reward, written(tmp_path, line("4"))).returncode == 10


REMOTE = reward_manifest("remote", 'http: {url: "%s", tokenKey: GRADER_TOKEN, headers: {x-team: TEAM}}\n')


def test_a_remote_reward_gets_the_credentials_that_it_names_and_no_others(rft, tmp_path, monkeypatch):
    def respond(asked):
        rows = [{"id": s["id"], "aggregate_reward_score": 1, "explanation": "as told"} for s in asked.json()]
        return Answer(rows)

    service = Service(respond)
    reward = tmp_path / "reward.yaml"
    reward.write_text(REMOTE % service.url, encoding="utf-8")
    for name, value in {"GRADER_TOKEN": "token", "TEAM": "red", "OTHER_SECRET": "not for it"}.items():
        monkeypatch.setenv(name, value)
    result = rft("score", reward, written(tmp_path, line("4")), "--output", tmp_path / "scores.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    assert service.asked[0].headers["authorization"] == "Bearer token"
    assert service.asked[0].headers["x-team"] == "red"
    assert '"explanation": "as told"' in (tmp_path / "scores.jsonl").read_text(encoding="utf-8")
    function = load_manifests([reward]).reward_functions["remote"]
    passed = reward_environment(function, {**os.environ, "AWS_SECRET_ACCESS_KEY": "not for it either"})
    assert {"GRADER_TOKEN", "TEAM", "PATH"} <= passed.keys()
    assert not {"OTHER_SECRET", "AWS_SECRET_ACCESS_KEY"} & passed.keys()
    monkeypatch.delenv("TEAM")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "spec.http.headers.x-team: there is no variable TEAM" in result.stderr
    service.close()


def test_a_judge_that_only_a_cluster_has(rft, tmp_path):
    reward = tmp_path / "reward.yaml"
    judge = "judge: {template: Reasoning, model: {endpoint: tuned}}\n"
    reward.write_text(reward_manifest("remote", judge), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4")))
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "spec.judge.model.endpoint: an InferenceEndpoint lives in a cluster" in result.stderr
    assert "set url and name" in result.stderr


def test_names_of_components_are_complete(rft, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "a_component_with_a_rather_long_name"
    reward = tmp_path / "reward.yaml"
    metrics = f'[{{"name": "{name}", "value": 1.0}}]'
    row = f'{{"id": sample["id"], "aggregate_reward_score": 1, "metrics_list": {metrics}}}'
    reward.write_text(sample_reward("long", f"return {row}\n"), encoding="utf-8")
    result = rft("score", reward, written(tmp_path, line("4"), line("5")))
    first_column = "".join(re.sub(r"[\d.\s]+$", "", row).strip() for row in result.stdout.splitlines())
    assert name in first_column


def test_what_scored_zero_by_an_error_and_bad_components_are_counted(rft, tmp_path):
    reward = tmp_path / "reward.yaml"
    reward.write_text(
        sample_reward(
            "careless",
            """\
metrics = [{"name": "even", "value": int(text) % 2 == 0}, {"value": 1}]
return {"id": sample["id"], "aggregate_reward_score": int(text), "metrics_list": metrics}
""",
            "onError: Zero\n",
        ),
        encoding="utf-8",
    )
    file = written(tmp_path, line("4"), line("no number"), line("5"), line("none"))
    result = rft("score", reward, file, "--output", tmp_path / "scores.jsonl")
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "Not scored: 0 of 4" in text
    assert "even (in 2 of 4) 0.500" in text
    zero = f"2 of 4 scored 0 because the code raised an error (onError: Zero); the first: {file}:2: the code raised Val"
    assert zero in text
    assert (
        f"2 of 4 have a component that is a boolean, which counts as 1 or 0; the first: {file}:1: metric 'even'" in text
    )
    assert f"2 of 4 have a component that was left out; the first: {file}:1: metrics_list holds" in text
    rows = [json.loads(row)["score"] for row in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["aggregate_reward_score"] for row in rows] == [4.0, 0.0, 5.0, 0.0]
    assert [[warning["reason"] for warning in row["warnings"]] for row in rows] == [
        ["MetricConverted", "MetricDropped"], ["ErrorScoredZero"], ["MetricConverted", "MetricDropped"],
        ["ErrorScoredZero"],
    ]  # fmt: skip


def test_a_reward_that_is_the_same_for_all_completions_is_said(rft, tmp_path):
    reward = tmp_path / "reward.yaml"
    reward.write_text(
        sample_reward(
            "wrapped",
            """\
a = sample["reference_answer"]
truth = a.get("text", "") if isinstance(a, dict) else ""
return {"id": sample["id"], "aggregate_reward_score": float(bool(truth) and truth in text)}
""",
        ),
        encoding="utf-8",
    )
    file = written(tmp_path, line("#### 6", "#### 6"), line("#### 7", "#### 6"))
    result = rft("score", reward, file)
    assert result.returncode == 0, result.stderr
    assert "All 2 completions scored 0, although 2 of them differ." in result.stdout
    assert "set textReferenceAnswer: AsObject" in result.stdout
    assert 'the completion "#### 6" with reference_answer "#### 6" scored 0.' in result.stdout
    reward.write_text(reward.read_text().replace("    source:", "    textReferenceAnswer: AsObject\n    source:"))
    result = rft("score", reward, file)
    assert "reward 0.500" in " ".join(result.stdout.split())
    assert "although" not in result.stdout


COMPARES = """\
def lambda_handler(event, context):
    groups = {}
    for s in event:
        groups.setdefault(s["group"], []).append(len(s["messages"][-1]["content"]))
    return [
        {"id": s["id"],
         "aggregate_reward_score": sum(n < len(s["messages"][-1]["content"]) for n in groups[s["group"]]),
         "metrics_list": [{"name": "size", "value": len(groups[s["group"]]), "type": "Metric"}]}
        for s in event
    ]
"""


def test_completions_of_the_same_prompt_are_scored_together(rft, tmp_path):
    reward = tmp_path / "reward.yaml"
    reward.write_text(python_reward("compares", COMPARES) + "  scope: Group\n", encoding="utf-8")
    # 70 completions of one prompt, which a request holds only as a whole, between those of 40 other prompts.
    rows = [line("x" * n, "same") for n in range(70)]
    for n in range(40):
        rows[3 * n : 3 * n] = [line("ab" * (n % 2), f"{n}"), line("abc", f"{n}")]
    result = rft("score", reward, written(tmp_path, *rows), "--output", tmp_path / "scores.jsonl")
    assert result.returncode == 0, result.stderr
    scored = [json.loads(row) for row in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["messages"] for row in scored] == [row["messages"] for row in rows]
    for row in scored:
        size = row["score"]["metrics_list"][0]["value"]
        text = row["messages"][-1]["content"]
        if row["reference_answer"] == "same":
            assert (size, row["score"]["aggregate_reward_score"]) == (70.0, float(len(text)))
        else:
            assert (size, row["score"]["aggregate_reward_score"]) == (2.0, float(text == "abc"))


def test_errors_of_the_reward_are_in_the_order_of_its_lines(tmp_path, rft):
    file = tmp_path / "reward.yaml"
    imports = "import numpy\nfrom .own import x\nimport scipy, boto3\n"
    code = f"{imports}def lambda_handler(event, context): return []\n"
    file.write_text(python_reward("same", code), encoding="utf-8")
    result = rft("score", file, written(tmp_path, line("4")))
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    errors = [text.partition(" imports ")[2].partition(",")[0] for text in result.stderr.splitlines()]
    assert errors == ["numpy", ".own", "scipy", "boto3"]


def test_without_a_terminal_scoring_says_how_far_it_is_and_the_time_left(tmp_path, reward, rft, monkeypatch):
    slow = tmp_path / "slow.yaml"
    code = (
        "import time\n\ndef lambda_handler(event, context):\n    time.sleep(0.01 * len(event))\n"
        "    return [{'id': s['id'], 'aggregate_reward_score': 1.0} for s in event]\n"
    )
    slow.write_text(python_reward("slow", code))
    monkeypatch.setattr(stage_display, "SILENCE_SECONDS", 0.0)
    result = rft("score", slow, written(tmp_path, *[line("4")] * 640))
    assert result.returncode == 0
    assert "starting the reward server · for " in result.stderr
    assert re.search(r"^scoring with slow · \d+/640 completions · about \d+s left$", result.stderr, re.MULTILINE)
