"""Says which models vLLM cannot take over from the trainer after each step, from their config.json alone.

It is known before anything starts: to `rft plan`, to the pod that plans the memory of a job, and to the trainer.
"""

from __future__ import annotations

from typing import Any

from rft_api.model import Location
from rft_api.rollouts import RolloutEngine
from rft_api.tuning import Tuning

ENGINE: Location = ("spec", "compute", "rollouts", "engine")
"""The field that has to be changed."""
NO_EXPERTS = "vLLM is not supported for models with experts (mixture of experts); set InProcess"
"""Why a job is refused whose model has experts and whose completions come from vLLM.

vLLM has kernels for adapters beside experts on GPUs only, so nothing of it could be tested (vLLM 0.31,
`fused_moe/oracle/unquantized.py`; on CPUs the engine ends). Whole weights of experts have not been tried either.
"""
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names of the number of experts of a layer in config.json."""
WITHOUT_ADAPTERS = frozenset({
    "bloom", "cohere2_moe", "dbrx", "falcon", "falcon_mamba", "gemma3n_text", "gpt-sw3", "gpt2", "gpt_neox", "gptj",
    "hrm_text", "kimi_linear", "mamba", "mamba2", "mimo_v2_flash", "stablelm", "zamba2",
})  # fmt: skip
"""Values of `model_type` of models that vLLM computes, but without adapters; a test compares them with its classes."""
_PARTS = ("text_config", "ffn_config")
"""Objects in config.json that may have the number of experts."""


def vllm_problem(configuration: Any, engine: RolloutEngine, tuning: Tuning) -> str | None:
    """Return why the completions of a job cannot come from vLLM, as what is wrong with `ENGINE`; None when they can.

    Args:
        configuration: what the model's config.json holds.
        engine: what generates the completions.
        tuning: which weights are trained.
    """
    if engine != "vLLM" or not isinstance(configuration, dict):
        return None
    parts = [configuration, *(configuration.get(name) for name in _PARTS)]
    if any(_has_experts(part) for part in parts):
        return NO_EXPERTS
    kind = configuration.get("model_type")
    if tuning.type == "LoRA" and isinstance(kind, str) and kind in WITHOUT_ADAPTERS:
        return f"vLLM cannot load adapters into models of type {kind}; set InProcess, or spec.tuning.type: Full"
    return None


def _has_experts(part: Any) -> bool:
    # Dense models of the type doge state how many experts they would have.
    if not isinstance(part, dict) or part.get("is_moe") is False:
        return False
    counts = [part.get(name) for name in EXPERT_COUNTS]
    return any(isinstance(count, int) and count > 1 for count in counts)
