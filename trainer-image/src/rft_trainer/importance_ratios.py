"""What the correction has done to importance ratios, beside what TRL records of them."""

from __future__ import annotations

import torch

from rft_trainer.distributed import gather


def clipped_share(ratios: torch.Tensor, mask: torch.Tensor, mode: str, cap: float) -> float:
    """Return the share of importance ratios that the correction has changed; all ranks call it, and get the same.

    Args:
        ratios: those of each token [B, T] or of each completion [B, 1], truncated or masked.
        mask: 1 for the tokens of completions [B, T].
        mode: TRL's name of what becomes of ratios above the cap.
        cap: the largest ratio.
    """
    clipped = ratios >= cap if mode.endswith("truncate") else ratios == 0
    counted = mask.bool() if ratios.shape == mask.shape else torch.ones_like(ratios, dtype=torch.bool)
    counts = gather((int((clipped & counted).sum()), int(counted.sum())))
    return sum(count for count, _ in counts) / max(1, sum(count for _, count in counts))
