"""What a model cannot do is said before anything is computed: tokenizer, embedding, context, layers, own code."""

import ast
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from support.patience import PATIENCE_SECONDS
from support.tiny import write_jsonl
from support.trainer import ENVIRONMENT, hyperparameters, job_spec, render
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft_api.exit_codes import ExitCode, RunError
from rft_api.sources import Data, DataSource
from rft_api.tuning import Tuning
from rft_trainer import chat_template
from rft_trainer.architecture import adapted_layers
from rft_trainer.arguments import build_arguments, common_arguments
from rft_trainer.base_model import BaseModel
from rft_trainer.conversations import conversation_check, token_counter
from rft_trainer.data import load_dataset
from rft_trainer.modeling import (
    add_adapter,
    check_base_model,
    load_adapter,
    load_model,
    load_tokenizer,
    prompt_token_ids,
    read_configuration,
)

LORA = {"type": "LoRA", "rank": 4}


@pytest.fixture
def folder(model, tmp_path):
    """A copy of the model that a test breaks."""
    return shutil.copytree(model, tmp_path / "model")


def base_of(folder):
    return BaseModel(str(folder), None, str(folder))


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(code, call, *arguments):
    with pytest.raises(RunError) as caught:
        call(*arguments)
    assert caught.value.code is code
    return caught.value.message


def configuration(tmp_path, folder, data, **changes):
    return render(job_spec(folder, data, tmp_path / "out", **changes), tmp_path / "run", "http://127.0.0.1:1", None)


