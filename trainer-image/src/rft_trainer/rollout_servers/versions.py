"""Writes versions of the policy to folders of their own, for the rollout servers of each machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from rft_api.files import partial_path, sync
from rft_trainer.partitions import gathered


def write_version(model: PreTrainedModel | PeftModel, folder: Path, dtype: torch.dtype, writes: bool) -> None:
    """Write the adapter of a model, or else all of its weights, to a new folder; all ranks call it.

    The folder gets its name when all of its files are on the disk. So a folder with a version's name is whole.

    Args:
        model: the model, without the wrappers of DeepSpeed or DDP.
        folder: the folder of the version.
        dtype: the dtype in which whole weights are written; an adapter is written in its own.
        writes: whether this rank writes; the others only take part in gathering the weights.
    """
    is_adapter = isinstance(model, PeftModel)
    # Parameters that are tied are listed once, and read so by vLLM.
    parameters = (pair for pair in model.named_parameters() if not is_adapter or pair[1].requires_grad)
    tensors = _gather(parameters, writes)
    if not writes:
        return
    partial = partial_path(folder)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    if is_adapter:
        name = model.active_adapter
        state = get_peft_model_state_dict(model, state_dict=tensors, adapter_name=name)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, partial / "adapter_model.safetensors")
        model.peft_config[name].save_pretrained(str(partial))
    else:
        named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in named}
        weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        model.save_pretrained(partial, state_dict={**buffers, **weights})
    for path in [*partial.iterdir(), partial]:
        sync(path)
    partial.rename(folder)
    sync(folder.parent)


def _gather(parameters: Iterable[tuple[str, torch.nn.Parameter]], keep: bool) -> dict[str, torch.Tensor]:
    """Return copies of parameters in host memory; under ZeRO-3 each is gathered from all ranks in its turn."""
    copies = {}
    for name, parameter in parameters:
        with gathered([parameter]):
            if keep:
                copies[name] = parameter.detach().to("cpu", copy=True)
    return copies
