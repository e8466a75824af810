"""Completions of vLLM servers: those of the trainer's own process, whatever happens to the servers meanwhile.

A vLLM takes minutes to start. All tests share one; the test that kills it waits for a second start.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from support.patience import PATIENCE_SECONDS, wait_until
from support.tiny import write_model
from support.trainer import TrainerProgram, curve, hyperparameters, job_spec, render, train_in_process

from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.sampling import Sampling
from rft_api.tuning import Tuning
from rft_trainer import engines
from rft_trainer.base_model import BaseModel
from rft_trainer.checkpoints import sampler
from rft_trainer.engines import VLLM, InProcess, Policy
from rft_trainer.evaluation import plain_completer
from rft_trainer.grpo import RFTTrainer
from rft_trainer.metrics_log import read_steps
from rft_trainer.modeling import add_adapter, end_token_ids, load_model, load_tokenizer, prompt_token_ids
from rft_trainer.rollout_servers import process
from rft_trainer.rollout_servers.command import BASE
from rft_trainer.rollout_servers.process import call
from rft_trainer.rollout_servers.servers import socket_of
from rft_trainer.stop_strings import StopStrings

TOKENS = 24
PROMPTS = [f"{number:04d}" for number in range(8)]
SAMPLES = 4


def train(folder, model, data, rewards, learning_rate, tuning):
    """Trains; returns the folder that is exported, and the rows of its evaluation."""
    learning = hyperparameters(maxSteps=4, learningRate=learning_rate)
    spec = job_spec(model, data, folder / "out", tuning=tuning, hyperparameters=learning)
    run = TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port())
    run.succeed()
    before, tuned = (pq.read_table(run.folder.evaluation(stage)).to_pylist()[:8] for stage in ("base", "tuned"))
    assert [row["completion"] for row in before] != [row["completion"] for row in tuned]
    return run.folder.best, tuned


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data, rewards):
    """A model that was trained whole, with the rows of its evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    model = write_model(folder / "tiny", hidden=128, tied=False)
    return train(folder, model, data, rewards, "1e-3", {"type": "Full"})


@pytest.fixture(scope="module")
def base(whole):
    """The model that the server is started with."""
    return whole[0]


@pytest.fixture(scope="module")
def config(tmp_path_factory, base, data, rewards):
    folder = tmp_path_factory.mktemp("config")
    spec = job_spec(
        base,
        data,
        folder / "out",
        tuning={"type": "LoRA", "rank": 8},
        hyperparameters=hyperparameters(maxPromptTokens=160, maxCompletionTokens=TOKENS, maxSteps=3, evalInterval=8),
        compute={"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}},
    )
    return render(spec, folder, rewards.url, rewards.token_file)


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(str(base))


@pytest.fixture(scope="module")
def engine(config, base, tokenizer):
    """The engine of a run that trains an adapter; its server can also be given whole weights."""
    ends = end_token_ids(load_model(str(base), torch.float32), tokenizer)
    own = process.server_environment
    with pytest.MonkeyPatch.context() as patch:
        development = {"VLLM_SERVER_DEV_MODE": "1"}
        patch.setattr(process, "server_environment", lambda *arguments: {**own(*arguments), **development})
        engine = VLLM(config, BaseModel(str(base), None, str(base)), ends, lambda: False)
        yield engine
        engine.close()


@pytest.fixture
def policy(base, config):
    """The model with an adapter that changes what it answers."""
    model = add_adapter(load_model(str(base), torch.float32), config.tuning, seed=1)
    return changed(model, 1)


def changed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2, generator=generator)
    return model


def ids_of(tokenizer, texts=PROMPTS):
    return [prompt_token_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]


def repeated(prompts):
    return [prompt for prompt in prompts for _ in range(SAMPLES)]


