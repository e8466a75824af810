"""Evaluation splits prompts over processes, and decodes the same way whatever a model's files say."""

import json

import pytest
import torch
from support.tiny import digits_rows
from transformers import GenerationConfig

from rft_trainer import evaluation
from rft_trainer.batch import Batch
from rft_trainer.data import Prompt
from rft_trainer.evaluation import MOST_ROWS, Decoding, evaluate, generate, plain_completer, rows_at_once
from rft_trainer.modeling import end_token_ids, load_model, load_tokenizer, prompt_token_ids
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import ScoredCompletion, mean_of_prompts, source_means
from rft_trainer.stop_strings import StopStrings

UNUSUAL = {
    "do_sample": True, "temperature": 0.3, "top_k": 3, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.5,
    "repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1,
    "min_new_tokens": 6, "suppress_tokens": [5, 6, 7], "forced_eos_token_id": 4,
}  # fmt: skip
"""What a model's generation_config.json may ask for."""


ROWS = 16


@pytest.fixture
def tokenizer(model):
    return load_tokenizer(str(model))


@pytest.fixture
def unusual(model, tmp_path):
    """The tiny model with an unusual generation_config.json."""
    folder = tmp_path / "unusual"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "generation_config.json").unlink(missing_ok=True)
    before = GenerationConfig.from_pretrained(model)
    GenerationConfig(eos_token_id=before.eos_token_id, pad_token_id=before.pad_token_id, **UNUSUAL).save_pretrained(
        folder
    )
    assert json.loads((folder / "generation_config.json").read_text())["repetition_penalty"] == 1.8
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_generation_config_changes_nothing(model, unusual, tokenizer, temperature):
    prompts = [prompt_token_ids(tokenizer, row["messages"]) for row in digits_rows(12, 4, seed=5)]
    completions = []
    for folder in (model, unusual):
        loaded = load_model(str(folder), torch.float32)
        ends = end_token_ids(loaded, tokenizer)
        torch.manual_seed(0)
        sampled = plain_completer(loaded, tokenizer, 8, temperature)(prompts, lambda ended: None)
        torch.manual_seed(0)
        completions += [sampled, generate(loaded, prompts, Decoding(8, temperature, ends, tokenizer.pad_token_id))]
    assert all(each == completions[0] for each in completions)
    if temperature:
        assert len({len(tokens) for tokens in completions[0]}) > 1, "the case has to cover early ends"


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("count", "samples"),
    [*((count, 1) for count in (1, 7, ROWS, 2 * ROWS + 1, 8 * ROWS + 1)), (1, 4), (7, 5), (1, 2 * ROWS + 8), (5, 20)],
)
def test_every_process_calls_equally_often_and_every_prompt_is_completed(monkeypatch, tokenizer, count, samples, world):
    once = [Prompt(f"p-{n}", "p", "r", [{"role": "user", "content": str(n)}], n, {}) for n in range(count)]
    prompts = [prompt for prompt in once for _ in range(samples)]
    client = RewardClient({})
    monkeypatch.setattr(RewardClient, "begin", lambda *_: _Echo())
    monkeypatch.setattr(evaluation, "gather", lambda rows: [rows])
    monkeypatch.setattr(evaluation, "world_size", lambda: world)
    calls, completed = [0] * world, []
    for rank in range(world):
        monkeypatch.setattr(evaluation, "rank", lambda rank=rank: rank)

        def complete(batch, on_finished, rank=rank):
            calls[rank] += 1
            assert len(batch) <= ROWS
            if batch:
                on_finished({place: [7] for place in range(len(batch))})
            return [[7] for _ in batch]

        rows = evaluate(prompts, complete, tokenizer, client, [7], ROWS, 8, samples_per_prompt=samples)
        completed += [row.prompt.id for row in rows]
    client.close()
    assert len(set(calls)) == 1, "processes that call a collective operation unequally often wait for ever"
    assert sorted(completed) == sorted(prompt.id for prompt in prompts)


