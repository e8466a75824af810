"""Models that are divided among the ranks while they are loaded: whole they equal their files, and no rank holds all.

Two processes, started as for DeepSpeed, load several models one after the other, and report as JSON what they have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.patience import PATIENCE_SECONDS
from support.tiny import write_model
from support.trainer import TrainerProgram, job_spec, render

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_trainer.architecture import expert_weights

LOADER = """
import ctypes, json, sys, threading

# Freed memory is returned to the system at once, so that what a process has is what it uses.
M_MMAP_THRESHOLD = -3
assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)

import torch
from safetensors import safe_open

from rft_api.training import TrainerCompute
from rft_api.tuning import Tuning
from rft_trainer.architecture import adapted_layers, describe_adapter
from rft_trainer.modeling import add_adapter, load_model
from rft_trainer.partitions import full_shape, gathered, is_divided
from rft_trainer.worker import _join_process_group

_join_process_group(on_gpu=False)


def anonymous():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def report(folder, stage):
    before, peak, ended = anonymous(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    compute = TrainerCompute.model_validate(
        {"gpusPerNode": 0, "processesPerNode": 2, "deepspeed": {"zeroStage": stage}}
    )
    model = load_model(folder, torch.float32, compute)
    ended.set()
    watcher.join()
    held = anonymous()
    with gathered(model.parameters()):
        whole = anonymous()
    weights, different = dict(model.named_parameters(remove_duplicate=False)), []
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            with gathered([weights[name]]):
                if not torch.equal(weights[name], file.get_tensor(name)):
                    different.append(name)
    tuning = Tuning(type="LoRA", rank=4)
    adapter = describe_adapter(model, adapted_layers(model, tuning))
    adapted = add_adapter(model, tuning, seed=1)
    return {
        "peak": max(peak, held) - before,
        "held": held - before,
        "whole": whole - held,
        "bytes": sum(full_shape(weight).numel() * 4 for weight in set(weights.values())),
        "divided": all(map(is_divided, weights.values())),
        "different": different,
        "absent": sorted(set(weights) - names),
        "tied": model.get_input_embeddings().weight is model.get_output_embeddings().weight,
        "adapter": adapter,
        "shapes": [list(weight.shape) for name, weight in adapted.named_parameters() if "lora_" in name],
    }


print(json.dumps([report(folder, stage) for folder, stage in json.loads(sys.argv[1])]))
"""

LAYERS = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
"""Inputs and outputs of the linear layers in a layer of the tiny model."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of both ranks, by the name of the model."""
    folder = tmp_path_factory.mktemp("models")
    # What libraries import with the first model would count as its memory, so it is a small one. The large one has some
    # 200 MB, and no module with more than a hundredth of them.
    large = write_model(folder / "large", layers=24, hidden=512)
    models = {
        "tied": (write_model(folder / "tied"), 3),
        "untied": (write_model(folder / "untied", tied=False), 3),
        "large": (large, 3),
        "stage 2": (folder / "tied", 2),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(free_port())
    argument = json.dumps([(str(path), stage) for path, stage in models.values()])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOADER, argument],
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    ranks = [json.loads(output.splitlines()[-1]) for output in outputs]
    return dict(zip(models, zip(*ranks, strict=True), strict=True))


def test_each_rank_holds_its_parts_of_the_files(reports):
    for report in reports["large"]:
        assert report["divided"]
        assert report["different"] == []
        assert report["bytes"] > 200e6
        # Half of the weights, and a module or two that are gathered.
        assert 0.45 * report["bytes"] < report["held"] < 0.6 * report["bytes"], report
        assert report["peak"] < 0.7 * report["bytes"], report


def test_gathered_weights_are_a_whole_model(reports):
    """What generating in the trainer's own process needs, and what the test above would see without the division."""
    for report in reports["large"]:
        assert report["whole"] > 0.95 * report["bytes"], report


def test_other_stages_do_not_divide(reports):
    for report in reports["stage 2"]:
        assert not report["divided"]
        assert report["different"] == []


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_and_adapters_of_a_divided_model(reports, tied):
    for report in reports["tied" if tied else "untied"]:
        assert report["divided"]
        assert report["different"] == []
        assert report["tied"] == tied
        assert report["absent"] == (["lm_head.weight"] if tied else [])
        assert report["adapter"].startswith("the adapter trains 14 linear layers")
        expected = [shape for inputs, outputs in LAYERS * 2 for shape in ([4, inputs], [outputs, 4])]
        assert sorted(report["shapes"]) == sorted(expected)


def test_a_weight_of_another_shape_ends_all_ranks(tmp_path, data):
    """Only rank 0 reads the files, and sees it; the others have to end with it."""
    model = write_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    compute = {"gpusPerNode": 0, "processesPerNode": 2, "deepspeed": {"zeroStage": 3}}
    spec = job_spec(model, data, tmp_path / "out", compute=compute)
    run = TrainerProgram(render(spec, tmp_path / "run", "http://127.0.0.1:1", None), tmp_path / "run", free_port())
    assert run.wait() == ExitCode.MODEL_INVALID
    assert "size mismatch for model.norm.weight" in run.log


def test_divided_experts_are_counted():
    holder = torch.nn.Module()
    holder.mlp = torch.nn.Module()
    holder.mlp.experts = torch.nn.Linear(1, 1, bias=False)
    # As DeepSpeed leaves the weight of stacked experts after it has divided it.
    weight = holder.mlp.experts.weight
    weight.data, weight.ds_id, weight.ds_shape = torch.empty(0), 0, torch.Size([4, 6, 8])
    assert expert_weights(holder) == 4 * 6 * 8
