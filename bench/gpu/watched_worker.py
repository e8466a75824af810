"""Run the trainer in one process on one GPU, and write the most memory that torch has reserved there to a file.

Used by the steps that look at memory: watched_worker.py CONFIG FILE LIMIT, with LIMIT in bytes, or 0 for none.
"""

import shutil
import sys
from pathlib import Path

import torch

from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer.worker import run_worker


def main() -> int:
    file, result, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = TrainerConfig.model_validate_json(file.read_text(encoding="utf-8"))
    folder = RunFolder(config.output)
    folder.path.mkdir(parents=True)
    shutil.copyfile(file, folder.config)
    if limit:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    code = run_worker(config, "train", None)
    result.write_text(str(torch.cuda.max_memory_reserved()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
