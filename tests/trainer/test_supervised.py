"""Jobs that are their warm-up alone: real trainers on a tiny model, what they measure, and how they go on."""

import json
import math
import shutil
import signal

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.tiny import digits_rows, write_jsonl
from support.trainer import TrainerProgram, curve, job_spec, pause_after, render
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.sources import WarmupSource
from rft_trainer.base_model import local_base_model
from rft_trainer.data import load_conversations
from rft_trainer.losses import AnswerLoss, compare_losses, encode_answer
from rft_trainer.statistics import paired_bootstrap
from rft_trainer.warmup import trainer_arguments

ADAPTER = {"type": "LoRA", "rank": 8, "lastLayers": 1}


def answered(row, **fields):
    return {"messages": [*row["messages"], {"role": "assistant", "content": row["reference_answer"], **fields}]}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    rows = [answered(row) for row in digits_rows(60, 4, seed=2)]
    write_jsonl(folder / "train.jsonl", rows[:40])
    write_jsonl(folder / "validation.jsonl", rows[40:])
    return folder


def supervised(model, answers, output, data=None, **changes):
    warmup = {
        "data": [{"name": "answers", "uri": str(answers / "train.jsonl")}],
        "validation": [{"name": "answers", "uri": str(answers / "validation.jsonl")}],
        "epochs": 3, "batchSize": 8, "learningRate": "1e-2", **changes.pop("warmup", {}),
    }  # fmt: skip
    settings = {"hyperparameters": {"evalInterval": 4, "maxCompletionTokens": 8}, "preflight": None, **changes}
    spec = job_spec(model, answers, output, warmup=warmup, **settings)
    spec.pop("data")
    return spec if data is None else {**spec, "data": data}


def start(spec, folder, rewards=None, **options):
    address, token_file = (rewards.url, rewards.token_file) if rewards else ("", None)
    return TrainerProgram(render(spec, folder, address, token_file), folder, free_port(), **options)


def loss_of(model, tokenizer, file):
    """The mean loss of the answers in a file, by transformers alone."""
    nats, tokens = 0.0, 0
    for line in file.read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([whole]), labels=labels).loss
        nats, tokens = nats + float(mean) * (len(whole) - len(prompt)), tokens + len(whole) - len(prompt)
    return nats / tokens, tokens


def test_an_adapter_that_imitates(tmp_path, model, answers):
    spec = supervised(model, answers, tmp_path / "out", tuning=ADAPTER)
    run = start(spec, tmp_path / "run", environment=pause_after(6, tmp_path))
    run.wait_for_line(6, "warmup")
    progress, metrics = run.get("/progress").json(), run.get("/metrics").text
    assert (progress["phase"], progress["totalSteps"]) == ("WarmUp", 15)
    assert progress["validationLoss"] < math.log(48)
    series = {line.split("{")[0] for line in metrics.splitlines() if not line.startswith("#")}
    assert series >= {
        "rft_train_warmup_loss", "rft_train_warmup_validation_loss", "rft_train_gradient_norm", "rft_train_step",
        "rft_train_planned_steps", "rft_train_tokens_total",
    }  # fmt: skip
    run.kill()
    run = start(spec, tmp_path / "run")
    summary = run.succeed()

    assert (summary.steps, summary.best_step, summary.stopped_early) == (15, 15, False)
    assert (summary.base, summary.tuned, summary.gain, summary.held_out, summary.prompts) == (None, None, None, None, 0)
    assert (summary.data.warmup_conversations, summary.data.warmup_validation_conversations) == (40, 20)
    assert summary.loss is not None
    assert summary.loss.change.high < 0
    base, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    expected, tokens = loss_of(base, tokenizer, answers / "validation.jsonl")
    assert (summary.loss.tokens, summary.loss.conversations) == (tokens, 20)
    assert summary.loss.base == pytest.approx(expected, abs=1e-4)
    tuned = PeftModel.from_pretrained(base, run.folder.best)
    assert summary.loss.tuned == pytest.approx(loss_of(tuned, tokenizer, answers / "validation.jsonl")[0], abs=1e-4)
    assert summary.loss.change.mean == pytest.approx(summary.loss.tuned - summary.loss.base, abs=1e-9)

    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 16))
    assert [line["step"] for line in lines if line["validationLoss"] is not None] == [5, 10, 15]
    assert lines[-1]["validationLoss"] == pytest.approx(summary.loss.tuned, abs=1e-5)
    assert [line["tokens"] for line in lines] == sorted({line["tokens"] for line in lines})
    assert lines[-1]["epoch"] == 3
    of_epoch = loss_of(base, tokenizer, answers / "train.jsonl")[1]
    assert [lines[step - 1]["trainedTokens"] for step in (5, 10, 15)] == [of_epoch, 2 * of_epoch, 3 * of_epoch]
    assert summary.trained_tokens == 3 * of_epoch
    assert [line["endedAt"] for line in lines] == sorted(line["endedAt"] for line in lines)
    assert pq.read_table(run.folder.losses("tuned")).num_rows == 20
    assert not run.folder.warmup.exists()

    before = run.folder.metrics.read_bytes()
    assert start(spec, tmp_path / "run").succeed() == summary
    assert run.folder.metrics.read_bytes() == before


