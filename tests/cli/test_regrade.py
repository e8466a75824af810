"""`rft rewards regrade`: what a changed reward would have said of a run's stored completions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.finished_runs import config, summary
from support.manifests import sample_reward

from rft_api.exit_codes import ExitCode
from rft_api.run_folder import RunFolder
from rft_api.sources import Data, DataSource
from rft_api.trainer_config import RewardTarget

# Completions of two prompts in each of two steps, with their stored rewards: the length of the text.
STEPS = {
    1: [("p", ["a", "bb"]), ("q", ["cc", "dd"])],
    2: [("p", ["eee", "f"]), ("q", ["g", "h"])],
}
VALIDATIONS = {0: ["a", "a"], 1: ["aaaa", "b"], 2: ["bb", "bb"]}


def reward(folder: Path, expression: str, name: str = "exact", fails: str = "nothing") -> Path:
    file = folder / f"{name}.yaml"
    lines = f"""\
if text == {fails!r}:
    raise ValueError("no opinion")
return {{"id": sample["id"], "aggregate_reward_score": {expression}}}
"""
    file.write_text(sample_reward(name, lines), encoding="utf-8")
    return file


def write_rows(file: Path, prompts: list[tuple[str, list[str]]], source: str = "texts") -> None:
    rows = [
        {
            "sampleId": f"{source}-{prompt}",
            "source": source,
            "prompt": json.dumps([{"role": "user", "content": f"{prompt}?"}]),
            "completion": text,
            "referenceAnswer": json.dumps(None),
            "reward": float(len(text)),
            "error": None,
            "advantage": None,
            "tokens": len(text),
        }
        for prompt, texts in prompts
        for text in texts
    ]
    file.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two steps, whose exported checkpoint is that of step 1: its mean length is 2.5, that of step 2 is 2."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    stated = config(folder.path)
    training = stated.hyperparameters.model_copy(update={"samples_per_prompt": 2})
    stated = stated.model_copy(update={"hyperparameters": training})
    folder.config.write_text(stated.model_dump_json(by_alias=True), encoding="utf-8")
    for step, prompts in STEPS.items():
        write_rows(folder.rollout(step), prompts)
    for step, texts in VALIDATIONS.items():
        write_rows(folder.validation(step), [("v", texts[:1]), ("w", texts[1:])])
    for stage, text in (("base", "a"), ("tuned", "aaaa")):
        write_rows(folder.evaluation(stage), [("t", [text])])  # type: ignore[arg-type]
    result = summary().model_copy(update={"steps": 2, "best_step": 1})
    folder.summary.write_text(result.model_dump_json(by_alias=True), encoding="utf-8")
    return folder


def outcome(result) -> dict[str, object]:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_curves_signal_and_checkpoint_under_another_reward(rft, tmp_path, run):
    """The new reward counts the letters b, c and e: 0, 2 | 2, 0 and 3, 0 | 0, 0; validations 0, 1 and 2, 2."""
    file = reward(tmp_path, "float(sum(text.count(letter) for letter in 'bce'))", name="another")
    run.checkpoint(2).mkdir(parents=True)
    result = rft("rewards", "regrade", run.path, file)
    assert outcome(result) == {
        "completions": 8 + 4 + 2,
        "unscored": 0,
        "differing": 8,
        "steps": [
            {
                "step": 1, "stored": 1.75, "regraded": 1.0, "groups": 2, "withSignalStored": 1, "withSignalRegraded": 2,
                "gainSignal": 1, "loseSignal": 0,
            },
            {
                "step": 2, "stored": 1.5, "regraded": 0.75, "groups": 2, "withSignalStored": 1, "withSignalRegraded": 1,
                "gainSignal": 0, "loseSignal": 0,
            },
        ],
        "validations": [
            {"step": 1, "stored": 2.5, "regraded": 0.5}, {"step": 2, "stored": 2.0, "regraded": 2.0},
        ],
        "evaluations": {"base": {"stored": 1.0, "regraded": 0.0}, "tuned": {"stored": 4.0, "regraded": 0.0}},
        "groups": 4, "withSignalStored": 2, "withSignalRegraded": 3, "gainSignal": 1, "loseSignal": 0,
        "exportedStep": 1, "bestStep": 2, "exportedIsBest": False,
    }  # fmt: skip
    text = " ".join(result.stdout.split())
    for row in ("training, stored", "training, regraded", "validation, stored", "reward, regraded"):
        assert f" {row} " in text
    assert "before" not in text, "before and after are the columns of the report about tuning"
    assert "2 of 4 as stored, 3 as regraded; 1 gain their signal, 0 lose it." in text
    assert "step 1: texts-q gains its signal" in text
    assert "The exported checkpoint, step 1, would not be the best: step 2 has a validation reward of 2.000" in text
    assert "instead of 0.500. Its checkpoint is kept." in text


def test_several_completions_of_a_held_out_prompt_count_as_their_mean(rft, tmp_path, run):
    """The new reward cannot score `zz`, so of its prompt the other completion counts alone."""
    document = json.loads(run.config.read_text())
    document["evaluation"] = {"temperature": "1", "samplesPerPrompt": 2}
    run.config.write_text(json.dumps(document))
    for stage, texts in (("base", ["a", "zz"]), ("tuned", ["aaaa", "aa"])):
        write_rows(run.evaluation(stage), [("t", texts), ("u", ["bb", "bb"])])
    values = outcome(rft("rewards", "regrade", run.path, reward(tmp_path, "10.0 * len(text)", fails="zz")))
    assert values["evaluations"] == {
        "base": {"stored": 1.75, "regraded": 15.0}, "tuned": {"stored": 2.5, "regraded": 25.0},
    }  # fmt: skip


def test_a_reward_that_is_the_same(rft, tmp_path, run):
    result = rft("rewards", "regrade", run.path, reward(tmp_path, "len(text)"))
    values = outcome(result)
    assert (values["differing"], values["gainSignal"], values["loseSignal"]) == (0, 0, 0)
    assert values["exportedIsBest"] is True
    assert "The exported checkpoint, step 1, would still be the best." in result.stdout


def test_a_constant_reward_loses_every_signal(rft, tmp_path, run):
    values = outcome(rft("rewards", "regrade", run.path, reward(tmp_path, "1.0"), "--samples", 1))
    assert (values["withSignalStored"], values["withSignalRegraded"], values["loseSignal"]) == (2, 0, 2)


def test_an_unfinished_run(rft, tmp_path, run):
    run.summary.unlink()
    for step in (1, 2):
        run.validation(step).unlink()
    result = rft("rewards", "regrade", run.path, reward(tmp_path, "len(text)"))
    values = outcome(result)
    assert (values["validations"], values["exportedStep"], values["exportedIsBest"]) == ([], None, None)
    assert "No validation was recorded" in result.stdout


def test_completions_that_it_cannot_score(rft, tmp_path, run):
    result = rft("rewards", "regrade", run.path, reward(tmp_path, "len(text)", fails="bb"))
    values = outcome(result)
    assert values["unscored"] == 3
    assert values["steps"][0]["regraded"] == pytest.approx(5 / 3)
    assert f"{run.rollout(1)}:2: the code raised ValueError: no opinion" in result.stdout
    result = rft("rewards", "regrade", run.path, reward(tmp_path, "None"))
    assert result.returncode == ExitCode.REWARD_FAILING
    assert "no completion could be scored by" in result.stderr


def test_models_are_compared_on_the_prompts_that_all_have_a_score_of(rft, tmp_path, run):
    write_rows(run.evaluation("base"), [("s", ["bb"]), ("t", ["a"])])
    write_rows(run.evaluation("tuned"), [("s", ["aaaaaaaa"]), ("t", ["aaaa"])])
    values = outcome(rft("rewards", "regrade", run.path, reward(tmp_path, "2.0 * len(text)", fails="bb")))
    assert values["evaluations"] == {
        "base": {"stored": 1.5, "regraded": 2.0},
        "tuned": {"stored": 6.0, "regraded": 8.0},
    }


def test_one_reward_of_several(rft, tmp_path, run):
    """Only the source with this reward is scored again; the other keeps its stored rewards."""
    stated = config(run.path)
    names = {"texts": "exact", "more": "b"}
    sources = [DataSource(name=name, uri="/data", reward=reward) for name, reward in names.items()]
    target = RewardTarget(url="http://127.0.0.1:1", token_file=None, digest="sha256:0")
    training = stated.hyperparameters.model_copy(update={"samples_per_prompt": 2})
    several = {"data": Data(train=sources), "rewards": {"exact": target, "b": target}, "hyperparameters": training}
    run.config.write_text(stated.model_copy(update=several).model_dump_json(by_alias=True))
    write_rows(run.rollout(3), [("p", ["aaaa", "aa"])], source="more")
    # The test prompts of the source `texts` have the other reward.
    several["data"] = Data(train=sources, test=[DataSource(name="texts", uri="/data", reward="b")])
    run.config.write_text(stated.model_copy(update=several).model_dump_json(by_alias=True))
    values = outcome(rft("rewards", "regrade", run.path, reward(tmp_path, "0.0")))
    assert values["completions"] == 12
    assert values["evaluations"]["tuned"] == {"stored": 4.0, "regraded": 4.0}
    assert values["steps"][2]["stored"] == values["steps"][2]["regraded"] == 3.0
    result = rft("rewards", "regrade", run.path, reward(tmp_path, "0.0", name="c"))
    assert result.returncode == ExitCode.CONFIGURATION_INVALID
    assert "defines c, and the run uses b, exact; give the changed RewardFunction the name" in result.stderr


def test_what_is_no_run(rft, tmp_path, run):
    file = reward(tmp_path, "1.0")
    result = rft("rewards", "regrade", tmp_path / "absent", file)
    assert (result.returncode, result.stderr.strip()) == (15, f"error: {tmp_path / 'absent'}: there is no such folder")
    for path in run.path.rglob("*.parquet"):
        path.unlink()
    result = rft("rewards", "regrade", run.path, file)
    assert result.returncode == ExitCode.OUTPUT_INVALID
    assert f"{run.path} holds no completions yet" in result.stderr
