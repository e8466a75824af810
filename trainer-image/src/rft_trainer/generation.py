"""Fast sampling of completions on CPU; the tokens are the same as those of transformers' `generate`.

A model computes the same for two sequences up to the first token in which they differ. Therefore prompts are computed
as a token tree, and completions of the same prompt share one leaf of the tree, which is computed once, as long as their
tokens are the same.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from rft_trainer.frozen_states import FrozenStates, Recording
from rft_trainer.inference import decoding_attention, evaluating, packed_weights
from rft_trainer.model_access import contiguous_head, language_model
from rft_trainer.multinomial import sample_tokens
from rft_trainer.stop_strings import StopStrings
from rft_trainer.token_tree import sees_trees, token_trees

Finished = Callable[[dict[int, list[int]]], None]
"""Receives completions that have ended, as token ids, by the index of their prompt."""


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    frozen_states: FrozenStates | None = None,
    temperature: float,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    generator: torch.Generator | None = None,
    on_finished: Finished | None = None,
    stops: StopStrings | None = None,
) -> list[list[int]]:
    """Return one completion for each prompt, as token ids, up to and including the first EOS token.

    With `stops`, it also ends with the token that completes the first stop string.

    `temperature` 0 takes the most likely token. The random numbers are drawn as `generate(do_sample=True)` draws them,
    from `generator` or torch's global generator. So the same seed gives the same completions as `generate`, and leaves
    the random number generator in the same state. `on_finished` is called with completions that have ended while others
    go on.

    With `frozen_states`, the states of frozen layers are recorded there.

    `model` is a causal language model on CPU. PEFT may wrap it; DeepSpeed and DDP may not: unwrap the model and gather
    the weights of ZeRO-3 before the call. The model runs in evaluation mode, and returns to its mode afterwards.

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
    active = torch.arange(count)  # indices of the completions that have not ended
    searches = [stops.search() for _ in range(count)] if stops else []
    leaf = torch.tensor([distinct[tuple(prompt)] for prompt in prompt_ids])  # the leaf of each active completion
    recorded: AbstractContextManager[Recording | None] = (
        nullcontext() if frozen_states is None else frozen_states.recorded(count, max_new_tokens - 1)
    )
    with (
        evaluating(model),
        packed_weights(model),
        contiguous_head(model),
        recorded as recording,
        _Chooser(temperature, generator) as choose,
    ):
        leaves, logits = _read_prompts(model, list(distinct), count, max_new_tokens, pad_token_id, recording)
        choose.draw(count, logits.shape[-1])
        with decoding_attention(model):
            for length in range(1, max_new_tokens + 1):
                tokens = choose(logits, leaf, active)
                completions[active, length - 1] = tokens
                ended = torch.isin(tokens, ends)
                if searches:
                    pairs = zip(active.tolist(), tokens.tolist(), strict=True)
                    ended |= torch.tensor([searches[place].add(token) for place, token in pairs])
                lengths[active[ended]] = length
                if on_finished is not None and ended.any() and not ended.all():
                    on_finished({place: completions[place, :length].tolist() for place in active[ended].tolist()})
                active, leaf, tokens = active[~ended], leaf[~ended], tokens[~ended]
                if not len(active) or length == max_new_tokens:
                    break
                choose.draw(count, logits.shape[-1])
                leaf, tokens = leaves.grow(leaf, tokens)
                logits = leaves.read(model, tokens)
                if recording is not None:
                    recording.keep_tokens(length - 1, active, leaf)
        rows: list[list[int]] = [
            row[:length].tolist() for row, length in zip(completions, lengths.tolist(), strict=True)
        ]
        if recording is not None:
            recording.keep_completions(prompt_ids, rows)
    return rows


class _Chooser:
    """Chooses the next token of each completion, with the random numbers that `torch.multinomial` would use.

    One thread must draw them, which takes as long as a forward pass of a small model. So they are drawn during that
    pass.
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
        """Begin to draw the random numbers of the next token.

        They are drawn for all completions, ended ones too, so that each completion gets the numbers of `generate`.
        """
        if self._temperature == 0:
            return
        if self._uniform.shape != (count, vocabulary):
            self._uniform = torch.empty(count, vocabulary, dtype=torch.float64)
        self._drawing = self._thread.submit(self._uniform.uniform_, generator=self._generator)

    def __call__(self, logits: torch.Tensor, leaf: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [n] of the completions with the indices `places` [n].

        The i-th of them is at leaf `leaf[i]`, whose logits are `logits[leaf[i]]`; `logits` is [leaves, V].
        """
        if self._temperature == 0:
            return logits.argmax(-1)[leaf]
        scores = logits.float()
        if self._temperature != 1:
            scores = scores / self._temperature
        probabilities = scores.softmax(-1)
        if self._drawing is not None:
            self._drawing.result()
        uniform = self._uniform if len(places) == len(self._uniform) else self._uniform[places]
        return sample_tokens(probabilities[leaf], uniform)


