"""Completes prompts and scores the completions, for validation, held-out evaluation and preflight.

The prompts are divided among the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from rft_api.sampling import Sampling
from rft_trainer.batch import Batch, decode
from rft_trainer.data import Prompt
from rft_trainer.distributed import gather, rank, world_size
from rft_trainer.failures import memory_for
from rft_trainer.frozen_states import FrozenStates
from rft_trainer.generation import Finished, sample_completions
from rft_trainer.inference import merged_adapter, without_dropout
from rft_trainer.modeling import end_token_ids, prompt_token_ids
from rft_trainer.partitions import gathered
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import ScoredCompletion
from rft_trainer.stop_strings import StopCriterion, StopStrings, stop_strings

MOST_ROWS = 256
"""Upper bound of the prompts that each rank completes at once."""
CPU_CACHE_BYTES = 2 << 30
"""Upper bound of the memory for the keys and values of prompts that are completed at once on a CPU."""

DEFAULT_SAMPLING = Sampling()

Complete = Callable[[list[list[int]], Finished], list[list[int]]]
"""Turns prompts into completions, both as token ids, and may report completions that have ended while others go on. All
ranks call it equally often, some without prompts: under ZeRO-3 they gather the weights for each call together."""


def rows_at_once(model: PreTrainedModel, tokens: int) -> int:
    """Return how many prompts each rank completes at once, where `tokens` bounds prompt and completion together.

    Their keys and values get 2 GiB on CPUs, and half of the free memory on a GPU. All ranks call it and get the same
    number.
    """
    row_bytes = cache_bytes(model.config, model.dtype, tokens)
    budget = CPU_CACHE_BYTES if model.device.type == "cpu" else torch.cuda.mem_get_info(model.device)[0] // 2
    return min(gather(max(1, min(MOST_ROWS, budget // row_bytes))))


def cache_bytes(configuration: PretrainedConfig, dtype: torch.dtype, tokens: int) -> int:
    """Return the bytes of the keys and values of a sequence of tokens in all layers of a model."""
    config = configuration.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize * tokens)


@dataclass(frozen=True)
class Decoding:
    """How a model completes prompts."""

    max_new_tokens: int
    """Largest number of tokens in a completion."""
    temperature: float
    """Temperature of sampling; with 0 each token is the most likely one."""
    end_ids: list[int]
    """The EOS tokens."""
    pad_id: int
    """The token that fills shorter sequences of a batch."""
    stops: StopStrings | None = None
    """Texts that end a completion."""


def plain_completer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    temperature: float,
    stops: StopStrings | None = None,
) -> Complete:
    """Return a function that completes prompts with a model that no trainer or engine has wrapped.

    With temperature 0 it takes the most likely token. Weights that are divided among the ranks are gathered for each
    call.
    """
    end_ids = end_token_ids(model, tokenizer)
    decoding = Decoding(max_new_tokens, temperature, end_ids, tokenizer.pad_token_id, stops)

    def complete_whole(prompt_ids: list[list[int]], on_finished: Finished) -> list[list[int]]:
        with gathered(model.parameters()):
            return complete(model, prompt_ids, decoding, on_finished)

    return complete_whole


def complete(
    model: PreTrainedModel,
    prompt_ids: list[list[int]],
    decoding: Decoding,
    on_finished: Finished | None = None,
    frozen_states: FrozenStates | None = None,
) -> list[list[int]]:
    """Return the completions of prompts by a plain model, each up to and including its EOS token or stop string.

    Return an empty list without prompts. On CPU `on_finished` is called with completions that have ended while others
    go on, and `frozen_states` records what frozen layers compute.

    Raises:
        OutOfMemory: when the batch does not fit.
    """
    if not prompt_ids:
        return []
    with memory_for("generation"):
        if model.device.type != "cpu":
            return generate(model, prompt_ids, decoding)
        with merged_adapter(model):
            return sample_completions(
                model,
                prompt_ids,
                max_new_tokens=decoding.max_new_tokens,
                frozen_states=frozen_states,
                temperature=decoding.temperature,
                eos_token_ids=decoding.end_ids,
                pad_token_id=decoding.pad_id,
                on_finished=on_finished,
                stops=decoding.stops,
            )


def generate(model: PreTrainedModel, prompt_ids: list[list[int]], decoding: Decoding) -> list[list[int]]:
    """Return completions by transformers' `generate`, for devices that our sampler does not run on."""
    temperature, width = decoding.temperature, max(len(ids) for ids in prompt_ids)
    ids = torch.full((len(prompt_ids), width), decoding.pad_id, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompt_ids):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=model.device)
        mask[row, width - len(prompt) :] = 1
    # transformers takes every setting that is left out here from the model's own configuration.
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=decoding.end_ids,
        pad_token_id=decoding.pad_id,
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0} if temperature else {}),
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
    )
    criterion = StopCriterion(decoding.stops, len(prompt_ids)) if decoding.stops else None
    criteria = StoppingCriteriaList([criterion] if criterion else [])
    with torch.no_grad(), without_dropout(model):
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=criteria
        )
    rows = output[:, width:].tolist()
    lengths = criterion.lengths if criterion else [None] * len(rows)
    return [_cut_after_eos(row[:length], decoding.end_ids) for row, length in zip(rows, lengths, strict=True)]


