"""The policy-gradient algorithms by their usual names, with the settings that make TRL compute them."""

from __future__ import annotations

from typing import Any

from rft_api.training import Algorithm

# Each generation is used for one optimizer step, so the policy that has sampled is the one that is updated, and the
# clipping ranges below have no effect. They are set because they are part of the algorithms' definitions.
SETTINGS: dict[Algorithm, dict[str, Any]] = {
    # Shao et al. 2024, arXiv:2402.03300: mean over each sequence's tokens, then over sequences.
    "GRPO": {"loss_type": "grpo"},
    # Liu et al. 2025, arXiv:2503.20783: no division by length or by the group's standard deviation.
    "DrGRPO": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    # Yu et al. 2025, arXiv:2503.14476: mean over all tokens of the batch; a wider upper clipping range.
    "DAPO": {"loss_type": "dapo", "epsilon_high": 0.28},
    # Mean over the tokens of each micro-batch.
    "BNPO": {"loss_type": "bnpo"},
    # MiniMax 2025, arXiv:2506.13585: clipped importance weights instead of a clipped objective.
    "CISPO": {"loss_type": "cispo", "epsilon_high": 5.0},
    # Gao et al. 2025, arXiv:2511.20347: a smooth gate in place of clipping.
    "SAPO": {"loss_type": "sapo"},
    # Length-unbiased sequence policy optimization: sequence-level importance weights, sums over tokens.
    "LUSPO": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    # Variational sequence-level soft policy optimization.
    "VESPO": {"loss_type": "vespo"},
    # Zheng et al. 2025, arXiv:2507.18071: GRPO with sequence-level importance weights; the paper's clipping range.
    "GSPO": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
}