def logprobs_of(model, prompt, completion, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def server_processes(engine):
    """The API server and its engine, which vLLM has renamed."""
    (keeper,) = [server._keeper.pid for server in engine._servers._servers]
    (api,) = psutil.Process(keeper).children()
    (core,) = [child for child in api.children(recursive=True) if "EngineCore" in child.name() + str(child.cmdline())]
    return api, core


def test_the_servers_own_sockets_are_in_the_folder_that_is_removed(engine, policy, tokenizer):
    engine.sync(policy, 71)
    engine.sample(ids_of(tokenizer)[:1], 71, 1.0, lambda ended: None)  # returns when the server has started
    sockets = [path.name for path in engine._folder.iterdir() if path.is_socket()]
    assert any(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in sockets), sockets


def test_greedy_completions_are_those_of_the_trainers_process(engine, policy, tokenizer):
    prompts = ids_of(tokenizer)
    engine.sync(policy, 20)
    reports = []
    completions = engine.current_completer(0.0)(prompts, reports.append)
    assert completions == plain_completer(policy, tokenizer, TOKENS, 0.0)(prompts, lambda ended: None)
    base = Policy("base", None, policy.unload)
    assert completions != InProcess(engine._config, tokenizer).completer(base, 0.0)(prompts, lambda ended: None)


def test_stop_strings_end_completions_where_they_do_in_the_trainers_process(engine, policy, tokenizer):
    prompts = ids_of(tokenizer)
    engine.sync(policy, 60)
    whole = engine.current_completer(0.0)(prompts, lambda ended: None)
    text = max(tokenizer.batch_decode(whole, skip_special_tokens=True), key=len)
    sampling = Sampling(stop=[text[1:3], text[-1]])
    stops = StopStrings(tokenizer, sampling.stop_strings)
    stopping = copy.copy(engine)
    stopping._config = engine._config.model_copy(update={"sampling": sampling})
    completions = stopping.current_completer(0.0)(prompts, lambda ended: None)
    assert completions == plain_completer(policy, tokenizer, TOKENS, 0.0, stops)(prompts, lambda ended: None)
    assert completions == [ids[: stops.end(ids)] for ids in whole] != whole
    reasons = set()
    for completion, prompt in zip(stopping.sample(prompts * 4, 60, 1.0, lambda ended: None), prompts * 4, strict=True):
        ids, end = completion.token_ids, stops.end(completion.token_ids)
        assert end in (None, len(ids)), "tokens behind the one that completes a stop string"
        assert completion.finish_reason == ("length" if end is None and ids[-1] not in engine._end_ids else "stop")
        assert torch.tensor(completion.logprobs) == pytest.approx(logprobs_of(policy, prompt, ids), abs=1e-5)
        reasons.add((end is None, completion.finish_reason))
    assert (False, "stop") in reasons


def test_stop_strings_end_completions_that_are_sampled_ahead(engine, config, tmp_path, monkeypatch):
    sampling = Sampling(stop=list("0123"))
    rollouts = config.compute.rollouts.model_copy(update={"overlap": 1})
    changes = {
        "sampling": sampling,
        "compute": config.compute.model_copy(update={"rollouts": rollouts}),
        "output": str(tmp_path / "out"),
    }
    own = config.model_copy(update=changes)
    monkeypatch.setattr(engine, "_config", own)
    monkeypatch.setattr(engines, "policy_version", lambda step: f"stopped-v{step}")
    train_in_process(own, None, engine)
    for step in (1, 2):
        rows = pq.read_table(RunFolder(own.output).rollout(step)).to_pylist()
        stopped = [row for row in rows if any(text in row["completion"] for text in sampling.stop_strings)]
        assert stopped
        assert all(row["completion"].endswith(sampling.stop_strings) for row in stopped)
        assert all(row["finishReason"] == "stop" for row in stopped)


def test_completions_of_an_evaluation_have_seeds_of_their_own(engine, policy, tokenizer):
    prompts = repeated(ids_of(tokenizer))
    engine.sync(policy, 61)
    evaluate = engine.current_completer(1.0)
    completions = evaluate(prompts, lambda ended: None)
    assert completions != evaluate(prompts, lambda ended: None), "further prompts, with other seeds"
    assert completions == engine.current_completer(1.0)(prompts, lambda ended: None)
    groups = [completions[start : start + SAMPLES] for start in range(0, len(completions), SAMPLES)]
    assert all(len(set(map(tuple, group))) > 1 for group in groups)


def test_vllm_serves_what_is_exported(engine, whole, tmp_path, data, rewards):
    """A model that was trained whole, and an adapter that was trained on it, beside it: as users ask them."""
    model, by_whole = whole
    adapter, by_adapter = train(tmp_path, model, data, rewards, "1e-2", {"type": "LoRA", "rank": 8})
    engine.completer(Policy("adapter", adapter, lambda: None), 0.0)
    for name, rows in ((BASE, by_whole), ("adapter", by_adapter)):
        assert [answer(engine, name, row["prompt"]) for row in rows] == [row["completion"] for row in rows]


def answer(engine, model, prompt):
    body = {"model": model, "messages": json.loads(prompt), "temperature": 0, "max_tokens": 8}
    response = call(socket_of(engine._folder, 0), "POST", "/v1/chat/completions", PATIENCE_SECONDS, body)
    assert response.status == 200, response.text()
    return json.loads(response.body)["choices"][0]["message"]["content"]


def test_a_rank_stabilized_adapter_on_some_layers_is_scaled_as_in_the_trainer(engine, base, tokenizer):
    tuning = Tuning(rank=8, alpha=6, rank_stabilized=True, target_modules=["q_proj", "down_proj"], dropout="0.5")
    policy = changed(add_adapter(load_model(str(base), torch.float32), tuning, seed=1), 1)
    prompts = ids_of(tokenizer)
    engine.sync(policy, 50)
    policy.eval()
    for completion, prompt in zip(engine.sample(prompts, 50, 1.0, lambda ended: None), prompts, strict=True):
        expected = logprobs_of(policy, prompt, completion.token_ids)
        assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_id_comes_with_its_log_probability(engine, policy, tokenizer, temperature):
    prompts = repeated(ids_of(tokenizer))
    step = 20 + int(10 * temperature)
    engine.sync(policy, step)
    reports: list[dict[int, list[int]]] = []
    completions = engine.sample(prompts, step, temperature, reports.append)
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = logprobs_of(policy, prompt, completion.token_ids, temperature)
        assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=1e-5)
    # Each sample has random numbers of its own.
    groups = [completions[start : start + SAMPLES] for start in range(0, len(completions), SAMPLES)]
    assert all(len({tuple(each.token_ids) for each in group}) > 1 for group in groups)
    # They are reported as they end, and are those that are returned.

    def are_reported_one_by_one():
        reports.clear()
        assert engine.sample(prompts, step, temperature, reports.append) == completions
        return len(reports) > 1

    # On a busy machine this process may look for them only when all have ended.
    wait_until(are_reported_one_by_one, explain=lambda: "all were reported at once, at the end")
    reported = {place: ids for report in reports for place, ids in report.items()}
    assert all(completions[place].token_ids == ids for place, ids in reported.items())
    # Samples of another step.
    assert engine.sample(prompts, step + 1, temperature, reports.append) != completions


