"""Fast sampling of completions from a causal language model on CPU, token for token what `generate` would sample."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

DECODING = "rft_decoding"
# Finished rows leave the batch only when this many are gone, because taking them out copies the whole cache.
COMPACT_AT = 0.8

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

    Equal prompts (the samples of one group) are computed once. `temperature` 0 takes the most likely token. The random
    numbers are drawn as `generate(do_sample=True)` draws them, from `generator` or torch's global one, so the same seed
    gives the same completions; both generators also end in the same state. `on_finished` is called with those that have
    ended while others go on.

    `model` is a causal LM, possibly inside PEFT, never inside an engine or DDP (unwrap it, and gather ZeRO-3 weights,
    first). It runs in evaluation mode and gets its mode back. ValueError for an empty prompt.
    """
    if not all(prompt_ids):
        raise ValueError("an empty prompt cannot be completed")
    if not prompt_ids:
        return []
    distinct = {tuple(prompt): None for prompt in prompt_ids}
    index = {prompt: number for number, prompt in enumerate(distinct)}
    device = model.device
    width = max(map(len, distinct))
    ids = torch.tensor([[pad_token_id] * (width - len(p)) + list(p) for p in distinct], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in distinct], device=device)
    group = torch.tensor([index[tuple(prompt)] for prompt in prompt_ids], device=device)
    ends = torch.tensor(list(eos_token_ids), device=device)

    with _evaluating(model), _packed_weights(model), contiguous_head(model):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache = _expanded(output.past_key_values, group, max_new_tokens)
        logits, mask, position = output.logits[:, -1][group], mask[group], positions[group, -1:]
        choose = _Chooser(len(prompt_ids), temperature, generator)
        completions = torch.full((len(prompt_ids), max_new_tokens), pad_token_id, device=device)
        lengths = torch.full((len(prompt_ids),), max_new_tokens, device=device)
        rows = torch.arange(len(prompt_ids), device=device)  # the completion that each row of the batch belongs to
        active = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
        with _decoding_attention(model):
            for step in range(max_new_tokens):
                tokens = choose(logits, rows)
                completions[rows[active], step] = tokens[active]
                ended = active & torch.isin(tokens, ends)
                lengths[rows[ended]] = step + 1
                active &= ~ended
                left = int(active.sum())
                if on_finished is not None and left:
                    done = rows[ended].tolist()
                    if done:
                        on_finished({row: completions[row, : step + 1].tolist() for row in done})
                if not left or step + 1 == max_new_tokens:
                    break
                if left <= COMPACT_AT * len(rows):
                    kept = active.nonzero().squeeze(-1)
                    cache.reorder_cache(kept)
                    tokens, mask, position, rows, active = (x[kept] for x in (tokens, mask, position, rows, active))
                mask = pad(mask, (0, 1), value=1)
                position = position + 1
                logits = model(
                    input_ids=tokens[:, None],
                    attention_mask=mask,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
    return [row[:length].tolist() for row, length in zip(completions.cpu(), lengths.tolist(), strict=True)]


@contextmanager
def merged_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Adapters of a PEFT model are part of its base weights inside; every weight is bit-identical to before after it.

    The touched weights are kept and copied back instead of subtracting the adapter again, which drifts in bfloat16.
    Nothing happens in a model without adapters, or where they are switched off. Under ZeRO-3 it belongs inside the
    context that gathers the weights.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and not layer.merged and not layer.disable_adapters
    ]
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for layer in layers:
            saved += [(weight, weight.detach().clone()) for weight in layer.get_base_layer().parameters()]
            layer.merge()
        yield
    finally:
        for layer in layers:
            if layer.merged:
                layer.unmerge()
        with torch.no_grad():
            for weight, copy in saved:
                weight.copy_(copy)


def language_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model itself, whatever is around it: PEFT, DeepSpeed, DDP."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


@contextmanager
def contiguous_head(model: torch.nn.Module) -> Iterator[None]:
    """Makes the input of the LM head contiguous: for a slice of positions torch copies the whole head once a row."""
    head: torch.nn.Module = language_model(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()


class _Chooser:
    """Chooses the next token of each row, with the random numbers that `torch.multinomial` would use."""

    def __init__(self, count: int, temperature: float, generator: torch.Generator | None) -> None:
        self.count, self.temperature, self.generator = count, temperature, generator
        self.uniform = torch.empty(0)

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Token ids [len(rows)] for logits [len(rows), vocabulary]; `rows` are numbers below the count."""
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = logits.float()
        if self.temperature != 1:
            scores = scores / self.temperature
        return (scores.softmax(-1) / self._exponential(rows, logits)).argmax(-1)

    def _exponential(self, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The rows of what `exponential_` would draw for all rows, finished or not: the stream must not shift.

        On CPU that method is serial. The same numbers come from doubles, whose logarithm is vectorised, in a third of
        the time.
        """
        shape = (self.count, logits.shape[-1])
        if logits.device.type != "cpu":
            return torch.empty(shape, device=logits.device).exponential_(generator=self.generator)[rows]
        if self.uniform.shape != shape:
            self.uniform = torch.empty(shape, dtype=torch.float64)
        torch.rand(shape, dtype=torch.float64, generator=self.generator, out=self.uniform)
        return self.uniform[rows].neg_().log1p_().neg_().float()


class _Slots(DynamicLayer):
    """One layer's keys and values with room for the tokens to come, so that a step copies one token, not all."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.length = layer.get_seq_length()
        self.keys, self.values = pad(layer.keys, (0, 0, 0, room)), pad(layer.values, (0, 0, 0, room))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length


def _expanded(cache: Cache, group: torch.Tensor, room: int) -> Cache:
    """The cache of the distinct prompts, repeated for the rows of the batch; plain layers get room to grow."""
    cache.reorder_cache(group)
    cache.layers = [_Slots(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row: query heads that share a key head go through together, as its positions.

    The usual way repeats keys and values for every query head and then runs a kernel made for long queries, which in
    bfloat16 takes ten times as long.
    """
    rows, heads, length, width = query.shape
    if length != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, key.shape[1], -1, width)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(DECODING, _attend)
# An additive mask: a boolean one would be converted again in every layer.
AttentionMaskInterface.register(DECODING, eager_mask)


@contextmanager
def _decoding_attention(model: PreTrainedModel) -> Iterator[None]:
    """`_attend` instead of torch's attention, where the model uses that one and lets it be exchanged."""
    base = language_model(model)
    before = base.config._attn_implementation
    if before != "sdpa" or model.device.type != "cpu" or not base._supports_attention_backend:
        yield
        return
    base.set_attn_implementation(DECODING)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


@contextmanager
def _packed_weights(model: torch.nn.Module) -> Iterator[None]:
    """Linear layers use a copy of their weights in oneDNN's own order.

    Otherwise oneDNN reorders every weight at every call, which for a few rows takes longer than the multiplication.
    The copies (as large as the weights) are made anew each time, because an adapter may have been merged since.
    """
    supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    layers = [
        layer
        for layer in model.modules()
        if supported
        and type(layer) is torch.nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.bfloat16
    ]
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
        vars(layer)["forward"] = partial(_packed_linear, packed, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _packed_linear(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode: dropout would blur the samples, and checkpointing in training mode switches the cache off."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