def gpt2(folder, tokens):
    """Writes a tiny GPT-2, whose layers are Conv1D and whose positions are learned, with the tests' tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tokens)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(transformers.GPT2Config(**shape, **special, vocab_size=len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_that_fits_passes(tmp_path, model, data):
    check_base_model(configuration(tmp_path, model, data, tuning=LORA), base_of(model))


def test_an_added_token_for_padding_that_the_embedding_lacks(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert f"pad_token of its tokenizer is [PAD] with the id {rows}" in message
    assert f"the model has embeddings of {rows} tokens only, up to the id {rows - 1}" in message
    assert "resize_token_embeddings" in message


def test_a_pad_token_of_the_configuration_that_the_embedding_lacks(tmp_path, folder, data):
    change(folder / "config.json", pad_token_id=1000)
    config = configuration(tmp_path, folder, data)
    message = refusal(ExitCode.MODEL_INVALID, check_base_model, config, base_of(folder))
    assert "pad_token_id in config.json is 1000" in message


def test_neither_end_nor_pad_token(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert "its tokenizer has no EOS token" in message
    assert "set eos_token in tokenizer_config.json" in message


def test_a_token_in_a_prompt_that_the_embedding_lacks(tmp_path, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    file = write_jsonl(
        tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": text}]} for text in ("12", "1<extra>2")]
    )
    data = Data(train=[DataSource(name="s", uri=str(file), reward="r")])
    counter = token_counter(str(folder), load_tokenizer(str(folder)))
    assert refusal(ExitCode.DATA_INVALID, load_dataset, data, 100, counter) == (
        f"{file}:2: has the token <extra>, of which the model has no embedding; remove it from the text"
    )


def test_learned_positions_that_end_before_prompt_and_completion(tmp_path, model, data):
    folder = gpt2(tmp_path / "gpt2", model)
    fitting = configuration(tmp_path, folder, data)
    check_base_model(fitting, base_of(folder))
    config = configuration(tmp_path, folder, data, hyperparameters=hyperparameters(maxPromptTokens=60))
    message = refusal(ExitCode.CONFIGURATION_INVALID, check_base_model, config, base_of(folder))
    assert "has a context of 64 tokens, and a prompt and its completion may have 68" in message
    assert "lower spec.hyperparameters.maxPromptTokens (60) or maxCompletionTokens (8)" in message


def test_computed_positions_go_on_with_a_warning(tmp_path, model, data, caplog):
    config = configuration(tmp_path, model, data, hyperparameters=hyperparameters(maxPromptTokens=300))
    with caplog.at_level(logging.WARNING):
        check_base_model(config, base_of(model))
    assert "has a context of 256 tokens, and a prompt and its completion may have 308" in caplog.text


def test_vllm_takes_no_prompt_beyond_the_context(tmp_path, model, data):
    compute = {"gpusPerNode": 1, "rollouts": {"engine": "vLLM"}}
    config = configuration(tmp_path, model, data, compute=compute, hyperparameters=hyperparameters(maxPromptTokens=300))
    message = refusal(ExitCode.CONFIGURATION_INVALID, check_base_model, config, base_of(model))
    assert "has a context of 256 tokens" in message


def test_a_conversation_longer_than_learned_positions(tmp_path, model):
    folder = gpt2(tmp_path / "gpt2", model)
    check = conversation_check(str(folder), load_tokenizer(str(folder)))
    prompt = {"role": "user", "content": "1"}
    check([prompt, {"role": "assistant", "content": "2" * 59}])
    with pytest.raises(ValueError, match="has 65 tokens, and the model has a context of 64; shorten it"):
        check([prompt, {"role": "assistant", "content": "2" * 60}])


@pytest.mark.parametrize(
    ("settings", "method"), [({"quant_method": "bitsandbytes"}, "bitsandbytes"), ({"bits": 4}, "in an unknown way")]
)
def test_quantized_weights_are_refused_whatever_they_are_called(tmp_path, folder, data, settings, method):
    change(folder / "config.json", quantization_config=settings)
    config = configuration(tmp_path, folder, data, tuning=LORA)
    message = refusal(ExitCode.MODEL_INVALID, check_base_model, config, base_of(folder))
    assert f"its weights are quantized ({method}), and cannot be trained; use the unquantized model" in message


def test_a_model_without_linear_layers_gets_no_adapter(tmp_path, model, data):
    folder = gpt2(tmp_path / "gpt2", model)
    config = configuration(tmp_path, folder, data, tuning=LORA)
    message = refusal(ExitCode.MODEL_INVALID, check_base_model, config, base_of(folder))
    assert message == (
        "a model of type gpt2 has no linear layers that an adapter can train; set spec.tuning.type: Full, or use "
        "another model"
    )


def with_listed_layers(folder):
    """The tiny model, in which each layer also has two linear layers in a list, called 0 and 1 as the layers are."""
    loaded = load_model(str(folder), torch.float32)
    for layer in loaded.model.layers:
        layer.mlp.extra = torch.nn.ModuleList([torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)])
    return loaded


@pytest.mark.parametrize("last_layers", [None, 1])
def test_linear_layers_in_a_list_are_told_from_the_layers(tmp_path, model, last_layers):
    tuning = Tuning(type="LoRA", rank=4, last_layers=last_layers)
    tuned = add_adapter(with_listed_layers(model), tuning, 0)
    trained = {name.split(".lora_A")[0] for name, _ in tuned.named_parameters() if ".lora_A" in name}
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    names += ["mlp.extra.0", "mlp.extra.1"]
    layers = (0, 1) if last_layers is None else (1,)
    assert trained == {f"base_model.model.model.layers.{layer}.{name}" for layer in layers for name in names}
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    again = load_adapter(with_listed_layers(model), tmp_path / "adapter", trainable=False)
    saved = tuned.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in again.state_dict().items() if "lora" in name)


def test_full_names_of_adapted_layers(model):
    names = adapted_layers(load_model(str(model), torch.float32), Tuning(type="LoRA"))
    assert names[0] == "model.layers.0.self_attn.q_proj"
    assert "lm_head" not in names
    assert len(names) == 14


CODE = """
from pathlib import Path
from transformers import PretrainedConfig
Path(__file__).with_name("executed").write_text("")
class MineConfig(PretrainedConfig):
    model_type = "mine"
