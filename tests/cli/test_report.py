"""`rft report`: the before/after table, remarks, honest samples and curves."""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree

import pytest
from support.finished_runs import summary, write_supervised_run

from rft_api.metrics import Gain
from rft_api.run_folder import RolloutRow, RunFolder
from rft_cli.history import History
from rft_cli.report import choose_samples


def test_a_finished_run(rft, finished_run):
    result = rft("report", finished_run.path)
    assert (result.returncode, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    assert "10 held-out prompts base warm-up tuned difference" in text
    assert "reward 0.450 0.500 0.750 +0.300 [+0.100 … +0.500]" in text
    assert "unit 0.650 0.700 0.950 +0.300" in text
    assert "episode length, tokens 23.5 22.0 17.2 −6.3" in text
    assert "Exported: step 50 of 60" in text
    assert "Left out of texts: 3 prompts longer than 256 tokens" in text
    assert "Invocation logs of train/texts: 480 of 900 records taken; left out: 420 Duplicate" in text
    assert "29 of 32 prompts got completions with different rewards" in text
    assert "of 10 prompts 5 improved, 1 worsened, 4 stayed the same" in text
    assert "flatters" not in text
    assert "reward on" not in text


def test_how_completions_were_sampled_and_how_the_model_has_to_be_asked(rft, finished_run):
    assert "Greedy completions." in " ".join(rft("report", finished_run.path).stdout.split())
    evaluation = {"temperature": "0.7", "samplesPerPrompt": 2}
    arguments = {"enable_thinking": False, "effort": "low"}
    for file in (finished_run.summary, finished_run.config):
        document = json.loads(file.read_text())
        document["evaluation"] = evaluation
        document["sampling"] = {
            "systemPrompt": "Sort\x1b[31m." * 40, "chatTemplateArguments": arguments, "stop": ["</a>", "\n"]
        }  # fmt: skip
        file.write_text(json.dumps(document))
    result = rft("report", finished_run.path)
    text = " ".join(result.stdout.split())
    assert "Means of 2 completions of each prompt, sampled at temperature 0.7." in text
    assert "of 10 pairs of completions 5 improved" in text
    assert 'chat_template_kwargs {"enable_thinking": false, "effort": "low"}, stop ["</a>", "\\n"].' in text
    assert "Ask the tuned model with the system message" in text
    assert "\x1b" not in result.stdout
    svg = finished_run.curves.with_suffix(".svg").read_text()
    assert "<!-- validation (sampled) -->" in svg
    assert "greedy" not in svg


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (Gain(mean=-1.5, low=-1.75, high=-1.25), ""),
        (Gain(mean=-0.5, low=-1.5, high=0.5), "The interval includes 0: this change may be chance."),
        (Gain(mean=1.5, low=1.25, high=1.75), "The tuned model predicts these answers worse than the base model."),
    ],
    ids=["better", "chance", "worse"],
)
def test_a_run_that_is_its_warm_up_alone(rft, tmp_path, change, remark):
    folder = RunFolder(tmp_path / "run")
    write_supervised_run(folder, change)
    result = rft("report", folder.path)
    assert (result.returncode, result.stderr) == (0, "")
    text = " ".join(result.stdout.replace("−", "-").split())
    assert "40 validation conversations base tuned difference" in text
    interval = f"[{change.low:+.3f} … {change.high:+.3f}]"
    assert f"loss 2.000 {2 + change.mean:.3f} {change.mean:+.3f} {interval}" in text
    assert "the 520 tokens of their answers; lower is better" in text
    assert remark in text
    assert [word in text for word in ("chance", "worse")] == [word in remark for word in ("chance", "worse")]
    assert "reward" not in text
    assert "Data: 160 conversations that were imitated, 40 for validation" in text
    assert "Exported: step 20 of 20" in text
    svg = folder.curves.with_suffix(".svg").read_text()
    assert "<!-- Loss -->" in svg
    assert "<!-- validation -->" in svg
    assert "Advantages" not in svg
    folder.summary.unlink()
    unfinished = " ".join(rft("report", folder.path).stdout.split())
    assert "validation loss 0.773 0.284 0.284" in unfinished
    assert "Steps: 20" in unfinished


NAMES = ["$\\x$", "$\\frac{", "_hidden", "a$b$c", "half \ud800", "\x1b[2J\u202e", "x" * 5000, "<script>&"]