def test_a_killed_run_and_a_stopped_one_go_on_to_the_same_weights(tmp_path, model, answers):
    undisturbed = start(supervised(model, answers, tmp_path / "undisturbed"), tmp_path / "run1")
    summary = undisturbed.succeed()
    expected = load_file(undisturbed.folder.best / "model.safetensors")
    base = load_file(model / "model.safetensors")
    assert not any(torch.equal(weight, base[name]) for name, weight in expected.items())

    for name, end, step in (("killed", signal.SIGKILL, 9), ("stopped", signal.SIGTERM, 7)):
        spec = supervised(model, answers, tmp_path / name)
        first = start(spec, tmp_path / f"run-{name}", environment=pause_after(step, tmp_path / name))
        first.wait_for_line(step, "warmup")
        if end == signal.SIGKILL:
            first.kill()
        else:
            first.process.send_signal(end)
            assert first.wait() == ExitCode.INTERRUPTED, first.log
            assert "its checkpoint is saved" in first.log
        resumed = start(spec, tmp_path / f"run-{name}")
        assert resumed.succeed().loss == summary.loss
        assert curve(resumed.metrics()) == curve(undisturbed.metrics())
        weights = load_file(resumed.folder.best / "model.safetensors")
        assert all(torch.equal(weight, expected[key]) for key, weight in weights.items())


def test_two_processes_with_an_odd_number_of_validation_conversations(tmp_path, model, answers):
    compute = {"gpusPerNode": 0, "processesPerNode": 2}
    folder = tmp_path / "answers"
    folder.mkdir()
    shutil.copy(answers / "train.jsonl", folder)
    lines = (answers / "validation.jsonl").read_text().splitlines(keepends=True)
    (folder / "validation.jsonl").write_text("".join(lines[:5]))
    run = start(supervised(model, folder, tmp_path / "out", compute=compute), tmp_path / "run")
    summary = run.succeed()
    assert summary.steps == 15
    assert summary.loss is not None
    tokenizer = AutoTokenizer.from_pretrained(model)
    for folder_of, measured in ((model, summary.loss.base), (run.folder.best, summary.loss.tuned)):
        expected, tokens = loss_of(
            AutoModelForCausalLM.from_pretrained(folder_of), tokenizer, folder / "validation.jsonl"
        )
        assert (measured, summary.loss.tokens) == (pytest.approx(expected, abs=1e-4), tokens)
    of_epoch = loss_of(AutoModelForCausalLM.from_pretrained(model), tokenizer, folder / "train.jsonl")[1]
    assert summary.trained_tokens == 3 * of_epoch
    lines = [line for line in run.metrics() if line["validationLoss"] is not None]
    assert [line["step"] for line in lines] == [5, 10, 15]
    assert lines[-1]["validationLoss"] == pytest.approx(summary.loss.tuned, abs=1e-4)


def test_loss_and_accuracy_of_a_step_are_those_of_its_answers(tmp_path, model, answers):
    rows = [json.loads(line)["messages"] for line in (answers / "train.jsonl").read_text().splitlines()]
    # Answers of other lengths: passes of a step have other numbers of tokens.
    rows = [
        [*row[:-1], {**row[-1], "content": row[-1]["content"] * (1 + index)}] for index, row in enumerate(rows[:12])
    ]
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in ("train", "validation"):
        write_jsonl(folder / f"{name}.jsonl", [{"messages": row} for row in rows])
    spec = supervised(model, folder, tmp_path / "out", warmup={"batchSize": 12})
    spec["checkpoints"] = {"interval": 1, "keep": 3}
    run = start(spec, tmp_path / "run")
    run.succeed()
    tokenizer = AutoTokenizer.from_pretrained(model)
    for line, before in zip(run.metrics(), (model, *(run.folder.checkpoint(step) for step in (1, 2))), strict=True):
        policy = AutoModelForCausalLM.from_pretrained(before)
        loss, tokens = loss_of(policy, tokenizer, folder / "train.jsonl")
        assert line["loss"] == pytest.approx(loss, abs=1e-4)
        assert line["trainedTokens"] == line["step"] * tokens
        assert line["accuracy"] == pytest.approx(correct_answer_tokens(policy, tokenizer, rows) / tokens, abs=1e-6)
    assert line["accuracy"] > 0