"""


@pytest.fixture
def coded(folder):
    """A model that comes with Python code, and needs it."""
    (folder / "configuration_mine.py").write_text(CODE)
    auto_map = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "configuration_mine.Mine"}
    change(folder / "config.json", model_type="mine", auto_map=auto_map)
    return folder


def test_code_of_a_model_is_never_asked_for_nor_executed(tmp_path, coded, data):
    """Somebody answers yes to every question: nothing may be asked."""
    config = configuration(tmp_path, coded, data)
    (tmp_path / "config.json").write_text(config.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "rft_trainer", str(tmp_path / "config.json"), "--port", "0"]
    result = subprocess.run(
        command,
        input="yes\n" * 20,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == ExitCode.MODEL_INVALID, result.stderr
    assert "needs Python code of its own, which is never executed" in result.stderr
    assert "y/N" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert not (coded / "executed").exists()


def test_every_way_to_load_refuses_code(coded, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    for load in (read_configuration, load_tokenizer, lambda folder: load_model(folder, torch.float32)):
        assert "needs Python code of its own" in refusal(ExitCode.MODEL_INVALID, load, str(coded))


@pytest.mark.parametrize("stated", ["eager", "flash_attention_3", "kernels-community/flash-attn"])
def test_a_model_does_not_choose_how_its_attention_is_computed(folder, tmp_path, data, stated):
    change(folder / "config.json", attn_implementation=stated)
    check_base_model(configuration(tmp_path, folder, data, tuning=LORA), base_of(folder))
    assert load_model(str(folder), torch.float32).config._attn_implementation == "sdpa"


def test_code_that_is_not_needed_is_ignored(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    (folder / "configuration_mine.py").write_text(CODE)
    change(folder / "config.json", auto_map={"AutoConfig": "configuration_mine.MineConfig"})
    load_model(str(folder), torch.float32)
    load_tokenizer(str(folder))
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ messages | no_such_filter }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% include 'other' %}",
        "{{ messages[0]['content'] * (1 << 62) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_a_chat_template_that_is_none(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert f"model {folder}: its chat template cannot be used (" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Nonsense"}}'),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 5}}'),
        ("tokenizer_config.json", b"[" * 100_000),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_tokenizer_whose_files_are_broken(folder, name, content):
    (folder / name).write_bytes(content)
    assert "tokenizer of model" in refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))


def test_a_template_that_refuses_one_conversation_may_take_others(folder):
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system\\n message') }}{% endif %}x"
    )
    count = token_counter(str(folder), load_tokenizer(str(folder)))
    assert count([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]) > 0
    with pytest.raises(ValueError, match="chat template refuses these messages: no system message"):
        count([{"role": "user", "content": "q"}])


def test_a_template_that_fails_in_another_way_refuses_the_row(folder):
    (folder / "chat_template.jinja").write_text("{{ 1 / (messages | length - 2) }}")
    count = token_counter(str(folder), load_tokenizer(str(folder)))
    with pytest.raises(ValueError, match="chat template refuses these messages: division by zero"):
        count([{"role": "user", "content": "q"}] * 2)


def test_code_of_a_model_is_not_executed_by_the_libraries_either(tmp_path, folder, data):
    config = configuration(tmp_path, folder, data)
    assert build_arguments(config, 1).trust_remote_code is False
    assert common_arguments(config)["trust_remote_code"] is False  # of the warm-up


def test_every_call_that_could_execute_code_of_a_model_forbids_it():
    """A class that reads a model's own code is told not to; those of adapters and settings have none to read."""
    without_code = {"PeftModel", "GenerationConfig"}
    root = Path(__file__).parents[2]
    calls = [
        (path.name, node)
        for part in ("api", "trainer-image", "adapter-loader", "cli", "reward-server", "operator")
        for path in (root / part / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    loading = [
        (name, call)
        for name, call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("from_pretrained", "from_config")
        and ast.unparse(call.func.value) not in without_code
    ]
    assert len(loading) >= 4
    allowing = [name for name, call in loading if "trust_remote_code=False" not in map(ast.unparse, call.keywords)]
    assert allowing == []
    assert not [name for name, call in calls if any(ast.unparse(w) == "trust_remote_code=True" for w in call.keywords)]


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3


@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        LOOP.replace("{% for c", "{% set x = a * b %}{% for c"),
        "{% macro f(n) %}{% for a in range(2) %}{{ f(n - 1) if n }}{% endfor %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) recursive %}{% if loop.depth < 9 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "{% for m in messages * 99999 %}{% for n in messages * 99999 %}{% endfor %}{% endfor %}",
    ],
)
def test_a_chat_template_does_not_run_for_ever(folder, monkeypatch, template):
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.5)
    before = signal.getsignal(signal.SIGVTALRM)
    (folder / "chat_template.jinja").write_text(template)
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert "its chat template cannot be used (TimeoutError: it takes more than 0.5 s)" in message
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_an_interruption_that_jinja_reports_as_another_exception_is_still_one(folder, monkeypatch):
    def fail(environment, source=None):
        raise TypeError("'<=' not supported between instances of 'int' and 'NoneType'")

    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.5)
    monkeypatch.setattr("jinja2.Environment.handle_exception", fail)
    (folder / "chat_template.jinja").write_text(LOOP)
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert "its chat template cannot be used (TimeoutError: it takes more than 0.5 s)" in message


