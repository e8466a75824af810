"""Token trees: tokens that several sequences begin with are stored once and computed once.

The completions of a prompt share the prompt. Prompts may share a system message or an example. Sampled completions of
the same prompt often share their first tokens. A row of the model's input is a tree of such sequences, with one branch
after the other. A token attends only to its ancestors and itself, and its position is its depth in the tree. So the
model computes the same for each token as for its sequence alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


def sees_trees(base: PreTrainedModel) -> bool:
    """Return whether the model's attention takes a mask that says, for each token, which tokens it attends to.

    It does not where layers have a sliding window, a state or a recurrence, or where a kernel attends to plain rows
    only.
    """
    config = base.config.get_text_config()
    return (
        config._attn_implementation in ("sdpa", "eager")
        and base._supports_attention_backend
        and not base._is_stateful
        and not getattr(config, "sliding_window", None)
        and not set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    )


@dataclass(frozen=True)
class TokenTrees:
    """Sequences in R rows of S columns, padded on the right."""

    ids: torch.Tensor
    """Token ids [R, S]."""
    positions: torch.Tensor
    """The position of each token in its sequences [R, S]."""
    filled: torch.Tensor
    """Which columns hold a token [R, S]."""
    visible: torch.Tensor | None
    """Which columns [R, S, S] the token of each column attends to; None when each row is one sequence."""
    rows: torch.Tensor
    """The row of each sequence [sequences]."""
    columns: list[torch.Tensor]
    """For each sequence, the columns of its tokens, in order."""

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the attention mask: for plain rows the padding mask [R, S], else an additive mask [R, 1, S, S]."""
        if self.visible is None:
            return self.filled.long()
        blank = torch.zeros((), dtype=dtype, device=self.visible.device)
        # The smallest number and not minus infinity, because the softmax of a row of padding would be NaN.
        return torch.where(self.visible, blank, torch.finfo(dtype).min)[:, None]


def plain_rows(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenTrees:
    """Return sequences as plain rows, one for each distinct sequence."""
    rows = {sequence: number for number, sequence in enumerate(dict.fromkeys(map(tuple, sequences)))}
    branches = [_Branch(sequence, 0, row) for sequence, row in rows.items()]
    return _lay_out(sequences, branches, True, device)


def token_trees(sequences: Sequence[Sequence[int]], hidden_size: int, device: torch.device | str = "cpu") -> TokenTrees:
    """Return sequences as trees that share common prefixes where this saves operations at this hidden size."""
    branches = []
    row, width = -1, 0
    previous: tuple[int, ...] = ()
    # In sorted order, the longest prefix that a sequence shares with any earlier one is shared with the previous one.
    for sequence in sorted(set(map(tuple, sequences))):
        shared = common_length(previous, sequence)
        if not shared or width + len(sequence) - shared > _best_width(shared, hidden_size):
            row, width, shared = row + 1, 0, 0
        branches.append(_Branch(sequence, shared, row))
        width += len(sequence) - shared
        previous = sequence
    # Where nothing is shared, rows need no mask with an element for every pair of columns, which takes memory and keeps
    # torch from its fastest kernels.
    return _lay_out(sequences, branches, not any(branch.shared for branch in branches), device)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def _best_width(shared: int, hidden_size: int) -> float:
    """Return the width of a row, in tokens, at which each of the sequences that share a prefix costs least.

    Per layer of hidden size h, a token costs about 24 h^2 operations, and a pair of tokens costs 4 h in the attention,
    even if the mask then removes the pair. Let a row have S tokens, of which s are shared and m belong to each of its
    (S - s) / m sequences. Then each sequence costs (24 h^2 S + 4 h S^2) m / (S - s), which is least at
    S = s + sqrt(s^2 + 6 h s).
    """
    return shared + math.sqrt(shared**2 + 6 * hidden_size * shared)


@dataclass(frozen=True)
class _Branch:
    """A sequence in a row of a tree; it shares its first `shared` tokens with the previous branch of the row."""

    sequence: tuple[int, ...]
    shared: int
    row: int


def _lay_out(
    sequences: Sequence[Sequence[int]], branches: Sequence[_Branch], plain: bool, device: torch.device | str
) -> TokenTrees:
    widths = [0] * (branches[-1].row + 1)
    columns: dict[tuple[int, ...], tuple[int, torch.Tensor]] = {}
    path = torch.empty(0, dtype=torch.long)
    for branch in branches:
        start = widths[branch.row]
        widths[branch.row] += len(branch.sequence) - branch.shared
        path = torch.cat([path[: branch.shared], torch.arange(start, widths[branch.row])])
        columns[branch.sequence] = branch.row, path
    size = len(widths), max(1, *widths)
    ids, positions = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    filled = torch.arange(size[1]) < torch.tensor(widths)[:, None]
    visible = None if plain else torch.zeros(*size, size[1], dtype=torch.bool)
    for branch in branches:
        row, path = columns[branch.sequence]
        new = path[branch.shared :]
        ids[row, new] = torch.tensor(branch.sequence[branch.shared :], dtype=torch.long)
        positions[row, new] = torch.arange(branch.shared, len(branch.sequence))
        if visible is not None:
            visible[row, new[:, None], path] = torch.ones(len(new), len(path), dtype=torch.bool).tril(branch.shared)
    places = [columns[tuple(sequence)] for sequence in sequences]
    return TokenTrees(
        ids=ids.to(device),
        positions=positions.to(device),
        filled=filled.to(device),
        visible=None if visible is None else visible.to(device),
        rows=torch.tensor([row for row, _ in places], device=device),
        columns=[path.to(device) for _, path in places],
    )