def test_a_source_has_the_mean_of_its_prompts():
    """Not of its completions, of which some prompts have fewer that could be scored."""
    rewards = [1.0, 1.0, 0.0, None, 0.5, 0.5]
    sources = ["a", "a", "a", "a", "b", "b"]
    rows = [
        ScoredCompletion(Prompt("p", source, "r", [], 0, {}), "", 1, False, reward, None)
        for source, reward in zip(sources, rewards, strict=True)
    ]
    assert source_means(rows, 2) == {"a": 0.5, "b": 0.5}
    assert mean_of_prompts(rows, 2) == 0.5


class _Echo:
    """Scores that are there at once."""

    def __init__(self):
        self.places = set()

    def send_early(self, rollouts):
        assert not self.places & rollouts.keys(), "the same completion was sent twice"
        self.places |= rollouts.keys()

    def send(self, rollouts):
        everywhere = set(range(len(rollouts)))
        assert self.places <= everywhere
        self.places = everywhere

    def wait(self):
        return [_Scored() for _ in self.places]

    def wait_for_shadows(self):
        return {}


class _Scored:
    aggregate_reward_score, error, explanation, metrics_list = 1.0, None, None, ()


def test_progress_moves_within_a_batch(model, tokenizer, monkeypatch):
    prompts = [Prompt(f"p-{n}", "p", "r", row["messages"], n, {}) for n, row in enumerate(digits_rows(64, 4, seed=2))]
    client = RewardClient({})
    monkeypatch.setattr(RewardClient, "begin", lambda *_: _Early())
    loaded = load_model(str(model), torch.float32)
    completer = plain_completer(loaded, tokenizer, 8, 1.0)
    reports = []
    evaluate(prompts, completer, tokenizer, client, end_token_ids(loaded, tokenizer), 64, 8, reports.append)
    client.close()
    assert reports == sorted(reports)
    assert len(reports) > 2
    assert reports[-1] == 64


class _Early(_Echo):
    def send_early(self, finished):
        pass


def test_rows_are_bounded_by_the_memory_of_their_keys_and_values(model):
    loaded = load_model(str(model), torch.float32)
    assert rows_at_once(loaded, 40) == MOST_ROWS
    config = loaded.config
    # Keys and values of 1,000,000 tokens: 2 x layers x key heads x width x 4 bytes each.
    width = config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * width * 4 * 1_000_000
    assert rows_at_once(loaded, 1_000_000) == (2 << 30) // row > 0
    assert rows_at_once(loaded, 10**12) == 1


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_stop_strings_cut_what_would_be_sampled_without_them(model, tokenizer, temperature):
    """In our sampler and in transformers' `generate`: the ids up to the stop string, and nothing else."""
    prompts = [prompt_token_ids(tokenizer, row["messages"]) for row in digits_rows(24, 4, seed=5)]
    loaded = load_model(str(model), torch.float32)
    ends = end_token_ids(loaded, tokenizer)
    torch.manual_seed(0)
    whole = plain_completer(loaded, tokenizer, 12, temperature)(prompts, lambda ended: None)
    text = "".join(tokenizer.batch_decode(whole, skip_special_tokens=True))
    stops = StopStrings(tokenizer, [text[5:7], max(text, key=text.count)])
    torch.manual_seed(0)
    sampled = plain_completer(loaded, tokenizer, 12, temperature, stops)(prompts, lambda ended: None)
    torch.manual_seed(0)
    generated = generate(loaded, prompts, Decoding(12, temperature, ends, tokenizer.pad_token_id, stops))
    assert sampled == generated == [ids[: stops.end(ids)] for ids in whole]
    assert 0 < sum(short != ids for short, ids in zip(sampled, whole, strict=True)) < len(whole)


def test_a_completion_that_ends_with_a_stop_string_is_not_clipped(tokenizer):
    client = RewardClient({})
    prompt = Prompt("p-1", "p", "r", [{"role": "user", "content": "1"}], None, {})
    seven, nine = (tokenizer.convert_tokens_to_ids(digit) for digit in "79")
    for stops, reasons in ((None, ["length", "length", "stop"]), (["7"], ["stop", "length", "stop"])):
        batch = Batch([prompt] * 3, client, tokenizer, [1], stops=stops and StopStrings(tokenizer, stops))
        completions = [[nine, seven], [nine, nine], [nine, 1]]
        assert [batch._rollout(0, "", ids).finish_reason for ids in completions] == reasons
    client.close()
