"""Differentiable log-probabilities of completions, where prefixes that several sequences share are computed once.

The sequences become token trees, which are the input of one ordinary forward pass. So wrappers with hooks (PEFT,
DeepSpeed) keep working, and the gradients of all completions flow through the prefixes that they share.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from rft_api.memory_layers import CHUNK
from rft_trainer.frozen_states import FrozenStates
from rft_trainer.model_access import contiguous_head, language_model
from rft_trainer.token_tree import TokenTrees, plain_rows, sees_trees, token_trees

SHARED = 0.7
"""A token tree with at most this fraction of the tokens of plain rows clearly saves work."""


def completion_logprobs(
    model: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperature: float,
    entropy: bool,
    frozen_states: FrozenStates | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return log-probabilities [B, C] and, on request, entropies [B, C] in nats; float32, and 0 where the mask is 0.

    Prompts [B, P] are padded on the left, completions [B, C] on the right; `temperature` divides the logits. Both have
    gradients. `model` may be wrapped (PEFT, DeepSpeed) and is called exactly once. Peak memory: the logits of the
    scored positions in the model's dtype, and as much again in backward.

    `frozen_states` may know what the frozen layers compute; then they are left out.
    """
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
    completions = [ids[mask.bool()].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)]
    # Each token is predicted from the tokens before it, so the last token of a sequence is no input.
    sequences = [(prompt + completion)[:-1] for prompt, completion in zip(prompts, completions, strict=True)]
    trees = _trees(model, sequences, completion_ids.device)
    predicting = [path[len(prompt) - 1 :] for path, prompt in zip(trees.columns, prompts, strict=True)]
    columns, places = torch.cat(predicting).unique(return_inverse=True)
    rows = trees.rows.repeat_interleave(torch.tensor([len(path) for path in predicting], device=trees.rows.device))
    if not len(columns):
        columns = columns.new_zeros(1)
    reused: AbstractContextManager[Any] = (
        nullcontext() if frozen_states is None else frozen_states.reused(trees, prompts, completions)
    )
    with contiguous_head(model), reused:
        logits = model(
            input_ids=trees.ids,
            attention_mask=trees.attention_mask(_mask_dtype(model, trees.ids.device)),
            position_ids=trees.positions,
            use_cache=False,
            logits_to_keep=columns,
        ).logits
    mask = completion_mask.bool()
    sources = rows * len(columns) + places
    logps, entropies = _TokenLogps.apply(logits.flatten(0, 1), sources, completion_ids[mask], temperature, entropy)
    place = mask.nonzero(as_tuple=True)
    blank = torch.zeros(completion_ids.shape, device=completion_ids.device)
    return blank.index_put(place, logps), blank.index_put(place, entropies[sources]) if entropy else None


def shares_tokens(model: torch.nn.Module, sequences: Sequence[Sequence[int]]) -> bool:
    """Return whether the model supports token trees, and one has at most the fraction `SHARED` of the tokens."""
    if not sees_trees(language_model(model)):
        return False
    return _trees(model, sequences, torch.device("cpu")).ids.numel() <= SHARED * sum(map(len, sequences))


def _trees(model: torch.nn.Module, sequences: Sequence[Sequence[int]], device: torch.device) -> TokenTrees:
    base = language_model(model)
    if sees_trees(base):
        return token_trees(sequences, int(base.config.get_text_config().hidden_size), device)
    return plain_rows(sequences, device)


def _mask_dtype(model: torch.nn.Module, device: torch.device) -> torch.dtype:
    """Return the dtype of queries and keys; an additive mask must have the same."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return language_model(model).dtype


class _TokenLogps(torch.autograd.Function):
    """(logits [N, V], sources [n], tokens [n], temperature, entropy?) -> (log-probabilities [n], entropies [N]).

    Softmax and its gradient are computed in float32 piece by piece, and no other tensor of the size of the logits is
    kept. The entropies are zeros unless they are requested. Where no loss is computed from them, the backward pass
    takes no longer for them.
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
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, sources, tokens, normalizers, entropies)
        ctx.temperature = temperature
        return logits[sources, tokens].float() / temperature - normalizers[sources], entropies

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logps: torch.Tensor | None, of_entropies: torch.Tensor | None
    ) -> tuple[torch.Tensor, None, None, None, None]:
        """Return the gradient of the logits [N, V].

        With the scores s = logits / temperature, their softmax p and the entropy H = -sum(p log p), the derivative of
        log p_j is 1 - p_j at s_j and -p_k at any other s_k, and that of H is -p_k (log p_k + H) at s_k.
        """
        logits, sources, tokens, normalizers, entropies = ctx.saved_tensors
        # Gradients of the scores become those of the logits.
        gradient = torch.zeros(len(sources), device=logits.device) if of_logps is None else of_logps / ctx.temperature
        totals = torch.zeros_like(normalizers).index_add(0, sources, gradient)
        result = torch.empty_like(logits)
        for piece in _pieces(logits):
            scores = logits[piece].float() / ctx.temperature
            logps = scores.sub_(normalizers[piece, None])
            if of_entropies is None:
                gradients = logps.exp_().mul_(-totals[piece, None])
            else:
                factors = (logps + entropies[piece, None]).mul_(of_entropies[piece, None] / ctx.temperature)
                gradients = logps.exp_().mul_(factors.add_(totals[piece, None]).neg_())
            # The sum is formed before rounding to the model's dtype, because its terms nearly cancel for likely tokens.
            inside = (sources >= piece.start) & (sources < piece.stop)
            gradients.index_put_((sources[inside] - piece.start, tokens[inside]), gradient[inside], accumulate=True)
            result[piece] = gradients
        return result, None, None, None, None


def _pieces(logits: torch.Tensor) -> list[slice]:
    """Return consecutive slices of rows with about CHUNK elements each."""
    step = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]