def test_names_of_components_are_no_formulas(rft, finished_run):
    """Matplotlib takes texts between $ for formulas, and leaves out of a legend what begins with an underscore."""
    lines = finished_run.metrics.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["split"] == "train":
            row["components"] = dict.fromkeys(NAMES, 0.5)
    finished_run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = rft("report", finished_run.path)
    assert result.returncode == 0, result.stderr
    assert "Curves: " in result.stdout
    svg = finished_run.curves.with_suffix(".svg").read_text(encoding="utf-8")
    for name in ("$\\x$", "$\\frac{", " _hidden", "a$b$c", "half \\ud800", "\\x1b[2J\\u202e", "&lt;script&gt;"):
        assert f"<!-- {name}" in svg


def test_the_curves_are_real_files_and_repeatable(rft, finished_run):
    rft("report", finished_run.path)
    svg, png = finished_run.curves.with_suffix(".svg"), finished_run.curves.with_suffix(".png")
    assert ElementTree.fromstring(svg.read_text()).tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert width > 1000
    assert height > 1000
    first = svg.read_bytes()
    rft("report", finished_run.path)
    assert svg.read_bytes() == first


def test_a_gain_measured_on_validation_prompts_is_called_flattering(rft, finished_run):
    finished_run.summary.write_text(summary(held_out="validation").model_dump_json(by_alias=True))
    assert "The checkpoint was chosen on these same prompts, so the gain flatters it" in rft(
        "report", finished_run.path
    ).stdout.replace("\n", " ")


def test_the_gain_beside_its_interval_is_that_of_the_prompts_that_both_models_scored(rft, finished_run):
    document = json.loads(finished_run.summary.read_text())
    document["gain"] = {"mean": 0.25, "low": 0.2, "high": 0.29, "confidence": 0.95}
    document["tuned"]["rewardsFailed"] = 2
    finished_run.summary.write_text(json.dumps(document))
    text = " ".join(rft("report", finished_run.path).stdout.split())
    assert "reward 0.450 0.500 0.750 +0.250 [+0.200 … +0.290]" in text


def test_a_gain_that_may_be_chance_is_said_to_be(rft, finished_run):
    document = json.loads(finished_run.summary.read_text())
    document["gain"] = {"mean": 0.02, "low": -0.01, "high": 0.05, "confidence": 0.95}
    finished_run.summary.write_text(json.dumps(document))
    assert "may be chance" in rft("report", finished_run.path).stdout


def test_several_sources_have_rows(rft, finished_run):
    finished_run.summary.write_text(summary(sources=("tax", "math")).model_dump_json(by_alias=True))
    text = rft("report", finished_run.path).stdout
    assert "reward on math" in text
    assert "reward on tax" in text


def test_shadows_and_what_is_suspected_of_the_reward(rft, finished_run):
    document = json.loads(finished_run.summary.read_text())
    for stage, value in (("base", 0.6), ("warmup", 0.5), ("tuned", 0.2)):
        document[stage]["shadows"] = {"brief": value}
    document["rewardHacking"] = {"suspected": True, "message": "at step 50 the reward has changed by +0.300"}
    finished_run.summary.write_text(json.dumps(document))
    lines = [json.loads(line) for line in finished_run.metrics.read_text().splitlines()]
    for line in lines:
        line["shadows"] = {"brief": {"reward": 0.6 - line["step"] / 100, "failed": int(line["step"] in (3, 10))}}
    finished_run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = " ".join(rft("report", finished_run.path).stdout.split())
    assert "shadow brief 0.600 0.500 0.200 −0.400" in text
    assert "Reward hacking suspected: at step 50 the reward has changed by +0.300" in text
    # Of steps 3 and 10, and of the validation after step 10.
    assert "Completions that shadow brief could not score: 3" in text
    svg = finished_run.curves.with_suffix(".svg").read_text()
    assert "<!-- shadow brief (greedy) -->" in svg


def test_an_unfinished_run_says_what_is_missing(rft, finished_run):
    finished_run.summary.unlink()
    with finished_run.metrics.open("a") as file:
        file.write('{"split": "train", "step": 61')  # being written
    result = rft("report", finished_run.path)
    assert result.returncode == 0
    assert "This run is not finished" in result.stdout
    assert "Steps: 60" in result.stdout
    assert finished_run.curves.with_suffix(".svg").exists()


