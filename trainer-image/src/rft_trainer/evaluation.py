"""Completes prompts and scores the completions, split over the ranks: validation, held-out evaluation, preflight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rft_trainer.data import Prompt
from rft_trainer.distributed import gather, rank, world_size
from rft_trainer.generation import merged_adapter, sample_completions
from rft_trainer.modeling import end_token_ids, prompt_token_ids
from rft_trainer.rewards import RewardClient, Rollout
from rft_trainer.rollouts import ScoredCompletion, scored

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
) -> list[list[int]]:
    """Completions of prompts by a plain model, each up to and including its end token."""
    if model.device.type == "cpu":
        with merged_adapter(model):
            return sample_completions(
                model,
                prompt_ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                eos_token_ids=end_ids,
                pad_token_id=pad_id,
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
) -> list[ScoredCompletion]:
    """Completes and scores prompts, each rank its share; every rank gets all results, in the prompts' order.

    `report` is called with the number of completed prompts, all ranks' together (estimated from this one's).
    """
    mine = list(range(rank(), len(prompts), world_size()))
    token_ids = {index: prompt_token_ids(tokenizer, prompts[index].messages) for index in mine}
    # Prompts of similar length share a batch, so that little is computed for padding.
    mine.sort(key=lambda index: len(token_ids[index]))
    results: list[tuple[int, ScoredCompletion]] = []
    for start in range(0, len(mine), BATCH):
        batch = mine[start : start + BATCH]
        completions = complete([token_ids[index] for index in batch])
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        scores = client.score([Rollout(prompts[index], text) for index, text in zip(batch, texts, strict=True)])
        for index, tokens, text, score in zip(batch, completions, texts, scores, strict=True):
            clipped = not tokens or tokens[-1] not in end_ids
            results.append((index, scored(prompts[index], text, len(tokens), clipped, score)))
        report(min(len(prompts), len(results) * world_size()))
    everything = sorted((pair for part in gather(results) for pair in part), key=lambda pair: pair[0])
    return [row for _, row in everything]