def _cut_after_eos(tokens: list[int], end_ids: list[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in end_ids:
            return tokens[: position + 1]
    return tokens


def repeat(prompts: Sequence[Prompt], samples: int) -> list[Prompt]:
    """Return each prompt as often as it is completed, one after another."""
    return [prompt for prompt in prompts for _ in range(samples)]


def evaluate(
    prompts: Sequence[Prompt],
    complete: Complete,
    tokenizer: PreTrainedTokenizerBase,
    client: RewardClient,
    end_ids: Sequence[int],
    rows: int,
    max_new_tokens: int,
    report: Callable[[int], None] = lambda completed: None,
    with_shadows: bool = True,
    samples_per_prompt: int = 1,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> list[ScoredCompletion]:
    """Complete and score prompts; return the results, in the order of the prompts, on every rank.

    Each rank completes its share of the prompts, `rows` at once, which is the same number on all ranks. `report` is
    called with the number of prompts that all ranks together have completed, estimated from this rank's. A completion
    that has not ended counts as the fraction of `max_new_tokens` that it has reached.

    If prompts are completed several times, `prompts` has each of them `samples_per_prompt` times in a row; a rank
    scores them together, as a group that rewards may compare. `sampling` says what the chat template gets, and at
    which stop strings `complete` ends.
    """
    stops = stop_strings(tokenizer, sampling)
    groups = range(rank(), len(prompts) // samples_per_prompt, world_size())
    own_indices = [group * samples_per_prompt + place for group in groups for place in range(samples_per_prompt)]
    batch_rows = max(samples_per_prompt, rows - rows % samples_per_prompt)
    arguments = sampling.chat_template_arguments
    token_ids = {index: prompt_token_ids(tokenizer, prompts[index].messages, arguments) for index in own_indices}
    # Prompts of similar length share a batch, so that little time is lost on padding.
    own_indices.sort(key=lambda index: len(token_ids[index]))

    def complete_batch(start: int) -> _ScoredBatch:
        indices = own_indices[start : start + batch_rows]
        own_prompts = [prompts[index] for index in indices]
        batch = Batch(own_prompts, client, tokenizer, end_ids, with_shadows, samples_per_prompt, stops)
        ended = 0

        def on_finished(first: int, completions: dict[int, list[int]]) -> None:
            nonlocal ended
            batch.send_finished({first + place: ids for place, ids in completions.items()})
            ended += len(completions)
            share = max(map(len, completions.values())) / max_new_tokens
            report(min(len(prompts), int(start + ended + (len(indices) - ended) * share) * world_size()))

        completions: list[list[int]] = []
        # A group of more completions than fit into the memory at once; equally often on every rank.
        for first in range(0, batch_rows, rows):
            part = [token_ids[index] for index in indices[first : first + rows]]
            completions += complete(part, partial(on_finished, first))
        texts = decode(tokenizer, completions)
        batch.send(texts, completions)
        report(min(len(prompts), (start + len(indices)) * world_size()))
        return _ScoredBatch(indices, batch, texts, completions)

    results: list[tuple[int, ScoredCompletion]] = []
    previous = None
    # Every rank makes as many batches as the rank with the largest share, because batches are collective operations.
    largest_share = samples_per_prompt * math.ceil(len(prompts) / samples_per_prompt / world_size())
    for start in range(0, largest_share, batch_rows):
        current = complete_batch(start)
        # Rewards of the previous batch have been computed while this one was generated.
        results += previous.rows() if previous else []
        previous = current
    results += previous.rows() if previous else []
    all_results = sorted((pair for part in gather(results) for pair in part), key=lambda pair: pair[0])
    return [row for _, row in all_results]


@dataclass(frozen=True)
class _ScoredBatch:
    """A batch of completions whose rewards have been requested."""

    indices: list[int]
    batch: Batch
    texts: list[str]
    completions: list[list[int]]

    def rows(self) -> list[tuple[int, ScoredCompletion]]:
        """Wait for the rewards; return the scored completions with their indices among the prompts."""
        rows = self.batch.wait(self.texts, self.completions)
        self.batch.add_shadows()
        return list(zip(self.indices, rows, strict=True))
