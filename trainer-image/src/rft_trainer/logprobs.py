"""Log-probabilities of completions, differentiable, with whatever several sequences begin with computed once.

The sequences become token trees: one ordinary forward pass of the model, so wrappers with hooks (PEFT, DeepSpeed) keep
working, and gradients of all completions flow through what they share.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from rft_trainer.model_access import contiguous_head, language_model
from rft_trainer.token_tree import TokenTrees, plain_rows, sees_trees, token_trees

# Elements of float32 intermediates at a time: 8 MB, which stay in the processor's cache.
CHUNK = 1 << 21
SHARED = 0.7
"""Share of the tokens at which a token tree is clearly less work than rows of plain attention."""


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
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
    completions = [ids[mask.bool()].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)]
    # A token is predicted at the token before it, so the last one of a sequence is not looked at.
    sequences = [(prompt + completion)[:-1] for prompt, completion in zip(prompts, completions, strict=True)]
    trees = _trees(model, sequences, completion_ids.device)
    predicting = [path[len(prompt) - 1 :] for path, prompt in zip(trees.columns, prompts, strict=True)]
    kept, places = torch.cat(predicting).unique(return_inverse=True)
    rows = trees.rows.repeat_interleave(torch.tensor([len(path) for path in predicting], device=trees.rows.device))
    if not len(kept):
        kept = kept.new_zeros(1)
    with contiguous_head(model):
        logits = model(
            input_ids=trees.ids,
            attention_mask=trees.attention_mask(_mask_dtype(model, trees.ids.device)),
            position_ids=trees.positions,
            use_cache=False,
            logits_to_keep=kept,
        ).logits
    chosen = completion_mask.bool()
    sources = rows * len(kept) + places
    logps, entropies = _TokenLogps.apply(logits.flatten(0, 1), sources, completion_ids[chosen], temperature, entropy)
    place = chosen.nonzero(as_tuple=True)
    blank = torch.zeros(completion_ids.shape, device=completion_ids.device)
    return blank.index_put(place, logps), blank.index_put(place, entropies[sources]) if entropy else None


def shares_tokens(model: torch.nn.Module, sequences: Sequence[Sequence[int]]) -> bool:
    """Whether a token tree of the sequences has at most `SHARED` of their tokens, and the model's attention sees it."""
    if not sees_trees(language_model(model)):
        return False
    return _trees(model, sequences, torch.device("cpu")).ids.numel() <= SHARED * sum(map(len, sequences))


def _trees(model: torch.nn.Module, sequences: Sequence[Sequence[int]], device: torch.device) -> TokenTrees:
    base = language_model(model)
    if sees_trees(base):
        return token_trees(sequences, int(base.config.get_text_config().hidden_size), device)
    return plain_rows(sequences, device)


def _mask_dtype(model: torch.nn.Module, device: torch.device) -> torch.dtype:
    """The dtype of queries and keys, which an additive mask must have, too."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return language_model(model).dtype


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