def test_a_changed_adapter_is_never_answered_from_the_cache_of_an_older_version(engine, policy, tokenizer):
    """The prompts are several blocks long, so that the server would take them from its cache."""
    prompts = ids_of(tokenizer, [text * 30 for text in PROMPTS])
    for step in (10, 11, 12):
        engine.sync(changed(policy, step), step)
        for completion, prompt in zip(engine.sample(prompts, 0, 1.0, lambda ended: None), prompts, strict=True):
            expected = logprobs_of(policy, prompt, completion.token_ids)
            assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=1e-5)


def test_many_long_prompts_at_once_are_each_computed_in_one_step(engine, policy, tokenizer):
    """An engine on CPUs ends when it computes the prompt of a request with a seed in two steps."""
    prompts = ids_of(tokenizer, [f"{number:04d}" * 30 for number in range(64)])
    assert sum(len(prompt) for prompt in prompts) > 3 * 2048, "vLLM computes so many tokens in a step by default"
    engine.sync(policy, 15)
    processes = server_processes(engine)
    completions = engine.sample(prompts, 15, 1.0, lambda ended: None)
    assert server_processes(engine) == processes, "the server was started again"
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = logprobs_of(policy, prompt, completion.token_ids)
        assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=1e-5)


def test_two_hundred_versions_leave_nothing_behind(engine, policy, tokenizer):
    prompts = ids_of(tokenizer)[:1]
    sampled = set()
    for step in range(100, 300):
        engine.sync(changed(policy, step), step)
        (completion,) = engine.sample(prompts, 0, 1.0, lambda ended: None)
        sampled.add(tuple(completion.logprobs))
        if step == 120:
            api, core = server_processes(engine)
            before = memory(api)
    assert len(sampled) == 200
    assert memory(api) - before < 32 << 20
    # The current version and the one before are loaded; the files of one more are not removed yet.
    assert sorted(path.name for path in engine._folder.glob("policy-v*")) == [f"policy-v{n}" for n in (297, 298, 299)]
    assert server_processes(engine) == (api, core), "the server was started again"


def memory(process):
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


def test_whole_weights_take_the_place_of_the_base_model(engine, base, tokenizer):
    """Without a restart, and without answers from the cache: the prompts are several blocks long."""
    prompts = ids_of(tokenizer, [text * 30 for text in PROMPTS])
    whole = copy.copy(engine)
    whole._config = engine._config.model_copy(update={"tuning": Tuning(type="Full")})
    model = load_model(str(base), torch.float32)
    seen = []
    for step in (2000, 2001):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        whole.sync(model, step)
        completions = whole.current_completer(0.0)(prompts, lambda ended: None)
        assert completions == plain_completer(model, tokenizer, TOKENS, 0.0)(prompts, lambda ended: None)
        seen.append(completions)
    assert seen[0] != seen[1]
    # What follows is about adapters on the base model again.
    whole.sync(load_model(str(base), torch.float32), 2002)