class _Leaves:
    """The leaves of the token tree: keys and values, mask and position of each distinct sequence so far."""

    def __init__(self, cache: Cache, mask: torch.Tensor, position: torch.Tensor, capacity: int, room: int) -> None:
        self._cache = cache
        self._mask = mask  # [leaves, columns so far]
        self._position = position  # [leaves, 1], the position of the last token
        self._slots = _Slots.replace(cache, capacity, room)

    def grow(self, leaf: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Extend the tree by the next token of each completion; `leaf` is the leaf of each, `tokens` its next token.

        Return the new leaf of each completion, and the token that leads to each new leaf [leaves, 1]. A leaf keeps its
        place if possible, so that little is copied.
        """
        pairs = list(zip(leaf.tolist(), tokens.tolist(), strict=True))
        distinct = dict.fromkeys(pairs)
        size = len(distinct)
        first = {parent: (parent, token) for parent, token in reversed(distinct)}
        place = {pair: parent for parent, pair in first.items() if parent < size}
        free = iter(sorted(set(range(size)) - set(place.values())))
        place |= {pair: next(free) for pair in distinct if pair not in place}
        by_place = sorted(place, key=place.__getitem__)
        self._move(torch.tensor([parent for parent, _ in by_place]))
        return torch.tensor([place[pair] for pair in pairs]), torch.tensor([[token] for _, token in by_place])

    def _move(self, parents: torch.Tensor) -> None:
        if len(parents) == len(self._mask) and torch.equal(parents, torch.arange(len(parents))):
            return
        self._mask, self._position = self._mask[parents], self._position[parents]
        if self._slots is not None:
            self._slots.move(parents)
        else:
            self._cache.reorder_cache(parents)

    def read(self, model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
        """Run the model on one more token for each leaf [leaves, 1]; return the logits [leaves, V] after it."""
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


class _Slots:
    """Keys and values of all layers in one tensor, with room for more leaves and tokens."""

    def __init__(self, parts: Sequence[torch.Tensor], capacity: int, room: int) -> None:
        leaves, heads, self.length, width = parts[0].shape
        # [2 x layers, leaves, heads, tokens, width of a head]
        self.parts = torch.zeros(len(parts), capacity, heads, self.length + room, width, dtype=parts[0].dtype)
        for slot, part in zip(self.parts, parts, strict=True):
            slot[:leaves, :, : self.length] = part
        self.leaves = leaves

    @classmethod
    def replace(cls, cache: Cache, capacity: int, room: int) -> "_Slots | None":
        """Make the cache keep its tensors in slots; if its layers do not allow it, return None and change nothing."""
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        if len({part.shape for part in parts}) > 1:
            return None
        slots = cls(parts, capacity, room)
        cache.layers = [_SlotLayer(slots, number) for number in range(len(cache.layers))]
        return slots

    def move(self, parents: torch.Tensor) -> None:
        """Copy to each place the leaf that is at the place of its parent.

        No place that changes is the place of a parent, see `_Leaves.grow`. So the leaves can be copied one by one,
        which takes a twentieth of the time that an index of them all takes.
        """
        for place, parent in enumerate(parents.tolist()):
            if place != parent:
                self.parts[:, place, :, : self.length] = self.parts[:, parent, :, : self.length]
        self.leaves = len(parents)


class _SlotLayer(DynamicLayer):
    """The keys and values of one layer in the slots."""

    def __init__(self, slots: _Slots, number: int) -> None:
        super().__init__()
        self._slots = slots
        self._length = slots.length
        self.keys, self.values = slots.parts[2 * number], slots.parts[2 * number + 1]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        leaves, start = self._slots.leaves, self._length
        self._length = self._slots.length = start + key_states.shape[-2]
        self.keys[:leaves, :, start : self._length] = key_states
        self.values[:leaves, :, start : self._length] = value_states
        return self.keys[:leaves, :, : self._length], self.values[:leaves, :, : self._length]

    def get_seq_length(self) -> int:
        return self._length


def _read_prompts(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    capacity: int,
    room: int,
    pad_id: int,
    recording: Recording | None,
) -> tuple[_Leaves, torch.Tensor]:
    """Run the model on the prompts; return one leaf for each prompt, and the logits [prompts, V] after it.

    `capacity` is the largest number of leaves, and `room` the number of tokens by which each leaf may grow.
    """
    width = max(map(len, prompts))
    # The padding is on the left, so that all leaves end in the same column.
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    base = language_model(model)
    if not sees_trees(base):
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        return _Leaves(output.past_key_values, mask, positions[:, -1:], capacity, room), output.logits[:, -1]
    trees = token_trees(prompts, int(base.config.get_text_config().hidden_size))
    ends = torch.stack([path[-1] for path in trees.columns])
    end_columns, place = ends.unique(return_inverse=True)
    output = model(
        input_ids=trees.ids,
        attention_mask=trees.attention_mask(base.dtype),
        position_ids=trees.positions,
        use_cache=True,
        logits_to_keep=end_columns,
    )
    if recording is not None:
        recording.keep_prompts(prompts, trees)
    # For each prompt, the columns of its tokens in its row of the tree [prompts, width].
    columns = torch.stack([pad(path, (width - len(path), 0)) for path in trees.columns])
    cache = output.past_key_values
    for layer in cache.layers:
        layer.keys = layer.keys[trees.rows[:, None], :, columns].transpose(1, 2)
        layer.values = layer.values[trees.rows[:, None], :, columns].transpose(1, 2)
    return _Leaves(cache, mask, positions[:, -1:], capacity, room), output.logits[trees.rows, place]
