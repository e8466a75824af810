"""What a user can get wrong, or a reward can do, before training: each ends the run with its own code and message."""

import json
import shutil

import pytest
import torch
from pyarrow import parquet
from support.reward_server import RewardServer
from support.tiny import write_jsonl
from support.trainer import TrainerProgram, hyperparameters, job_spec, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_trainer.modeling import load_adapter, load_model, load_tokenizer


@pytest.fixture
def broken(model, tmp_path):
    """A copy of the model that a test breaks."""
    return shutil.copytree(model, tmp_path / "model")


def refusal(load, *arguments):
    with pytest.raises(RunError) as caught:
        load(*arguments)
    assert caught.value.code is ExitCode.MODEL_INVALID
    return caught.value.message


def test_no_model_folder(tmp_path):
    assert refusal(load_tokenizer, str(tmp_path / "absent")) == f"model {tmp_path / 'absent'}: no such folder"
    (tmp_path / "file").write_text("")
    assert refusal(load_tokenizer, str(tmp_path / "file")) == f"model {tmp_path / 'file'}: not a folder"
    assert refusal(load_tokenizer, str(tmp_path)).endswith("holds no config.json, so it is not a model")


def test_pickled_weights_are_not_loaded(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "holds no *.safetensors; convert its weights (pickle files are not loaded)" in refusal(
        load_model, str(broken), torch.float32
    )


def test_truncated_weights(broken):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refusal(load_model, str(broken), torch.float32).startswith(f"model {broken}: ")


def test_a_configuration_that_is_no_json(broken):
    (broken / "config.json").write_text("{")
    assert refusal(load_model, str(broken), torch.float32).startswith(f"model {broken}: ")


def test_weights_that_do_not_fit_the_configuration(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    assert refusal(load_model, str(broken), torch.float32).startswith(f"model {broken}: ")


def test_weights_that_are_missing(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    message = refusal(load_model, str(broken), torch.float32)
    assert "lacks weights" in message
    assert "model.layers.2." in message


def test_no_chat_template(broken):
    (broken / "chat_template.jinja").unlink()
    assert "has no chat template: use an instruction-tuned model" in refusal(load_tokenizer, str(broken))


def test_a_broken_adapter(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert refusal(load_adapter, load_model(str(model), torch.float32), tmp_path, False).startswith(
        f"adapter {tmp_path}: "
    )


def run(tmp_path, spec, url, token_file):
    config = render(spec, tmp_path / "run", url, token_file)
    return TrainerProgram(config, tmp_path / "run", free_port())


def test_a_missing_model_ends_the_program_with_its_message(tmp_path, data):
    program = run(tmp_path, job_spec(tmp_path / "absent", data, tmp_path / "out"), "http://127.0.0.1:1", None)
    assert program.wait() == ExitCode.MODEL_INVALID
    assert f"error: model {tmp_path / 'absent'}: no such folder" in program.log
    assert "Traceback" not in program.log


def test_only_long_prompts(tmp_path, model, data):
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxPromptTokens=3))
    program = run(tmp_path, spec, "http://127.0.0.1:1", None)
    assert program.wait() == ExitCode.DATA_INVALID
    assert f"{data / 'train.jsonl'}: all 40 prompts have more than 3 tokens" in program.log
    assert f"{data / 'validation.jsonl'}: all 8 prompts" in program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        (
            "def lambda_handler(event, context):\n    raise LookupError('no such thing')\n",
            ExitCode.REWARD_FAILING,
            "24 of the last 24 samples could not be scored by reward digits. The first, prompt digits-",
        ),
        (
            "def lambda_handler(event, context):\n"
            "    return [{'id': s['id'], 'aggregate_reward_score': 0} for s in event]\n",
            ExitCode.NOT_LEARNABLE,
            "NotLearnable: no prompt of 4 got completions with different rewards (mean 0)",
        ),
        (
            "def lambda_handler(event, context):\n"
            "    return [{'id': s['id'], 'aggregate_reward_score': 1} for s in event]\n",
            ExitCode.NOT_LEARNABLE,
            "TooEasy: all completions of 4 prompts earned about 1: the model already does what the reward asks for",
        ),
    ],
    ids=["raises", "always-0", "always-1"],
)
def test_a_reward_that_nothing_can_be_learned_from(tmp_path, model, data, source, code, message):
    with RewardServer(tmp_path / "server", {"python": {"source": source}}) as server:
        program = run(tmp_path, job_spec(model, data, tmp_path / "out"), server.url, server.token_file)
        assert program.wait() == code, program.log
    assert message in program.log
    assert "Traceback" not in program.log
    if code is ExitCode.REWARD_FAILING:
        assert "LookupError: no such thing" in program.log


def test_several_sources_each_with_its_own_reward(tmp_path, model, data, rewards):
    """The mixture holds the sources in their shares, and each sample goes to its source's reward server."""
    length = "def lambda_handler(event, context):\n    return [{'id': s['id'], 'aggregate_reward_score': " \
        "min(len(s['messages'][-1]['content']), 8) / 8} for s in event]\n"  # fmt: skip
    more = [{"messages": [{"role": "user", "content": f"say {word}"}]} for word in ("one", "two", "three", "four")]
    write_jsonl(tmp_path / "words.jsonl", more)
    spec = job_spec(model, data, tmp_path / "out")
    spec["data"]["train"] = [
        {"name": "digits", "uri": str(data / "train.jsonl"), "reward": "digits", "weight": "0.25"},
        {"name": "words", "uri": str(tmp_path / "words.jsonl"), "reward": "length", "weight": "0.75"},
    ]
    spec["data"]["validation"].append({"name": "words", "uri": str(tmp_path / "words.jsonl"), "reward": "length"})
    with RewardServer(tmp_path / "server", {"python": {"source": length}}) as server:
        config = render(spec, tmp_path / "run", {"digits": rewards.url, "length": server.url}, rewards.token_file)
        program = TrainerProgram(config, tmp_path / "run", free_port())
        summary = program.succeed()
    lines = [line for line in program.metrics() if line["split"] == "train"]
    assert {name for line in lines for name in line["sources"]} == {"digits", "words"}
    assert {"digits", "short"} <= {name for line in lines for name in line["components"]}
    rows = [row for step in range(1, 7) for row in parquet.read_table(program.folder.rollout(step)).to_pylist()]
    words = [row for row in rows if row["source"] == "words"]
    assert 0.5 < len(words) / len(rows) < 0.95
    for row in words:
        assert row["reward"] == pytest.approx(min(len(row["completion"]), 8) / 8)
        assert row.get("component/digits") is None
    assert set(summary.base.sources) == {"digits"}, "the test split holds one source"
