"""Log-probabilities of completions, differentiable, with every distinct prompt computed once for all its samples.

The samples of one prompt become one row, [prompt][completion 1][completion 2]..., with an attention mask in which a
completion sees the prompt and itself only. It is one ordinary forward pass of the model, so wrappers with hooks (PEFT,
DeepSpeed) keep working, and there is padding only between rows, not between samples.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from rft_trainer.generation import contiguous_head, language_model

# Elements of float32 intermediates at a time: 8 MB, which stay in the processor's cache.
CHUNK = 1 << 21


def completion_logprobs(
    model: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities [B, C] and, if asked for, entropies [B, C] in nats, both float32 and 0 where the mask is 0.

    Prompts [B, P] are padded on the left, completions [B, C] on the right; `temperature` divides the logits. Only the
    log-probabilities carry a gradient. `model` may be wrapped (PEFT, DeepSpeed) and is called exactly once. Peak
    memory: the logits of the scored positions in the model's dtype, and as much again in backward.
    """
    together = _samples_per_row(model, prompt_ids.shape[1], completion_ids.shape[1])
    rows = _pack(prompt_ids, prompt_mask, completion_ids, completion_mask, together)
    with contiguous_head(model):
        logits = model(
            input_ids=rows.ids,
            attention_mask=_tree_mask(rows.part, language_model(model).dtype) if together > 1 else (rows.part >= 0) * 1,
            position_ids=rows.positions,
            use_cache=False,
            logits_to_keep=rows.kept,
        ).logits
    chosen = completion_mask.bool()
    logps, entropies = _TokenLogps.apply(
        logits.flatten(0, 1), rows.sources, completion_ids[chosen], temperature, entropy
    )
    place = chosen.nonzero(as_tuple=True)
    blank = torch.zeros(completion_ids.shape, device=completion_ids.device)
    return blank.index_put(place, logps), blank.index_put(place, entropies[rows.sources]) if entropy else None


class _Rows(NamedTuple):
    """The input of the model: R rows of S columns; the columns of the prompt come first."""

    ids: torch.Tensor  # [R, S]
    positions: torch.Tensor  # [R, S], counted from the first token of the prompt
    part: torch.Tensor  # [R, S]: -1 padding, 0 prompt, n > 0 the n-th completion of the batch
    kept: int  # how many of the last columns have to have logits
    sources: torch.Tensor  # [tokens of all completions]: which of the R * kept logits predicts the token


def _samples_per_row(model: torch.nn.Module, prompt: int, completion: int) -> int:
    """How many completions of a prompt to put into one row; 1 where the model's attention allows no tree.

    Each sample more saves `prompt` tokens, at 24 h^2 operations a layer for hidden size h. It costs attention between
    samples that the mask then drops, at 4 h operations a pair: together k samples have k (k - 1) completion^2 such
    pairs, less the (k - 1) prompt^2 that they save.
    """
    base = language_model(model)
    config = base.config.get_text_config()
    if (
        config._attn_implementation not in ("sdpa", "eager")
        or not base._supports_attention_backend
        or base._is_stateful
        or getattr(config, "sliding_window", None)
        or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    ):
        return 1
    return max(1, prompt * (prompt + 6 * int(config.hidden_size)) // completion**2)


def _pack(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    together: int,
) -> _Rows:
    """Puts up to `together` completions of equal prompts behind each other in one row."""
    device = prompt_ids.device
    width = prompt_ids.shape[1]
    lengths = completion_mask.sum(1).tolist()
    heads = torch.cat([prompt_ids * prompt_mask, prompt_mask], 1).tolist()
    open_row: dict[tuple[int, ...], tuple[int, int]] = {}  # prompt -> its row that has room, completions in it
    first: list[int] = []  # for each row the sample that its prompt is taken from
    ends: list[int] = []  # for each row the columns filled so far
    row, start = [], []  # for each sample
    for sample, (head, length) in enumerate(zip(map(tuple, heads), lengths, strict=True)):
        number, count = open_row.get(head, (-1, together))
        if count == together:
            number, count = len(first), 0
            first.append(sample)
            ends.append(width)
        open_row[head] = number, count + 1
        row.append(number)
        start.append(ends[number])
        ends[number] += length

    size = len(first), max(ends)
    mask = prompt_mask[first]
    ids = torch.zeros(size, dtype=torch.long, device=device)
    positions, part = torch.zeros_like(ids), torch.full_like(ids, -1)
    ids[:, :width] = prompt_ids[first]
    positions[:, :width] = (mask.cumsum(1) - 1).clamp(min=0)
    part[:, :width] = mask.long() - 1

    samples, places = completion_mask.nonzero(as_tuple=True)
    rank = (completion_mask.cumsum(1) - 1)[samples, places]
    at = torch.tensor(row, device=device)[samples], torch.tensor(start, device=device)[samples] + rank
    ids[at] = completion_ids[samples, places]
    positions[at] = prompt_mask.sum(1)[samples] + rank
    part[at] = samples + 1
    # The first token of every completion is predicted at the last token of the prompt, which they share.
    kept = size[1] - width + 1
    before = torch.where(rank == 0, width, at[1]) - width
    return _Rows(ids, positions, part, kept, at[0] * kept + before)


def _tree_mask(part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive mask [R, 1, S, S]: each token sees what comes before it in its own part and in the prompt."""
    asks, seen = part[:, :, None], part[:, None, :]
    order = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=part.device).tril()
    allowed = (order & ((seen == asks) | (seen == 0)) & (seen >= 0))[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=part.device).masked_fill(~allowed, torch.finfo(dtype).min)


class _TokenLogps(torch.autograd.Function):
    """(logits [N, V], sources [n], tokens [n], temperature, entropy?) -> (log-probabilities [n], entropies [N]).

    Softmax and its gradient are made in float32 piece by piece, and nothing of the size of the logits is kept besides
    the logits. The entropies have no gradient; they are zeros if not asked for.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, sources: torch.Tensor, tokens: torch.Tensor, temperature: float, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normalizers, entropies = torch.zeros(2, len(logits), device=logits.device)
        for piece in _pieces(logits):
            scores = logits[piece].float() / temperature
            normalizers[piece] = scores.logsumexp(-1)
            if entropy:
                logps = scores.sub_(normalizers[piece, None])
                entropies[piece] = -(logps.exp() * logps).sum(-1)
        ctx.save_for_backward(logits, sources, tokens, normalizers)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return logits[sources, tokens].float() / temperature - normalizers[sources], entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        logits, sources, tokens, normalizers = ctx.saved_tensors
        gradient = gradient / ctx.temperature
        totals = torch.zeros_like(normalizers).index_add(0, sources, gradient)
        result = torch.empty_like(logits)
        for piece in _pieces(logits):
            scores = logits[piece].float() / ctx.temperature
            softmax = scores.sub_(normalizers[piece, None]).exp_().mul_(-totals[piece, None])
            # Added before rounding to the model's dtype: the two nearly cancel for likely tokens.
            inside = (sources >= piece.start) & (sources < piece.stop)
            softmax.index_put_((sources[inside] - piece.start, tokens[inside]), gradient[inside], accumulate=True)
            result[piece] = softmax
        return result, None, None, None, None


def _pieces(logits: torch.Tensor) -> list[slice]:
    """Consecutive rows with about CHUNK elements each."""
    step = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]
