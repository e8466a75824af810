"""Settings of sampling and evaluation: that they reach every completion, and what they change in a run's results."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from statistics import fmean

import pyarrow.parquet as pq
import pytest
from support.qwen3 import EMPTY_THINKING, write_qwen3
from support.rollout_stand_in import requests_of, stand_in_command
from support.tiny import write_jsonl
from support.trainer import TrainerProgram, curve, hyperparameters, job_spec, render
from transformers import PreTrainedTokenizerBase

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.prompts import with_system_prompt
from rft_api.run_folder import RunFolder
from rft_api.sampling import RESERVED_ARGUMENTS
from rft_api.sources import Data, DataSource
from rft_api.summary import Summary
from rft_trainer import evaluation
from rft_trainer.conversations import conversation_check
from rft_trainer.data import Prompt, load_dataset
from rft_trainer.flow import Run
from rft_trainer.hacking import compare
from rft_trainer.modeling import load_tokenizer, prompt_token_ids
from rft_trainer.progress import ProgressReporter
from rft_trainer.rewards import ShadowScore
from rft_trainer.rollout_servers import process
from rft_trainer.rollouts import ScoredCompletion
from rft_trainer.statistics import paired_bootstrap, prompt_means

SYSTEM = "Sort the digits."
STOPS = ["7", "a", "e", "\n"]
NO_THINKING = {"enable_thinking": False}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return write_qwen3(tmp_path_factory.mktemp("qwen3") / "model")


def test_every_prompt_that_is_completed_has_the_settings_of_the_job(tmp_path, qwen3, data, rewards, monkeypatch):
    """A run with all of them, from data to table: warm-up, baseline, preflight, training, validation, final table."""
    rendered, completed, tokenizer = [], [], load_tokenizer(str(qwen3))
    apply, sample = PreTrainedTokenizerBase.apply_chat_template, evaluation.sample_completions

    def note_rendering(self, conversation, *args, **kwargs):
        rendered.append((conversation, kwargs))
        return apply(self, conversation, *args, **kwargs)

    def note_completions(model, prompt_ids, **kwargs):
        completed.append((tokenizer.batch_decode(prompt_ids), kwargs))
        return sample(model, prompt_ids, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", note_rendering)
    monkeypatch.setattr(evaluation, "sample_completions", note_completions)
    spec = job_spec(
        qwen3, data, tmp_path / "out",
        hyperparameters=hyperparameters(maxSteps=2, maxPromptTokens=96, maxCompletionTokens=12),
        tuning={"type": "LoRA", "rank": 4},
        sampling={"systemPrompt": SYSTEM, "chatTemplateArguments": NO_THINKING, "stop": STOPS},
        evaluation={"temperature": "0.9", "samplesPerPrompt": 3},
        warmup={"data": [{"name": "w", "uri": str(data / "warmup.jsonl")}]},
        preflight={"prompts": 4, "action": "Warn"},
    )  # fmt: skip
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    folder = RunFolder(config.output)
    folder.path.mkdir()
    folder.config.write_text(config.model_dump_json(by_alias=True))

    def start():
        return Run(config, None, 0, ProgressReporter("default", "test"), lambda: False)

    start().warm_up()
    for_warmup = len(rendered)
    summary = start().train()

    assert for_warmup > 40, "the warm-up renders its conversations to check them, and to learn from them"
    assert [kwargs for _, kwargs in rendered if kwargs.get("enable_thinking") is not False] == []
    ends = f"3142<|im_end|>\n<|im_start|>assistant\n{EMPTY_THINKING}"[4:]
    prompts = [prompt for texts, _ in completed for prompt in texts]
    # Held-out prompts of three models and of one validation, each with 3 completions; preflight; two steps.
    assert len(prompts) == 3 * (3 * 24 + 8) + 4 * 4 + 2 * 16
    assert all(prompt.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n") for prompt in prompts)
    assert all(prompt.endswith(ends) and prompt.count("<think>") == 1 for prompt in prompts)
    assert all(kwargs["stops"].texts == tuple(STOPS) for _, kwargs in completed)
    assert {kwargs["temperature"] for _, kwargs in completed} == {0.9, 1.0}

    reasons = set()
    for file in (folder.evaluation("base"), folder.evaluation("tuned"), folder.validation(2), folder.rollout(1)):
        for row in pq.read_table(file).to_pylist():
            assert json.loads(row["prompt"])[0] == {"role": "system", "content": SYSTEM}
            text = row["completion"]
            found = [stop for stop in STOPS if stop in text]
            if found:
                assert row["finishReason"] == "stop"
                assert text.endswith(tuple(found))
            reasons.add((bool(found), row["finishReason"]))
    assert {(True, "stop"), (False, "length")} <= reasons
    assert summary.sampling == config.sampling
    assert summary.prompts == 24
    assert summary.warmup is not None


def test_the_prompts_that_reach_rollout_servers_have_the_settings_of_the_job(
    tmp_path, qwen3, data, rewards, monkeypatch
):
    """In every stage of a run, with the tokens that the chat template of Qwen3 has without thoughts."""
    monkeypatch.setattr(process, "server_command", lambda settings, socket: stand_in_command(socket, tmp_path))
    spec = job_spec(
        qwen3, data, tmp_path / "out",
        hyperparameters=hyperparameters(maxSteps=2, maxPromptTokens=96, maxCompletionTokens=12),
        tuning={"type": "LoRA", "rank": 4},
        sampling={"systemPrompt": SYSTEM, "chatTemplateArguments": NO_THINKING, "stop": STOPS},
        evaluation={"temperature": "0.9", "samplesPerPrompt": 3},
        preflight={"prompts": 4, "action": "Warn"},
        compute={"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}},
    )  # fmt: skip
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    folder = RunFolder(config.output)
    folder.path.mkdir()
    folder.config.write_text(config.model_dump_json(by_alias=True))
    Run(config, None, 0, ProgressReporter("default", "test"), lambda: False).train()

    tokenizer = load_tokenizer(str(qwen3))
    dataset = load_dataset(config.data, 96, lambda messages: 1, SYSTEM)
    training, *held_out = (
        {tuple(prompt_token_ids(tokenizer, prompt.messages, NO_THINKING)) for prompt in prompts}
        for prompts in (dataset.train["digits"], dataset.validation, dataset.test)
    )
    assert all(tokenizer.decode(ids).endswith(EMPTY_THINKING) for ids in training.union(*held_out))
    (bodies,) = requests_of(tmp_path, "/v1/completions").values()
    assert {body["model"] for body in bodies} == {"base", "policy-v0", "policy-v1", "policy-v2", "tuned"}
    asked = {temperature: [body for body in bodies if body["temperature"] == temperature] for temperature in (0.9, 1.0)}
    assert {tuple(body["prompt"]) for body in asked[0.9]} == set().union(*held_out)
    assert {tuple(body["prompt"]) for body in asked[1.0]} <= training
    assert (len(asked[0.9]), len(asked[1.0])) == (3 * (2 * 24 + 8), 4 * 4 + 2 * 16)
    assert all(len({body["seed"] for body in each}) == len(each) for each in asked.values())
    assert all(body["stop"] == STOPS and body["include_stop_str_in_output"] for body in bodies)


def test_thinking_is_on_unless_it_is_turned_off(qwen3):
    tokenizer = load_tokenizer(str(qwen3))
    messages = [{"role": "user", "content": "1 + 1"}]
    on, off = ({"enable_thinking": value} for value in (True, False))
    assert prompt_token_ids(tokenizer, messages, on) == prompt_token_ids(tokenizer, messages)
    assert tokenizer.decode(prompt_token_ids(tokenizer, messages, off)).endswith(f"assistant\n{EMPTY_THINKING}")
    # An answer without thoughts can be imitated only where the prompt ends with the empty ones.
    conversation = [*messages, {"role": "assistant", "content": "2"}]
    conversation_check(str(qwen3), tokenizer, off)(conversation)
    with pytest.raises(ValueError, match="not as it is written, '2'"):
        conversation_check(str(qwen3), tokenizer, on)(conversation)


def test_a_name_that_the_template_never_reads_is_refused(qwen3):
    with pytest.raises(RunError) as raised:
        load_tokenizer(str(qwen3), {"enable_thinkin": False, "enable_thinking": False})
    assert raised.value.code is ExitCode.CONFIGURATION_INVALID
    assert raised.value.message == (
        f"spec.sampling.chatTemplateArguments: the chat template of model {qwen3} never reads enable_thinkin; names "
        f"that it reads: content, enable_thinking, reasoning_content"
    )


@pytest.mark.parametrize(
    ("template", "is_read"),
    [
        ("{{ x }}", True),
        ("{% if x is defined and x %}a{% endif %}", True),
        ("{% if x is not defined %}{% set x = 1 %}{% endif %}{{ x }}", True),
        ("{% if tools %}{% set x = 1 %}{% endif %}{{ x }}", True),
        ("{% for message in messages %}{{ x }}{% endfor %}", True),
        ("{% set x = 1 %}{{ x }}", False),
        ("{% for x in messages %}{{ x.content }}{% endfor %}", False),
        ("{{ messages[0].x }}", False),
    ],
)
def test_what_a_template_reads(qwen3, tmp_path, template, is_read):
    for file in qwen3.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").write_text(template)
    if is_read:
        load_tokenizer(str(tmp_path), {"x": "b"})
    else:
        with pytest.raises(RunError, match="never reads x"):
            load_tokenizer(str(tmp_path), {"x": "b"})


def test_names_that_callers_of_a_template_give_are_reserved():
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    assert named - {"self"} <= RESERVED_ARGUMENTS.keys()


@pytest.mark.parametrize(("role", "keeps"), [("system", True), ("developer", True), ("user", False)])
def test_a_row_keeps_its_own_system_message(role, keeps):
    messages = [{"role": role, "content": "a"}, {"role": "user", "content": "b"}]
    completed = with_system_prompt(messages, SYSTEM)
    assert completed == (messages if keeps else [{"role": "system", "content": SYSTEM}, *messages])
    assert with_system_prompt(messages, None) == messages


def test_the_system_prompt_counts_in_the_length_of_a_prompt(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "12"}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "12"}]},
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    source = DataSource(name="digits", uri=str(tmp_path / "train.jsonl"), reward="digits")
    data = Data(train=[source], validation=[source])

    def characters(messages):
        return sum(len(message["content"]) for message in messages)

    assert [characters(row.messages) for row in load_dataset(data, 99, characters, SYSTEM).train["digits"]] == [18, 3]
    assert load_dataset(data, 17, characters, SYSTEM).too_long == {"train/digits": 1, "validation/digits": 1}


def run(folder, model, data, rewards, **changes) -> TrainerProgram:
    spec = job_spec(model, data, folder / "out", hyperparameters=hyperparameters(maxSteps=4), **changes)
    program = TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port())
    program.succeed()
    return program


def test_several_completions_of_each_held_out_prompt(tmp_path, model, data, rewards):
    """They are sampled with seeds of their own, and each prompt counts once, with the mean of its completions."""
    sampled = {"temperature": "1", "samplesPerPrompt": 3}
    several, again = (run(tmp_path / name, model, data, rewards, evaluation=sampled) for name in ("a", "b"))
    greedy = run(tmp_path / "greedy", model, data, rewards)
    rewards_of = {}
    for stage in ("base", "tuned"):
        rows = pq.read_table(several.folder.evaluation(stage)).to_pylist()
        assert rows == pq.read_table(again.folder.evaluation(stage)).to_pylist()
        groups = [rows[start : start + 3] for start in range(0, len(rows), 3)]
        assert len(groups) == 24
        assert all(len({row["sampleId"] for row in group}) == 1 for group in groups)
        assert sum(len({row["completion"] for row in group}) > 1 for group in groups) > 12
        rewards_of[stage] = [fmean(row["reward"] for row in group) for group in groups]
    summary = Summary.model_validate_json(several.folder.summary.read_text())
    assert summary.prompts == 24
    assert summary.gain == paired_bootstrap(rewards_of["base"], rewards_of["tuned"])
    assert summary.base.reward == pytest.approx(fmean(rewards_of["base"]))
    validation = pq.read_table(several.folder.validation(2)).to_pylist()
    assert len(validation) == 8 * 3
    # What an evaluation draws changes nothing in training.
    training = [[line for line in curve(each.metrics()) if line["split"] == "train"] for each in (several, greedy)]
    assert training[0] == training[1]


PROMPT = Prompt("p", "s", "r", [], None, {})


def test_intervals_are_over_prompts_and_not_over_completions():
    """Completions of one prompt that are all alike say no more than one of them."""
    before, after = [0.0, 1.0, 0.5, 0.0] * 6, [1.0, 1.0, 0.25, 0.5] * 6
    often = [[value for value in values for _ in range(8)] for values in (before, after)]
    assert paired_bootstrap(*(prompt_means(values, 8) for values in often)) == paired_bootstrap(before, after)

    def rows(values):
        return [
            ScoredCompletion(PROMPT, "", 1, False, value, None, shadows={"s": ShadowScore(1 - value, None)})
            for value in values
        ]

    assert compare(*map(rows, often), "s", 8) == compare(rows(before), rows(after), "s")
    assert compare(*map(rows, often), "s", 16) is None, "12 prompts are too few"


def test_completions_without_a_score_do_not_count():
    assert prompt_means([1.0, None, None, None, 0.0, 0.5], 2) == [1.0, None, 0.25]
    row = ScoredCompletion(PROMPT, "", 1, False, None, "failed", shadows={"s": ShadowScore(0.0, None)})
    good = replace(row, reward=1.0)
    comparison = compare([row, good] * 20 + [row, row], [good] * 42, "s", 2)
    assert comparison.prompts == 20
