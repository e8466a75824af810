"""`rft serve` with a real vLLM: the models of a run, counted as vLLM counts; and nothing is left when it ends.

vLLM takes long to start, so one serves all tests. What the tests of the gateway take for vLLM's bytes is compared with
those of this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from support import tiny
from support.finished_runs import config
from support.patience import PATIENCE_SECONDS, wait_until
from support.serving import Served, runs, serving, start_serve
from support.vllm_bytes import VllmBytes

from rft_api.exit_codes import ExitCode
from rft_api.files import atomic_write
from rft_api.run_folder import RunFolder

MESSAGES = [{"role": "user", "content": "3142"}]
QUESTION = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
SAMPLED = {"temperature": 1, "seed": 5}
"""vLLM makes one completion only of a request without randomness."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has trained an adapter."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder = RunFolder(tmp_path_factory.mktemp("serve") / "run")
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    base = tiny.write_model(folder.path.parent / "Tiny_Model", hidden=128, tied=False)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"]),
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder.best)
    configuration = config(folder.path).model_copy(update={"model": str(base)})
    atomic_write(folder.config, configuration.model_dump_json(by_alias=True))
    return folder


@pytest.fixture(scope="module")
def served(run: RunFolder) -> Iterator[Served]:
    # Two keepers, the gateway, and vLLM with its engine.
    with serving(start_serve(run.path, "--json"), run.path / "serving", programs=5) as served:
        yield served


def test_the_tuned_model_and_its_base_answer(served):
    with served.client() as client:
        assert [model.id for model in client.models.list()] == ["amounts", "tiny-model"]
        answers = [client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=6, temperature=0)
                   for name in ("amounts", "tiny-model")]  # fmt: skip
    assert answers[0].choices[0].message.content != answers[1].choices[0].message.content
    assert [(entry["model"], entry["base"]) for entry in served.entries()[-2:]] == [
        ("amounts", "tiny-model"), ("tiny-model", "tiny-model"),
    ]  # fmt: skip


def test_tokens_are_those_that_vllm_counts(served):
    before, entries = served.counters(), len(served.entries())
    options = [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}]
    with httpx.Client(headers={"authorization": f"Bearer {served.key}"}, timeout=PATIENCE_SECONDS) as client:
        for number, more in enumerate([*options, {"n": 2, **SAMPLED}, {"stream": True, "n": 3, **SAMPLED}]):
            body = {"model": ("amounts", "tiny-model")[number % 2], **QUESTION, "max_tokens": 20 + number, **more}
            assert client.post(f"{served.url}/chat/completions", json=body).is_success
        prompts = {"model": "amounts", "prompt": ["12", "345"], "n": 2, "max_tokens": 9, "stream": True}
        assert client.post(f"{served.url}/completions", json=prompts).is_success
        for stream in (False, True):
            response = {"model": "amounts", "input": "3142", "max_output_tokens": 7, "stream": stream}
            answer = client.post(f"{served.url}/responses", json=response)
            assert answer.is_success, answer.text
    new = served.entries()[entries:]
    assert {entry["outcome"] for entry in new} == {"Answered"}
    # vLLM counts a prompt once for each of its completions
    repeated = sum(new[index]["prompt_tokens"] * more for index, more in ((3, 1), (4, 2), (5, 1)))
    after = served.counters()
    prompt, completion = (sum(entry[f"{kind}_tokens"] for entry in new) for kind in ("prompt", "completion"))
    assert (prompt + repeated, completion) == (after[0] - before[0], after[1] - before[1])


def test_a_client_that_leaves_stops_vllm_and_pays_for_what_it_made(served):
    before, entries = served.counters(), len(served.entries())
    with served.client() as client:
        # Some 20 MB, more than what fits between vLLM and a client that does not read: it cannot end before it is left.
        stream = client.chat.completions.create(
            model="amounts",
            messages=MESSAGES,
            max_tokens=200,
            n=64,
            logprobs=True,
            top_logprobs=20,
            stream=True,
            extra_body={"ignore_eos": True, **SAMPLED},
        )
        for number, _ in enumerate(stream):
            if number == 200:  # the first chunk of each completion has no token yet
                break
        stream.close()
    wait_until(lambda: len(served.entries()) > entries)
    entry = served.entries()[-1]
    assert entry["outcome"] == "ClientLeft"
    # what vLLM has made when it hears of it, is a little more than what had come
    assert 100 <= entry["completion_tokens"] <= served.counters()[1] - before[1]


def test_errors_have_openais_form(served):
    with served.client() as client:
        with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
            client.embeddings.create(model="amounts", input="12")
        with pytest.raises(openai.BadRequestError, match="max_model_len") as error:
            client.chat.completions.create(model="amounts", messages=MESSAGES, max_tokens=100_000)
        assert (error.value.type, error.value.code) == ("invalid_request_error", "context_length_exceeded")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=MESSAGES)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_stand_in_of_other_tests_writes_what_vllm_writes(served, path, stream):
    """Each field that the gateway looks at, in the same place of the text; values are others."""
    body = {"model": "tiny-model", **QUESTION, "prompt": "12", "input": "3142", "stream": stream}
    if path == "/v1/responses":
        # Without randomness: a completion that happens to end at once has no events of its text.
        body = {"model": "tiny-model", "input": "3142", "max_output_tokens": 6, "stream": stream, "temperature": 0}
    elif stream:
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    with VllmBytes("tiny-model") as stand_in:
        texts = [
            httpx.post(f"{url}{path}", json=body, timeout=PATIENCE_SECONDS).text
            for url in (stand_in.url, served.server)
        ]
    ours, theirs = (shapes(text) for text in texts)
    assert ours == theirs


def shapes(text: str) -> list[object]:
    """The different shapes of the documents of an answer, in their order."""
    if not text.startswith(("data: ", "event: ")):
        return [shape(json.loads(text))]
    found: list[object] = []
    for event in text.split("\n\n"):
        head, _, data = event.rpartition("data: ")
        value = (head, shape(json.loads(data)) if data.startswith("{") else data)
        if value not in found:
            found.append(value)
    return found


def shape(value: Any) -> object:
    """The names of what the gateway reads, in their order; other fields of a response may come and go."""
    if isinstance(value, dict):
        names = ("choices", "usage", "index", "model", "type", "response", "delta", "error", "input_tokens",
                 "output_tokens", "prompt_tokens", "completion_tokens", "total_tokens")  # fmt: skip
        return [(name, shape(value[name])) for name in value if name in names]
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_it_is_served_once(served, run):
    process = start_serve(run.path)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == ExitCode.OUTPUT_INVALID
    assert b"is being served already" in errors


def test_nothing_is_left_of_one_that_is_killed(run, tmp_path):
    copy = RunFolder(tmp_path / "run")
    copy.path.mkdir()
    copy.best.symlink_to(run.best)
    atomic_write(copy.config, run.config.read_bytes())
    process = start_serve(copy.path)
    own = psutil.Process(process.pid)
    wait_until(lambda: len(own.children(recursive=True)) >= 2)  # a keeper and vLLM
    descendants = own.children(recursive=True)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(runs, descendants)))


def test_a_folder_without_a_model_is_refused(rft, tmp_path, run):
    ended = rft("serve", tmp_path)
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert f"{tmp_path} holds neither an exported run nor manifests (*.yaml); give " in ended.stderr
    atomic_write(tmp_path / "job.json", run.config.read_bytes())
    ended = rft("serve", tmp_path)
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert "holds no exported model yet" in ended.stderr