def test_a_run_that_ended_before_it_trained_shows_what_the_base_model_wrote(rft, finished_run):
    finished_run.summary.unlink()
    finished_run.metrics.unlink()
    finished_run.evaluation("tuned").unlink()
    result = rft("report", finished_run.path)
    assert result.returncode == 0
    assert "Samples: 5 of 10 completions of the base model" in result.stdout
    assert result.stdout.count("completion ") == 5


def test_paths_in_the_current_folder_are_short(rft, finished_run, monkeypatch):
    monkeypatch.chdir(finished_run.path.parent)
    name = finished_run.path.name
    text = rft("report", finished_run.path).stdout
    assert f"Curves: {name}/curves.svg, {name}/curves.png" in text
    assert f"→ {name}/best" in text


def test_a_run_that_has_only_begun(rft, finished_run):
    finished_run.summary.unlink()
    finished_run.metrics.unlink()
    result = rft("report", finished_run.path)
    assert result.returncode == 0
    assert "No training step has been recorded" in result.stdout


def test_not_a_run(rft, tmp_path):
    result = rft("report", tmp_path)
    assert result.returncode == 15
    assert "is not the output of a run: it has no job.json" in result.stderr
    assert rft("report", tmp_path / "gone").returncode == 15


def test_damaged_files_are_named(rft, finished_run):
    finished_run.evaluation("base").write_bytes(b"no parquet")
    result = rft("report", finished_run.path)
    assert result.returncode == 15
    assert "base.parquet is not a file of rollouts" in result.stderr
    finished_run.summary.write_text("{")
    result = rft("report", finished_run.path)
    assert result.returncode == 15
    assert "summary.json cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_completions_cannot_steer_the_terminal(rft, finished_run):
    import pyarrow.parquet

    file = finished_run.evaluation("base")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    for row in rows:
        row["completion"] = "\x1b]0;title\x07\x1b[2J[red]hello[/red]"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    text = rft("report", finished_run.path).stdout
    assert "\x1b" not in text
    assert "\\x1b[2J[red]hello[/red]" in text


@pytest.mark.parametrize("reward", [1.7e308, -1.7e308])
def test_a_number_that_cannot_be_drawn_is_named(rft, finished_run, reward):
    lines = finished_run.metrics.read_text().splitlines()
    changed = {**json.loads(lines[0]), "reward": reward}
    finished_run.metrics.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    result = rft("report", finished_run.path)
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    assert f"The curves cannot be drawn: step {changed['step']}: reward is {reward:g}" in text


def rollouts(rewards: list[float | None]) -> list[RolloutRow]:
    return [
        RolloutRow(
            sample_id=str(index), source="s", prompt=str(index), completion="", reference_answer="null",
            reward=reward, error=None if reward is not None else "timeout", advantage=None, tokens=1,
        )
        for index, reward in enumerate(rewards)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # the best two, the worst one, then unchanged ones in the data's order
        (
            [0, 0, 0, 1, 1, 0, 0, 1],
            [0.5, 1, 0.7, 0, 0.5, 0, 0, 1],
            ["1 most improved", "2 most improved", "3 most worsened", "5 unchanged", "6 unchanged"],
        ),
        # nothing worsened, nothing unchanged: others in the data's order, not the next best
        (
            [0] * 6,
            [0.1, 0.2, 0.9, 0.3, 0.8, 0.4],
            ["2 most improved", "4 most improved", "0 improved", "1 improved", "3 improved"],
        ),
        # worse everywhere is shown as it is
        ([1] * 3, [0.5, 0, 0.7], ["1 most worsened", "0 worsened", "2 worsened"]),
        # prompts without a score cannot be compared
        ([None, 0, 1], [1, None, 1], ["2 unchanged"]),
    ],
)
def test_samples_are_chosen_by_a_rule(before, after, expected):
    chosen = choose_samples(rollouts(before), rollouts(after))
    assert [f"{pair.before.prompt} {pair.label}" for pair in chosen] == expected


def test_a_repeated_step_counts_once(finished_run):
    lines = finished_run.metrics.read_text().splitlines()
    repeated = json.loads(lines[-2])
    finished_run.metrics.write_text("\n".join([*lines, json.dumps({**repeated, "reward": 0.123})]) + "\n")
    history = History(finished_run.metrics)
    history.update()
    assert len(history.steps) == 60
    assert history.steps[-1].reward == 0.123
