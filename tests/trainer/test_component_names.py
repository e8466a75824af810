"""Names of components that a reward makes up: what is recorded of them is limited, and the rewards stay as they are."""

import json

import pyarrow.parquet as pq
import pytest
from prometheus_client import generate_latest
from support.services import Answer, Service
from support.trainer import job_spec, render, train_in_process

from rft_api import reward_protocol
from rft_api.component_names import LONGEST_NAME, MOST_RECORDED_NAMES, component_name
from rft_api.metrics import ValidationMetrics
from rft_api.reward_protocol import match_rows, match_scores
from rft_api.run_folder import RunFolder
from rft_reward.combine import combine
from rft_reward.metrics import Metrics
from rft_trainer.component_limit import ComponentLimit, recorded_names
from rft_trainer.data import Prompt
from rft_trainer.metrics_log import append_metrics, read_steps, read_validations
from rft_trainer.progress import ProgressReporter
from rft_trainer.rollouts import component_means, scored, write_rollouts

PROMPT = Prompt(id="p", messages=[], reference_answer=None, metadata={}, source="s", reward="r")


def rows_of(*names_of_rows):
    """Completions as they come from a reward server, with components of these names."""
    answer = [
        {
            "id": str(number),
            "aggregate_reward_score": 0.5 + number,
            "metrics_list": [{"name": name, "value": float(place)} for place, name in enumerate(names)],
        }
        for number, names in enumerate(names_of_rows)
    ]
    scores = match_scores([str(number) for number in range(len(names_of_rows))], json.loads(json.dumps(answer)))
    return [scored(PROMPT, "text", 1, False, score) for score in scores]


KIN = {
    "100 for each of 64 completions": [[f"{row}/{name}" for name in range(100)] for row in range(64)],
    "one for each completion": [[f"the completion {row}"] for row in range(1000)],
    "10,000 for one completion": [[str(name) for name in range(10_000)]],
    "long ones": [["a" * 100_000 + str(name) for name in range(100)]],
    "ones that look equal": [["a" + "\u200b" * name for name in range(100)]],
    "other scripts": [[f"\U0001f600{row}" * 50] for row in range(100)],
}


@pytest.mark.parametrize("kind", KIN)
def test_made_up_names_are_limited(kind, tmp_path, caplog):
    rows, limit = rows_of(*KIN[kind]), ComponentLimit()
    count = sum(min(len(names), reward_protocol.MOST_SAMPLE_COMPONENTS) for names in KIN[kind])
    left_out = sum(limit.apply(rows[start : start + 64]) for start in range(0, len(rows), 64))
    means = component_means(rows)
    assert len(means) <= MOST_RECORDED_NAMES
    assert max(map(len, means)) <= LONGEST_NAME
    assert left_out == count - sum(len(row.components) for row in rows) > 0
    assert [row.reward for row in rows] == [0.5 + number for number in range(len(rows))]
    assert sum("names more than 64 components" in message for message in caplog.messages) == 1
    write_rollouts(tmp_path / "rows.parquet", rows)
    assert len(pq.read_schema(tmp_path / "rows.parquet").names) <= 11 + MOST_RECORDED_NAMES
    reporter = ProgressReporter("team", "tax")
    reporter.record_validation(
        ValidationMetrics(
            step=1,
            reward=0.5,
            components=means,
            sources={},
            episode_length=1,
            rewards_failed=0,
            seconds=1,
        )
    )
    series = generate_latest(reporter.registry)
    assert series.count(b"\nrft_train_reward_component_mean{") <= MOST_RECORDED_NAMES
    assert len(series) < 64 << 10


def test_names_that_every_completion_has_are_kept():
    rows = rows_of(*(["exact", f"id {row}", "format"] for row in range(500)))
    ComponentLimit().apply(rows)
    assert all({"exact", "format"} <= set(row.components) for row in rows)
    assert component_means(rows)["format"] == 2.0


@pytest.mark.parametrize(
    "name",
    [
        "x\n2026-01-01 ERROR forged",
        "\x1b[2J",
        "\u202eevil",
        "\ud800",
        "\0",
        "a" * 129,
        "  \t",
        "a\u2028b",
        "\U000e0001",
    ],
)
def test_names_are_one_line_and_stay_different(name):
    shown = component_name(name)
    assert shown.isprintable()
    assert len(shown) <= LONGEST_NAME
    assert component_name(shown) == shown, "it is not changed again where it is read"
    assert shown != component_name(name + "\n")


@pytest.mark.parametrize("name", ["exact", "format reward", "judge/réponse", "a" * 128, "", "a  b"])
def test_names_of_people_are_kept(name):
    assert component_name(name) == name


def test_a_longer_name_of_a_term_is_recorded_alike_by_the_server_and_by_the_trainer():
    answer = [{"id": "a", "aggregate_reward_score": 1.0, "metrics_list": [{"name": "n" * LONGEST_NAME, "value": 1.0}]}]
    rows = combine(["term"], [1.0], [match_rows(["a"], answer)])
    metrics = Metrics()
    metrics.count_scores(rows)
    (family,) = (family for family in metrics.registry.collect() if family.name == "rft_reward_component")
    series = {sample.labels["component"] for sample in family.samples}
    (score,) = match_scores(["a"], rows)
    assert series == set(scored(PROMPT, "text", 1, False, score).components)
    assert "term" in series
    assert {len(name) <= LONGEST_NAME for name in series} == {True}


def test_a_later_start_of_a_run_keeps_its_names(tmp_path):
    folder = RunFolder(str(tmp_path))
    first = rows_of([f"early {number}" for number in range(40)])
    ComponentLimit().apply(first)
    folder.evaluation("base").parent.mkdir()
    write_rollouts(folder.evaluation("base"), first)
    second = rows_of([f"later {number}" for number in range(60)])
    ComponentLimit(recorded_names(folder)).apply(second)
    line = ValidationMetrics(
        step=1,
        reward=0.5,
        components=component_means(second),
        sources={},
        episode_length=1,
        rewards_failed=0,
        seconds=1,
    )
    append_metrics(folder, line)
    assert len(recorded_names(folder)) == MOST_RECORDED_NAMES
    third = rows_of(["early 3", "later 4", "new"])
    assert ComponentLimit(recorded_names(folder)).apply(third) == 1
    assert set(third[0].components) == {"early 3", "later 4"}


def test_a_run_counts_what_it_leaves_out(model, data, tmp_path):
    """The reward names 100 components, others for each completion."""
    calls = []

    def answer(asked):
        rows = asked.json()
        calls.append(len(rows))
        return Answer(
            [
                {
                    "id": row["id"],
                    "aggregate_reward_score": float(len(row["messages"][-1]["content"]) % 3),
                    "metrics_list": [
                        {"name": "kept" if not number else f"{row['id']}/{len(calls)}/{number}", "value": 1.0}
                        for number in range(100)
                    ],
                }
                for row in rows
            ],
        )

    service = Service(answer)
    config = render(job_spec(model, data, tmp_path / "out"), tmp_path, service.url, None)
    train_in_process(config)
    service.close()
    folder = RunFolder(config.output)
    lines = [*read_steps(folder), *read_validations(folder)]
    assert all(line.components_left_out > 0 and line.components["kept"] == 1.0 for line in lines)
    assert len(recorded_names(folder)) <= MOST_RECORDED_NAMES
    files = [*folder.rollouts.glob("*.parquet"), *folder.validation(1).parent.glob("*.parquet")]
    assert files
    assert all(len(pq.read_schema(file).names) <= 11 + MOST_RECORDED_NAMES for file in files)
