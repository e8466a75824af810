"""A run's contract: exit codes, paths, and files that can be read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rft_api
from rft_api import metrics, progress, run_folder, summary, trainer_config
from rft_api.exit_codes import ExitCode
from rft_api.model import Model
from rft_api.progress import Progress
from rft_api.run_folder import CheckpointInfo, RunFolder


def test_exit_codes_are_a_contract():
    assert {code.value: code.name for code in ExitCode} == {
        0: "SUCCEEDED", 1: "UNEXPECTED", 10: "CONFIGURATION_INVALID", 11: "DATA_INVALID", 12: "MODEL_INVALID",
        13: "NOT_LEARNABLE", 14: "REWARD_FAILING", 15: "OUTPUT_INVALID", 16: "DIVERGED", 17: "OUT_OF_MEMORY",
        18: "DOES_NOT_FIT",
        74: "OUTPUT_FAILED", 75: "INTERRUPTED", 76: "REWARD_UNREACHABLE", 77: "STORAGE_UNREACHABLE",
    }  # fmt: skip
    assert ExitCode.NOT_LEARNABLE.reason == "NotLearnable"
    assert [code.permanent for code in (ExitCode.DIVERGED, ExitCode.INTERRUPTED, ExitCode.UNEXPECTED)] == [
        True, False, False,
    ]  # fmt: skip


def test_every_field_is_described():
    modules = (metrics, progress, run_folder, summary, trainer_config)
    values = [value for module in modules for value in vars(module).values()]
    models = {value for value in values if isinstance(value, type) and issubclass(value, Model)}
    assert len(models) > 15
    missing = [f"{m.__name__}.{name}" for m in models for name, f in m.model_fields.items() if not f.description]
    assert missing == []


def test_files_say_none_and_can_be_read_back():
    info = CheckpointInfo(step=3, validation_reward=None)
    assert CheckpointInfo.model_validate_json(info.model_dump_json(by_alias=True)) == info
    assert Progress.model_validate_json("{}") == Progress()


def test_paths():
    folder = RunFolder("/out")
    assert folder.rollout(3) == Path("/out/rollouts/step-3.parquet")
    assert folder.evaluation("base") == Path("/out/evaluations/base.parquet")
    assert folder.checkpoint(7) == Path("/out/checkpoints/step-7")


MODULES = sorted(file.stem for file in Path(rft_api.__file__).parent.glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("heavy", ["torch", "transformers", "numpy", "kubernetes"])
def test_the_vocabulary_is_light(heavy):
    imports = ", ".join(f"rft_api.{module}" for module in MODULES)
    code = f"import sys, {imports}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
