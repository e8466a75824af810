"""Every example: valid manifests, data that loads, rewards that pass their tests and know the reference answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.reward_server import RewardServer

from rft_api.manifests import Manifests, load_manifests
from rft_api.render import RewardAddress, render_trainer_config, reward_names
from rft_api.trainer_config import TrainerConfig
from rft_trainer.data import Prompt, load_conversations, load_dataset, mix

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OTHERS = ("fine-tuning-api", "rewards", "serving")
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name not in OTHERS)
"""The examples that are jobs; test_rewards_from_files.py has the rewards, test_serving.py the endpoints, and
tests/gateway/in_cluster/test_fine_tuning_scripts.py the scripts."""

every_example = pytest.mark.parametrize("name", NAMES)


def manifests(name: str) -> Manifests:
    return load_manifests(sorted((EXAMPLES / name).glob("*.yaml")))


def configuration(name: str) -> TrainerConfig:
    """The job's configuration, with paths as a local run finds them."""
    found = manifests(name)
    nowhere = {reward: RewardAddress("", None) for reward in found.reward_functions}
    return render_trainer_config(
        found.jobs[0], found.reward_functions, nowhere, lambda uri: str((EXAMPLES / name / uri).resolve())
    )


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def question(row: dict[str, Any]) -> str:
    """What tells a row from others: its last user message."""
    return next(m["content"] for m in reversed(row["messages"]) if m["role"] == "user").casefold()


@every_example
def test_it_is_whole_and_in_the_index(name):
    folder = EXAMPLES / name
    assert (folder / "job.yaml").is_file()
    assert (folder / "README.md").is_file()
    assert (folder / "make_data.py").is_file()
    assert f"[{name}]({name}/README.md)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    # The command that the page states is the command that works.
    assert f"rft run examples/{name}\n" in (folder / "README.md").read_text(encoding="utf-8")
    found = manifests(name)
    assert [job.metadata.name for job in found.jobs] == [name]
    assert found.jobs[0].spec.output.uri == f"../../runs/{name}"
    assert reward_names(found.jobs[0]) == sorted(found.reward_functions)


