"""Fast sampling of completions from a causal language model on CPU, token for token what `generate` would sample.

What has been said so far decides what a model computes. So prompts are computed as a token tree, and completions of a
prompt that have begun with the same tokens are one leaf of it, computed once, until they differ.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from rft_trainer.inference import decoding_attention, evaluating, packed_weights
from rft_trainer.model_access import contiguous_head, language_model
from rft_trainer.token_tree import sees_trees, token_trees

Finished = Callable[[dict[int, list[int]]], None]
"""Takes completions, as token ids, by the place of their prompt."""


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    generator: torch.Generator | None = None,
    on_finished: Finished | None = None,
) -> list[list[int]]:
    """One completion for each prompt, as token ids, up to and including the first end token.

    `temperature` 0 takes the most likely token. The random numbers are drawn as `generate(do_sample=True)` draws them,
    from `generator` or torch's global one, so the same seed gives the same completions; both generators also end in the
    same state. `on_finished` is called with those that have ended while others go on.

    `model` is a causal LM on CPU, possibly inside PEFT, never inside an engine or DDP (unwrap it, and gather ZeRO-3
    weights, first). It runs in evaluation mode and gets its mode back.

    Raises:
        ValueError: for an empty prompt.
    """
    if not all(prompt_ids):
        raise ValueError("an empty prompt cannot be completed")
    if not prompt_ids:
        return []
    distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompt_ids)))}
    ends = torch.tensor(list(eos_token_ids))
    count = len(prompt_ids)
    completions = torch.full((count, max_new_tokens), pad_token_id)
    lengths = torch.full((count,), max_new_tokens)
    active = torch.arange(count)  # places of the completions that have not ended
    leaf = torch.tensor([distinct[tuple(prompt)] for prompt in prompt_ids])  # the leaf of each active completion
    with evaluating(model), packed_weights(model), contiguous_head(model), _Chooser(temperature, generator) as choose:
        leaves, logits = _read_prompts(model, list(distinct), count, max_new_tokens, pad_token_id)
        choose.draw(count, logits.shape[-1])
        with decoding_attention(model):
            for length in range(1, max_new_tokens + 1):
                tokens = choose(logits, leaf, active)
                completions[active, length - 1] = tokens
                ended = torch.isin(tokens, ends)
                lengths[active[ended]] = length
                if on_finished is not None and ended.any() and not ended.all():
                    on_finished({place: completions[place, :length].tolist() for place in active[ended].tolist()})
                active, leaf, tokens = active[~ended], leaf[~ended], tokens[~ended]
                if not len(active) or length == max_new_tokens:
                    break
                choose.draw(count, logits.shape[-1])
                leaf, tokens = leaves.grow(leaf, tokens)
                logits = leaves.read(model, tokens)
    return [row[:length].tolist() for row, length in zip(completions, lengths.tolist(), strict=True)]


class _Chooser:
    """Chooses the next token of each completion, with the random numbers that `torch.multinomial` would use.

    These come from one thread, and take as long as a small model's pass: they are drawn beside it.
    """

    def __init__(self, temperature: float, generator: torch.Generator | None) -> None:
        self._temperature, self._generator = temperature, generator
        self._uniform = torch.empty(0)
        self._drawing: Future[Any] | None = None
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "_Chooser":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def draw(self, count: int, vocabulary: int) -> None:
        """Begins to draw the numbers of the next token, for all completions, so that the stream does not shift."""
        if self._temperature == 0:
            return
        if self._uniform.shape != (count, vocabulary):
            self._uniform = torch.empty(count, vocabulary, dtype=torch.float64)
        self._drawing = self._thread.submit(self._uniform.uniform_, generator=self._generator)

    def __call__(self, logits: torch.Tensor, leaf: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Token ids [n] of the completions at `places` [n], which are at leaves `leaf` [n] of logits [leaves, V]."""
        if self._temperature == 0:
            return logits.argmax(-1)[leaf]
        scores = logits.float()
        if self._temperature != 1:
            scores = scores / self._temperature
        probabilities = scores.softmax(-1)
        if self._drawing is not None:
            self._drawing.result()
        # The numbers of `exponential_`, which is slow on CPU: the logarithm of doubles is vectorised, and the same.
        exponential = self._uniform[places].neg_().log1p_().neg_().float()
        return (probabilities[leaf] / exponential).argmax(-1)