def correct_answer_tokens(model, tokenizer, rows):
    """How many tokens of the answers the model holds most likely, by transformers alone."""
    correct = 0
    for messages in rows:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        whole = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=False)])
        with torch.no_grad():
            best = model(input_ids=whole).logits.argmax(-1)
        correct += int((best[0, len(prompt) - 1 : -1] == whole[0, len(prompt) :]).sum())
    return correct


def test_a_reward_scores_both_models_on_test_prompts(tmp_path, model, answers, data, rewards):
    prompts = {"test": [{"name": "digits", "uri": str(data / "test.jsonl"), "reward": "digits"}]}
    changes = {"validation": None, "validationFraction": "0.25"}
    spec = supervised(model, answers, tmp_path / "out", data=prompts, warmup=changes, tuning=ADAPTER)
    spec["warmup"] = {name: value for name, value in spec["warmup"].items() if value is not None}
    summary = start(spec, tmp_path / "run", rewards).succeed()
    assert (summary.held_out, summary.prompts) == ("test", 24)
    assert summary.base is not None
    assert summary.tuned is not None
    assert summary.gain is not None
    assert summary.tuned.reward > summary.base.reward
    assert summary.loss is not None
    assert (summary.data.warmup_conversations, summary.data.warmup_validation_conversations) == (30, 10)
    assert summary.loss.conversations == 10


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, model, answers):
    spec = supervised(model, answers, tmp_path / "out", warmup={"learningRate": "0.1", "epochs": 20})
    # Steps of a size that no weight survives.
    spec["hyperparameters"] |= {"adamEpsilon": "1e-30", "adamBeta1": "0.999999", "adamBeta2": "0", "weightDecay": "1"}
    folder = shutil.copytree(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight * 1e30 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    spec["model"] = {"uri": str(folder)}
    run = start(spec, tmp_path / "run")
    assert run.wait() == ExitCode.DIVERGED, run.log
    assert "lower spec.warmup.learningRate" in run.log
    assert not run.folder.best.exists()


def test_every_answer_with_a_weight_is_imitated_and_nothing_else(tmp_path, model):
    messages = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "bb", "weight": 0},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "ccc", "weight": 1},
    ]
    file = write_jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    source = WarmupSource(name="w", uri=str(file), imitate="EveryAnswer")
    conversations = load_conversations([source], len).conversations
    spec = supervised(model, tmp_path, tmp_path / "out")
    config = render(spec, tmp_path / "run", "", None)
    arguments = trainer_arguments(
        config, local_base_model(config, None), config.warmup, conversations, tmp_path / "out"
    )
    trainer = SFTTrainer(**arguments)
    tokenizer = arguments["processing_class"]
    learned = []
    for row, conversation in zip(trainer.train_dataset, conversations, strict=True):
        answer = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        learned.append(tokenizer.decode(answer))
        # What is measured is what is trained.
        assert encode_answer(tokenizer, conversation.messages, {}) == (
            row["input_ids"][: -len(answer)], answer
        )  # fmt: skip
    assert learned == ["a<|end|>", "ccc<|end|>"]


def test_the_interval_is_over_conversations_and_the_mean_over_tokens():
    base = [AnswerLoss("a", 1, 10.0, 5), AnswerLoss("a", 1, 2.0, 1), AnswerLoss("a", 2, 3.0, 4)]
    tuned = [AnswerLoss("a", 1, 5.0, 5), AnswerLoss("a", 1, 2.0, 1), AnswerLoss("a", 2, 4.0, 4)]
    compared = compare_losses(base, tuned)
    assert (compared.conversations, compared.tokens) == (2, 10)
    assert (compared.base, compared.tuned) == (1.5, 1.1)
    assert compared.change.mean == pytest.approx(-0.4)
    # Resamples have the first conversation twice, both, or the second twice.
    assert (compared.change.low, compared.change.high) == pytest.approx((-5 / 6, 0.25))
    assert paired_bootstrap([1.0, 2.0], [2.0, 4.0]) == paired_bootstrap([1.0, 2.0], [2.0, 4.0], weights=[1.0, 1.0])
