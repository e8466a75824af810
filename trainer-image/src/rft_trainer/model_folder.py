"""Checks a model's folder before anything is loaded from it."""

from __future__ import annotations

from pathlib import Path

from rft_api.exit_codes import ExitCode, RunError


def check_model_folder(model: str) -> None:
    """Finds what is wrong with a model's address without reading its weights.

    Raises:
        RunError: MODEL_INVALID unless it is a folder with configuration and safetensors, or OWNER/NAME on the hub.
    """
    path = Path(model)
    if not path.is_absolute() and not path.exists():
        if model.count("/") == 1 and not model.startswith("."):
            return  # OWNER/NAME on the hub
        raise RunError(ExitCode.MODEL_INVALID, f"model {model}: no such folder")
    if not path.is_dir():
        raise RunError(
            ExitCode.MODEL_INVALID, f"model {model}: {'not a folder' if path.exists() else 'no such folder'}"
        )
    if not (path / "config.json").is_file():
        raise RunError(ExitCode.MODEL_INVALID, f"model {model}: holds no config.json, so it is not a model")
    if not any(path.glob("*.safetensors")):
        raise RunError(
            ExitCode.MODEL_INVALID,
            f"model {model}: holds no *.safetensors; convert its weights (pickle files are not loaded)",
        )