class _Leaves:
    """What has been said so far, each different text once: their keys and values, mask and position."""

    def __init__(self, cache: Cache, mask: torch.Tensor, position: torch.Tensor) -> None:
        self._cache = cache
        self._mask = mask  # [leaves, columns so far]
        self._position = position  # [leaves, 1], of the last token

    def grow(self, leaf: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes the leaves those that the completions at `leaf` are at once they have said `tokens`.

        Returns the new leaf of each completion, and the token that leads to each new leaf [leaves, 1]. A leaf stays at
        its place if it can, so that little is copied.
        """
        grown: dict[tuple[int, int], int] = {}
        pairs = list(zip(leaf.tolist(), tokens.tolist(), strict=True))
        size = len(set(pairs))
        waiting = []
        for pair in dict.fromkeys(pairs):
            if pair[0] < size and pair[0] not in grown.values():
                grown[pair] = pair[0]
            else:
                waiting.append(pair)
        free = iter(sorted(set(range(size)) - set(grown.values())))
        grown |= {pair: next(free) for pair in waiting}
        by_place = sorted(grown, key=grown.__getitem__)
        parents = torch.tensor([parent for parent, _ in by_place])
        if len(parents) != len(self._mask) or not torch.equal(parents, torch.arange(len(parents))):
            self._cache.reorder_cache(parents)
            self._mask, self._position = self._mask[parents], self._position[parents]
        return torch.tensor([grown[pair] for pair in pairs]), torch.tensor([[token] for _, token in by_place])

    def read(self, model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [leaves, V] after one more token each [leaves, 1]."""
        self._mask = pad(self._mask, (0, 1), value=1)
        self._position = self._position + 1
        logits: torch.Tensor = model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]


class _Slots(DynamicLayer):
    """One layer's keys and values with room for the leaves and tokens to come, so that little is copied."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, leaves: int, room: int) -> None:
        super().__init__()
        self.leaves, self.length = keys.shape[0], keys.shape[2]
        self.keys, self.values = (pad(part, (0, 0, 0, room, 0, 0, 0, leaves - len(part))) for part in (keys, values))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[: self.leaves, :, start : self.length] = key_states
        self.values[: self.leaves, :, start : self.length] = value_states
        return self.keys[: self.leaves, :, : self.length], self.values[: self.leaves, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.leaves = len(beam_idx)
        moved = (beam_idx != torch.arange(self.leaves)).nonzero().flatten()
        if len(moved):
            for part in (self.keys, self.values):
                part[moved, :, : self.length] = part[beam_idx[moved], :, : self.length]


def _read_prompts(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], completions: int, room: int, pad_id: int
) -> tuple[_Leaves, torch.Tensor]:
    """A leaf for each prompt, ready to grow to as many as there are completions, and the logits [prompts, V] there."""
    width = max(map(len, prompts))
    # On the left, so that all leaves end in the same column.
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    base = language_model(model)
    if not sees_trees(base):
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        cache.layers = [
            _Slots(layer.keys, layer.values, completions, room) if type(layer) is DynamicLayer else layer
            for layer in cache.layers
        ]
        return _Leaves(cache, mask, positions[:, -1:]), output.logits[:, -1]
    trees = token_trees(prompts, int(base.config.get_text_config().hidden_size))
    ends = torch.stack([path[-1] for path in trees.columns])
    kept, place = ends.unique(return_inverse=True)
    output = model(
        input_ids=trees.ids,
        attention_mask=trees.attention_mask(base.dtype),
        position_ids=trees.positions,
        use_cache=True,
        logits_to_keep=kept,
    )
    # For each prompt the columns of its tokens in its row, [prompts, width].
    columns = torch.stack([pad(path, (width - len(path), 0)) for path in trees.columns])
    rows = trees.rows[:, None]
    cache = output.past_key_values
    cache.layers = [
        _Slots(
            layer.keys[rows, :, columns].transpose(1, 2),
            layer.values[rows, :, columns].transpose(1, 2),
            completions,
            room,
        )
        for layer in cache.layers
    ]
    return _Leaves(cache, mask, positions[:, -1:]), output.logits[trees.rows, place]
