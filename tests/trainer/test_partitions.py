"""Models that are divided among the ranks while they are loaded: whole they equal their files, and no rank holds all.

Most tests start two processes, as DeepSpeed does, which report as JSON what they have loaded.
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

from rft_api.training import TrainerCompute, Tuning
from rft_trainer.architecture import adapted_layers, describe_adapter
from rft_trainer.modeling import add_adapter, load_model
from rft_trainer.partitions import full_shape, gathered, is_divided
from rft_trainer.worker import _join_process_group

folder, first, stage = sys.argv[1], sys.argv[2], int(sys.argv[3])
_join_process_group(on_gpu=False)
compute = TrainerCompute.model_validate(
    {"gpusPerNode": 0, "processesPerNode": 2, "deepspeed": {"zeroStage": stage}}
)
# What libraries import with the first model is no part of the measurement.
load_model(first, torch.float32, compute)


def anonymous():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


before, peak, ended = anonymous(), 0, threading.Event()


def watch():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, anonymous())


watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(folder, torch.float32, compute)
ended.set()
watcher.join()
held = anonymous()
report = {
    "peak": max(peak, held) - before,
    "held": held - before,
    "weights": sum(full_shape(weight).numel() * 4 for weight in model.parameters()),
    "divided": all(map(is_divided, model.parameters())),
    "different": [],
}
weights = dict(model.named_parameters(remove_duplicate=False))
with safe_open(f"{folder}/model.safetensors", "pt") as file:
    for name in file.keys():
        with gathered([weights[name]]):
            if not torch.equal(weights[name], file.get_tensor(name)):
                report["different"].append(name)
    report["absent"] = sorted(set(weights) - set(file.keys()))
report["tied"] = model.get_input_embeddings().weight is model.get_output_embeddings().weight
tuning = Tuning(type="LoRA", rank=4)
report["adapter"] = describe_adapter(model, adapted_layers(model, tuning))
adapted = add_adapter(model, tuning, seed=1)
report["shapes"] = {name: list(weight.shape) for name, weight in adapted.named_parameters() if "lora_" in name}
print(json.dumps(report))
"""


def load_on_two_ranks(folder, first, stage):
    """The reports of both ranks about a model; they load another one first."""
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOADER, str(folder), str(first), str(stage)],
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    try:
        return [json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()[-1]) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of some 200 MB, in which no module has more than a twentieth of the weights."""
    return write_model(tmp_path_factory.mktemp("large") / "model", layers=24, hidden=512)


def test_each_rank_holds_its_parts_of_the_files(large, model):
    for report in load_on_two_ranks(large, model, stage=3):
        assert report["divided"]
        assert report["different"] == []
        assert report["weights"] > 150e6
        # Half of the weights, and a module or two that are gathered.
        assert report["held"] < 0.6 * report["weights"], report
        assert report["peak"] < 0.7 * report["weights"], report


def test_without_stage_3_each_rank_holds_all(large, model):
    """What the test above would see without the division."""
    for report in load_on_two_ranks(large, model, stage=2):
        assert not report["divided"]
        assert report["different"] == []
        assert report["peak"] > 0.9 * report["weights"], report


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
    assert "size mismatch for weight" in run.log


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_and_adapters_of_a_divided_model(tmp_path, model, tied):
    folder = write_model(tmp_path / "model", tied=tied)
    for report in load_on_two_ranks(folder, model, stage=3):
        assert report["divided"]
        assert report["different"] == []
        assert report["tied"] == tied
        assert report["absent"] == (["lm_head.weight"] if tied else [])
        assert report["adapter"].startswith("the adapter trains 14 linear layers")
        assert sorted(report["shapes"].values()) == sorted(
            shape for inputs, outputs in LAYERS * 2 for shape in ([4, inputs], [outputs, 4])
        )


LAYERS = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
"""Inputs and outputs of the linear layers of a layer."""


class Experts(torch.nn.Module):
    """Stacked experts, whose weight looks as DeepSpeed leaves it after it has divided it."""

    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleDict({"up": torch.nn.Linear(1, 1, bias=False)})
        weight = self.experts["up"].weight
        weight.data = torch.empty(0)
        weight.ds_id, weight.ds_shape = 0, torch.Size([4, 6, 8])


def test_divided_experts_are_counted():
    holder = torch.nn.Module()
    holder.mlp = Experts()
    assert expert_weights(holder) == 4 * 6 * 8
