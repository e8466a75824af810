"""A warm-up imitates what stands in the data: prompt, answer as written, EOS token; other renderings are refused."""

import shutil

import pytest
from support.tiny import CHAT_TEMPLATE, write_jsonl
from support.trainer import TrainerProgram, job_spec, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.sources import WarmupSource
from rft_trainer.conversations import conversation_check
from rft_trainer.data import load_conversations
from rft_trainer.modeling import load_tokenizer

# What a template makes of a message of the assistant.
ASSISTANT = "{% for message in messages %}{% set text = message['content'] %}{% if message['role'] == 'assistant' %}"
REST = (
    "{% endif %}<|{{ message['role'] }}|>{{ text }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPS_REASONING = ASSISTANT + "{% set text = text.split('7')[-1] %}" + REST
ADDS_REASONING = ASSISTANT + "{% set text = '77' + text %}" + REST
STRIPS = ASSISTANT + "{% set text = text | trim %}" + REST
DOES_NOT_END = CHAT_TEMPLATE.replace("<|end|>", "")
OPENS_REASONING = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|>think{% endif %}")
ENDS_WITH_A_LINE = CHAT_TEMPLATE.replace("<|end|>", "<|end|> ")


def check(model, template, answer, question="1"):
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = template
    prompt = [{"role": "user", "content": question}] if question else []
    conversation_check(str(model), tokenizer)([*prompt, {"role": "assistant", "content": answer}])


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, STRIPS, ENDS_WITH_A_LINE])
@pytest.mark.parametrize("answer", ["42", " 42 ", "a742", ""])
def test_answers_that_are_rendered_as_written(model, template, answer):
    check(model, template, answer)


@pytest.mark.parametrize(
    ("template", "answer", "words"),
    [
        (DROPS_REASONING, "abc742", "renders the answer as '42', not as it is written, 'abc742'"),
        (ADDS_REASONING, "42", "renders the answer as '7742', not as it is written, '42'"),
        (DOES_NOT_END, "42", "does not end the answer with an EOS token (<|end|>)"),
        (OPENS_REASONING, "42", "renders '42<|end|>' where a prompt for the model ends with 'think'"),
        ("{{ raise_exception('no') }}", "42", "the model's chat template refuses these messages: no"),
    ],
)
def test_answers_that_are_rendered_otherwise(model, template, answer, words):
    with pytest.raises(ValueError, match="template") as caught:
        check(model, template, answer)
    assert words in str(caught.value)


def test_an_answer_to_nothing(model):
    with pytest.raises(ValueError, match="has no message before the answer"):
        check(model, CHAT_TEMPLATE, "42", question=None)


def test_every_line_is_named(tmp_path, model):
    file = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": answer}]}
            for answer in ("a742", "42", "b743")
        ],
    )
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = DROPS_REASONING
    with pytest.raises(RunError) as caught:
        load_conversations([WarmupSource(name="w", uri=str(file))], conversation_check(str(model), tokenizer))
    assert caught.value.code is ExitCode.DATA_INVALID
    first, second = caught.value.message.splitlines()
    assert first.startswith(f"{file}:1: the model's chat template renders the answer as '42', not as it is written")
    assert second.startswith(f"{file}:3: ")


def test_a_run_ends_before_its_warm_up(tmp_path, model, data, rewards):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(DOES_NOT_END)
    warmup = {"data": [{"name": "w", "uri": str(data / "warmup.jsonl")}]}
    config = render(
        job_spec(folder, data, tmp_path / "out", warmup=warmup), tmp_path / "run", rewards.url, rewards.token_file
    )
    program = TrainerProgram(config, tmp_path / "run", free_port())
    assert program.wait() == ExitCode.DATA_INVALID, program.log
    message = "the model's chat template does not end the answer with an EOS token"
    assert f"{data / 'warmup.jsonl'}:1: {message}" in program.log
    assert not program.folder.warmup.exists()