def test_a_template_that_fails_in_time_fails_with_its_own_message(folder):
    (folder / "chat_template.jinja").write_text("{{ 1 / 0 }}")
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert "its chat template cannot be used (ZeroDivisionError: division by zero)" in message


LARGE = {
    "a product": "{{ 'a' * 10**10 }}",
    "a list": "{% for x in [0] * 10**10 %}{% endfor %}",
    "a list of messages": "{{ (messages * 10**9) | length }}",
    "filters": "{{ 'a' | center(10**10) }}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "a method": "{{ 'a'.ljust(10**10) }}",
    "replaced pieces": "{% set x = 'a' * 10**5 %}{{ x.replace('a', x) }}",
    "joined pieces": "{% set x = 'a' * 10**5 %}{{ x.join(x) }}",
    "a sum": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a concatenation": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "ranges": "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = n.x + [range(99999) | list] %}"
    "{% endfor %}",
    "output": "{% set x = 'a' * 10**7 %}{% for i in range(99999) %}{{ x ~ i }}{% endfor %}",
}


@pytest.mark.parametrize("template", LARGE.values(), ids=LARGE)
def test_a_chat_template_does_not_fill_the_memory(folder, template):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    (folder / "chat_template.jinja").write_text(template)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(ExitCode.MODEL_INVALID, load_tokenizer, str(folder))
    assert "its chat template cannot be used (MemoryError: it takes more than 1 GiB of memory)" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < largest + (1300 << 10)  # KiB
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    torch.zeros(3 << 28, dtype=torch.int8)  # 768 MiB


def test_a_conversation_of_which_a_template_makes_too_much_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ 'a' * 10 ** (messages | length + 5) }}")
    tokenizer = load_tokenizer(str(folder))
    count = token_counter(str(folder), tokenizer)
    with pytest.raises(
        ValueError, match="refuses these messages: it makes 100,000,000 characters of them, more than 8,3"
    ):
        count([{"role": "user", "content": "q"}] * 3)
    with pytest.raises(ValueError, match="chat template refuses these messages: it takes more than 1 GiB of memory"):
        count([{"role": "user", "content": "q"}] * 5)


@pytest.mark.parametrize(("room", "inside"), [(1 << 28, 1 << 28), (1 << 34, chat_template.TEMPLATE_BYTES)])
def test_a_limit_of_memory_that_a_process_has_stays_as_it_is(room, inside):
    class Tokenizer:
        def apply_chat_template(self, messages, **_):
            self.limit = resource.getrlimit(resource.RLIMIT_AS)[0]
            return "text"

    tokenizer, (soft, hard) = Tokenizer(), resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, hard))
    try:
        assert chat_template.render(tokenizer, [], add_generation_prompt=True) == "text"
        assert resource.getrlimit(resource.RLIMIT_AS) == (size + room, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert tokenizer.limit == pytest.approx(size + inside, abs=1 << 26)


def test_tokens_of_a_prompt_are_those_of_transformers(folder):
    tokenizer = load_tokenizer(str(folder))
    messages = [{"role": "user", "content": "1 + 1 = <|im_end|> ünï 中"}]
    stated = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert prompt_token_ids(tokenizer, messages) == stated["input_ids"]


def test_a_conversation_that_a_template_never_ends_is_refused(folder, monkeypatch):
    (folder / "chat_template.jinja").write_text("{% if messages | length > 1 %}" + LOOP + "{% endif %}x")
    count = token_counter(str(folder), load_tokenizer(str(folder)))
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"chat template refuses these messages: it takes more than 0\.5 s"):
        count([{"role": "user", "content": "q"}] * 2)