@every_example
def test_its_manifests_are_valid(name, model):
    command = [sys.executable, "-m", "rft_cli.main", "validate", f"examples/{name}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "are valid" in result.stdout


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Any:
    from rft_trainer.modeling import load_tokenizer

    return load_tokenizer(str(model))


@every_example
def test_its_data_loads_and_suffices(name, tokenizer):
    from rft_trainer.modeling import prompt_token_ids

    config = configuration(name)
    training = config.hyperparameters

    def count_tokens(messages):
        return len(prompt_token_ids(tokenizer, messages))

    dataset = load_dataset(config.data, training.max_prompt_tokens, count_tokens)
    assert dataset.too_long == {}
    if config.is_reinforced:
        assert dataset.validation
        assert training.max_steps is not None
        order = mix(dataset.train, dataset.weights, training.epochs, training.seed)
        assert len(order) // training.batch_size >= training.max_steps
    if config.warmup:
        assert load_conversations(config.warmup.data, count_tokens).conversations
    assert all(prompt.reference_answer for prompt in every_prompt(config))


def every_prompt(config: TrainerConfig) -> list[Prompt]:
    data = config.data.model_copy(update={"validation_fraction": 0.0})
    dataset = load_dataset(data, sys.maxsize, lambda messages: 0)
    return [*(prompt for found in dataset.train.values() for prompt in found), *dataset.validation, *dataset.test]


@every_example
def test_its_rewards_pass_their_tests_and_give_full_marks_to_the_reference_answers(name, tmp_path):
    prompts = every_prompt(configuration(name))
    for reward, function in manifests(name).reward_functions.items():
        assert function.spec.tests
        document = function.to_json_object()["spec"]
        with RewardServer(tmp_path / reward, document) as server:  # ready means that its tests have passed
            samples = [perfect(str(i), prompt) for i, prompt in enumerate(prompts) if prompt.reward == reward]
            assert samples
            rows = server.score(samples)
        assert [row for row in rows if row["aggregate_reward_score"] != 1] == []


def perfect(sample_id: str, prompt: Prompt) -> dict[str, Any]:
    """A sample whose completion is the reference answer itself."""
    reference = prompt.reference_answer
    text = reference if isinstance(reference, str) else json.dumps(reference)
    return {
        "id": sample_id,
        "messages": [*prompt.messages, {"role": "assistant", "content": text}],
        "reference_answer": reference,
        "metadata": {**prompt.metadata, "reference_answer": reference},
    }


@every_example
def test_code_in_its_manifests_equals_a_file(name):
    files = {path.read_text(encoding="utf-8"): path.name for path in (EXAMPLES / name).glob("*.py")}
    for function in manifests(name).reward_functions.values():
        for _, grader in function.spec.graders():
            if grader.python is not None:
                assert grader.python.source in files


@every_example
def test_no_row_is_in_two_files_or_twice_in_one(name):
    questions = [question(row) for file in sorted((EXAMPLES / name / "data").glob("*.jsonl")) for row in rows(file)]
    assert questions
    assert len(set(questions)) == len(questions)


def make_data(folder: Path, *arguments: object) -> None:
    command = [sys.executable, str(folder / "make_data.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["lambda-handler", "warmup"])
def test_its_script_makes_the_committed_files(name, tmp_path):
    for needed in {"quickstart", name}:
        shutil.copytree(EXAMPLES / needed, tmp_path / needed)
    for file in (tmp_path / name / "data").iterdir():
        file.unlink()
    make_data(tmp_path / name)
    committed = EXAMPLES / name / "data"
    made = {file.name: file.read_bytes() for file in (tmp_path / name / "data").iterdir()}
    assert made == {file.name: file.read_bytes() for file in committed.iterdir()}


def write(file: Path, conversations: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in conversations), encoding="utf-8")
    return file


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def test_the_quickstarts_script_splits_sentences(tmp_path):
    first = write(tmp_path / "a", [asked("They cost $2 each. She has 3 or 4 cats. How many legs are there on 5 dogs?")])
    second = write(tmp_path / "b", [asked("THEY COST $2 EACH. Ann ate 25% of it. He ran 1,200 miles.")])
    make_data(EXAMPLES / "quickstart", first, second, "--output", tmp_path / "out")
    made = {file.stem: rows(file) for file in (tmp_path / "out").iterdir()}
    assert [row["messages"][-1]["content"] for row in made["test"]] == ["Text: They cost $2 each."]
    answers = [(row["reference_answer"]["value"], row["reference_answer"]["unit"]) for row in made["validation"]]
    assert sorted(answers) == [("1,200", "miles"), ("25", "%")]
    assert made["train"] == []


def test_the_multi_task_script_makes_rows_for_both_rewards(tmp_path):
    numbers = [
        asked("How many are 2 and 3?", reference_answer={"text": "<<2+3=5>>5", "final_answer": "5"}),
        asked("What is a half of 3?", reference_answer={"text": "<<3/2=1.5>>1.5", "final_answer": "1.5"}),
    ]
    labelled = [
        asked(f"Sentence: {text}\nTarget: t", reference_answer={"sentiment": sentiment})
        for text, sentiment in [
            ("long and good", "positive"),
            ("good", "positive"),
            ("so", "neutral"),
            ("bad", "negative"),
        ]
        for _ in range(35)
    ]
    out = tmp_path / "out"
    make_data(EXAMPLES / "multi-task", write(tmp_path / "a", numbers), write(tmp_path / "b", labelled), "--output", out)
    assert [row["reference_answer"] for row in rows(out / "words.jsonl")] == ["5"]
    assert [row["reference_answer"] for row in rows(out / "sentiment.jsonl")] == ["positive", "negative"] * 35


def test_every_example_explains_itself_in_its_manifest():
    for name in NAMES:
        for file in (EXAMPLES / name).glob("*.yaml"):
            text = file.read_text(encoding="utf-8")
            assert text.startswith("# "), f"{file} does not say what it is"
            assert list(yaml.safe_load_all(text))
