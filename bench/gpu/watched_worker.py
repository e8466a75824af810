"""Run the trainer in one process, and write what its updates have computed and allocated to a file.

Used by the steps that look at memory: watched_worker.py CONFIG FILE LIMIT, with LIMIT in bytes of the GPU, or 0 for
none. The file has the largest pass (`tokens`, `width`, `scored`; zeros where none was a token tree) and the most memory
that torch has allocated in an update and reserved at any time, in bytes (0 without a GPU).
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer.worker import run_worker


class Watch:
    """Notes the largest pass of the updates that follow, and the most memory that one has allocated."""

    def __init__(self) -> None:
        self.tokens = self.width = self.scored = self.allocated = 0

    def start(self) -> None:
        """Look at every update from now on."""
        # As the worker does: TRL would import vLLM, which takes long.
        from trl import import_utils

        import_utils.is_vllm_available = lambda *args, **kwargs: False
        from rft_trainer import logprobs
        from rft_trainer.grpo import RFTTrainer

        lay_out, compute = logprobs._trees, logprobs._TokenLogps.apply
        begin, step = RFTTrainer.compute_ahead, RFTTrainer.training_step
        shape = 0, 0

        def trees(*arguments: Any) -> Any:
            nonlocal shape
            laid_out = lay_out(*arguments)
            shape = laid_out.ids.shape
            return laid_out

        def token_logps(logits: torch.Tensor, *rest: Any) -> Any:
            if torch.is_grad_enabled() and shape[0] * shape[1] > self.tokens:
                self.tokens, self.width, self.scored = shape[0] * shape[1], shape[1], len(logits)
            return compute(logits, *rest)

        def compute_ahead(trainer: RFTTrainer) -> None:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            begin(trainer)

        def training_step(trainer: RFTTrainer, *arguments: Any, **more: Any) -> Any:
            result = step(trainer, *arguments, **more)
            self.allocated = max(self.allocated, torch.cuda.max_memory_allocated())
            return result

        logprobs._trees, logprobs._TokenLogps.apply = trees, token_logps
        RFTTrainer.compute_ahead, RFTTrainer.training_step = compute_ahead, training_step


def main() -> int:
    file, result, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = TrainerConfig.model_validate_json(file.read_text(encoding="utf-8"))
    folder = RunFolder(config.output)
    folder.path.mkdir(parents=True)
    shutil.copyfile(file, folder.config)
    if limit:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    watch = Watch()
    watch.start()
    code = run_worker(config, "train", None)
    seen = {**vars(watch), "reserved": torch.cuda.max_memory_reserved()}
    result.write_text(json.dumps(seen), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