def test_a_killed_engine_costs_time_and_changes_nothing(engine, policy, tokenizer):
    """vLLM then answers 500, and ends with exit code 0."""
    prompts = repeated(ids_of(tokenizer)) * 4
    engine.sync(policy, 1000)
    undisturbed = engine.sample(prompts, 0, 1.0, lambda ended: None)
    started = threading.Event()
    disturbed = []

    def sample():
        disturbed.extend(engine.sample(prompts, 0, 1.0, lambda ended: started.set()))

    thread = threading.Thread(target=sample)
    processes = server_processes(engine)
    thread.start()
    started.wait()
    processes[1].kill()
    wait_until(lambda: not thread.is_alive(), lambda: Path(engine._folder / "0.log").stat().st_size, str)
    thread.join()
    assert disturbed == undisturbed
    # The kill may have come when all had been sampled; then the server still has to notice it.
    wait_until(
        lambda: not any(process.is_running() for process in processes),
        explain=lambda: "processes of the killed server live on",
    )


def test_a_step_has_the_loss_of_a_step_in_the_trainers_process(engine, config, tmp_path):
    """The same completions, once from vLLM and once given to a trainer that samples itself."""
    generated = []

    class Recording(RFTTrainer):
        def _generate_single_turn(self, *args, **kwargs):
            ids, logprobs = super()._generate_single_turn(*args, **kwargs)
            generated.append(ids)
            return ids, logprobs

    class Replaying(RFTTrainer):
        def _generate_single_turn(self, *args, **kwargs):
            return generated[self.state.global_step], None

    def steps(folder, kind, engine):
        own = config.model_copy(update={"output": str(folder)})
        train_in_process(own, kind, engine)
        return read_steps(RunFolder(own.output))

    served = steps(tmp_path / "vllm", Recording, engine)
    replayed = steps(tmp_path / "replayed", Replaying, None)
    assert len(served) == len(replayed) == 3
    for one, other in zip(served, replayed, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        assert one.gradient_norm > 0
        assert one.importance_ratio_mean == pytest.approx(1, abs=1e-3)
        assert one.importance_ratio_clipped == 0
        assert one.logprob_difference_max < 1e-4
        assert other.importance_ratio_mean is None


def test_steps_are_sampled_ahead_and_a_run_that_was_interrupted_meanwhile_goes_on_exactly(
    engine, config, tmp_path, monkeypatch
):
    """Steps 1 and 2 of 4 are sampled while the step before is learnt; a validation follows step 2, counted from 0."""
    parameters = config.hyperparameters.model_copy(update={"max_steps": 5, "eval_interval": 3, "learning_rate": 2e-2})
    rollouts = config.compute.rollouts.model_copy(update={"overlap": 1})
    compute = config.compute.model_copy(update={"rollouts": rollouts})
    sampled = []
    begin = engine.begin_sampling

    def note(prompt_ids, step, temperature):
        sampled.append((step, engine._current))
        return begin(prompt_ids, step, temperature)

    monkeypatch.setattr(engine, "begin_sampling", note)

    def run(folder, start, should_stop=lambda: False):
        """Trains with names of versions that no other start uses; returns the metrics so far."""
        monkeypatch.setattr(engines, "policy_version", lambda step: f"{start}-v{step}")
        sampled.clear()
        own = config.model_copy(update={"output": str(folder), "hyperparameters": parameters, "compute": compute})
        trainer = train_in_process(own, None, engine, should_stop)
        lines = RunFolder(folder).metrics.read_text(encoding="utf-8").splitlines()
        return trainer, curve([json.loads(line) for line in lines])

    _, undisturbed = run(tmp_path / "undisturbed", "undisturbed")
    assert sampled == [(step, f"undisturbed-v{version}") for step, version in ((0, 0), (1, 0), (2, 1), (3, 3), (4, 3))]
    ratios = [line["importanceRatioMean"] for line in undisturbed if line["split"] == "train"]
    assert [abs(ratio - 1) < 1e-3 for ratio in ratios] == [True, False, False, True, False]

    folder = RunFolder(tmp_path / "interrupted")
    after_steps = iter([False, True])
    trainer, _ = run(folder.path, "interrupted", lambda: next(after_steps))
    assert trainer.interrupted
    assert sampler(folder.checkpoint(2)).is_dir()
    _, resumed = run(folder.path, "resumed")
    assert sampled == [(step, f"resumed-v{version}") for step, version in ((2, 1), (3, 3), (4, 3))]
    assert resumed == undisturbed
    assert not sampler(folder.checkpoint(2)).exists()
