"""DeepSpeed's configuration for a run."""

from __future__ import annotations

from rft_api.model import Json
from rft_api.training import TrainerCompute


def build_deepspeed_config(compute: TrainerCompute, on_gpu: bool) -> Json | None:
    """Return the configuration that transformers passes to DeepSpeed; None when the run does not use DeepSpeed."""
    deepspeed = compute.effective_deepspeed
    if deepspeed is None:
        return None
    stage = deepspeed.zero_stage
    zero: Json = {"stage": stage}
    if deepspeed.offload == "Optimizer":
        zero["offload_optimizer"] = {"device": "cpu"}
    if stage == 3:
        # Checkpoints then hold the complete weights, ready for the export.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": on_gpu},
        "zero_optimization": zero,
        # torch's AdamW is the optimizer at every stage, because DeepSpeed would compile its own on first use.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
