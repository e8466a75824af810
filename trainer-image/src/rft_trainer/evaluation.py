"""Completes prompts and scores the completions, split over the ranks: validation, held-out evaluation, preflight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rft_trainer.data import Prompt
from rft_trainer.distributed import gather, rank, world_size
from rft_trainer.failures import memory_for
from rft_trainer.generation import Finished, sample_completions
from rft_trainer.inference import merged_adapter
from rft_trainer.modeling import end_token_ids, prompt_token_ids
from rft_trainer.rewards import RewardClient, Rollout, Scoring
from rft_trainer.rollouts import ScoredCompletion, add_shadows, scored

BATCH = 64
"""Prompts completed at once on each rank."""

Complete = Callable[[list[list[int]]], list[list[int]]]
"""Turns prompts into completions, both as token ids."""


def plain_completer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float
) -> Complete:
    """Completes prompts with a model that no trainer or engine has wrapped; temperature 0 takes the likeliest token."""
    return partial(
        complete,
        model,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        end_ids=end_token_ids(model, tokenizer),
        pad_id=tokenizer.pad_token_id,
    )


def complete(
    model: PreTrainedModel,
    prompt_ids: list[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    end_ids: list[int],
    pad_id: int,
    on_finished: Finished | None = None,
) -> list[list[int]]:
    """Completions of prompts by a plain model, each up to and including its end token.

    On CPU `on_finished` is called with those that have ended while others go on.

    Raises:
        OutOfMemory: when the batch does not fit.
    """
    with memory_for("generation"):
        return _complete(model, prompt_ids, max_new_tokens, temperature, end_ids, pad_id, on_finished)


def _complete(
    model: PreTrainedModel,
    prompt_ids: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    end_ids: list[int],
    pad_id: int,
    on_finished: Finished | None,
) -> list[list[int]]:
    if model.device.type == "cpu":
        with merged_adapter(model):
            return sample_completions(
                model,
                prompt_ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                eos_token_ids=end_ids,
                pad_token_id=pad_id,
                on_finished=on_finished,
            )
    width = max(len(ids) for ids in prompt_ids)
    ids = torch.full((len(prompt_ids), width), pad_id, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompt_ids):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=model.device)
        mask[row, width - len(prompt) :] = 1
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=end_ids, pad_token_id=pad_id, **sampling)
    with torch.no_grad():
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    return [_until_end(row, end_ids) for row in output]


def _until_end(tokens: list[int], end_ids: list[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in end_ids:
            return tokens[: position + 1]
    return tokens


def evaluate(
    prompts: Sequence[Prompt],
    complete: Complete,
    tokenizer: PreTrainedTokenizerBase,
    client: RewardClient,
    end_ids: Sequence[int],
    report: Callable[[int], None] = lambda done: None,
    with_shadows: bool = True,
) -> list[ScoredCompletion]:
    """Completes and scores prompts, each rank its share; every rank gets all results, in the prompts' order.

    `report` is called with the number of completed prompts, all ranks' together (estimated from this one's).
    """
    mine = list(range(rank(), len(prompts), world_size()))
    token_ids = {index: prompt_token_ids(tokenizer, prompts[index].messages) for index in mine}
    # Prompts of similar length share a batch, so that little is computed for padding.
    mine.sort(key=lambda index: len(token_ids[index]))
    results: list[tuple[int, ScoredCompletion]] = []
    asked: _Asked | None = None
    for start in range(0, len(mine), BATCH):
        batch = mine[start : start + BATCH]
        completions = complete([token_ids[index] for index in batch])
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        scoring = client.begin(with_shadows)
        scoring.send([Rollout(prompts[index], text) for index, text in zip(batch, texts, strict=True)])
        if asked is not None:
            results += asked.results(prompts, end_ids)
        # Scored while the next batch is generated.
        asked = _Asked(batch, completions, texts, scoring)
        report(min(len(prompts), (start + len(batch)) * world_size()))
    if asked is not None:
        results += asked.results(prompts, end_ids)
    everything = sorted((pair for part in gather(results) for pair in part), key=lambda pair: pair[0])
    return [row for _, row in everything]


@dataclass(frozen=True)
class _Asked:
    """A batch of completions whose scores have been asked for."""

    indices: list[int]
    completions: list[list[int]]
    texts: list[str]
    scoring: Scoring

    def results(self, prompts: Sequence[Prompt], end_ids: Sequence[int]) -> list[tuple[int, ScoredCompletion]]:
        """The scored completions, with their places among the prompts."""
        scores = self.scoring.wait()
        rows = [
            scored(prompts[index], text, len(tokens), not tokens or tokens[-1] not in end_ids, score)
            for index, tokens, text, score in zip(self.indices, self.completions, self.texts, scores, strict=True)
        ]
        add_shadows(rows, self.scoring.wait_for_shadows())
        return list(zip(self.indices, rows, strict=True))
