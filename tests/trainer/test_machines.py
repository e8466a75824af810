"""Two machines that share no disk, their output in an object store: the numbers of one machine, also after kills."""

import shutil
import uuid

from safetensors.torch import load_file
from support.patience import wait_until
from support.trainer import (
    TrainerProgram,
    assert_whole_adapter,
    curve,
    end_pause,
    hyperparameters,
    job_spec,
    pause_after,
    render,
)

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.summary import Summary

# Checkpoints after steps 2, 4, 6, 8 and 9; that after step 3, a validation, has only weights.
STEPS = hyperparameters(microBatchSize=4, maxSteps=9, evalInterval=3)


def adapter_spec(model, data, output, nodes, processes):
    """What machines have most to share: each holds a part of the model, of an adapter and of what a warm-up made."""
    return job_spec(
        model, data, output,
        compute={"gpusPerNode": 0, "nodes": nodes, "processesPerNode": processes, "deepspeed": {"zeroStage": 3}},
        hyperparameters=STEPS,
        checkpoints={"interval": 2},
        tuning={"type": "LoRA", "rank": 4},
        warmup={"data": [{"name": "w", "uri": str(data / "warmup.jsonl")}], "epochs": 1, "learningRate": "1e-3"},
    )  # fmt: skip


class TwoMachines:
    """Two trainer programs, each with a scratch folder of its own; the bucket holds their output."""

    def __init__(self, folder, s3, model, data, rewards):
        self.bucket = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
        self.stored = RunFolder(self.bucket / "run")
        self.folders = [folder / "first", folder / "second"]
        spec = adapter_spec(model, data, folder, nodes=2, processes=1)
        spec["output"]["uri"] = f"s3://{self.bucket.name}/run"
        self.config = render(spec, folder, rewards.url, rewards.token_file)
        self.environment = s3.environment()

    def start(self, pause=None):
        """Starts both; `pause` has the variables with which the run pauses."""
        port = str(free_port())
        self.first, self.second = (
            TrainerProgram(
                self.config, folder, free_port(), environment=self.environment | (pause or {}),
                arguments=["--node-rank", str(rank), "--master-address", "127.0.0.1", "--master-port", port],
            )
            for rank, folder in enumerate(self.folders)
        )  # fmt: skip
        return self.first, self.second

    def lose_disks(self):
        for folder in self.folders:
            shutil.rmtree(folder / "scratch")

    def wait_for_stored(self):
        """Returns when a checkpoint is in the store."""

        def is_stored() -> bool:
            assert self.first.process.poll() is None, self.first.log[-4000:]
            return any(self.stored.checkpoints.glob("*/complete.json"))

        wait_until(is_stored, lambda: self.first.log[-4000:], pause=0.05)

    def succeed(self):
        summary = self.first.succeed()
        assert self.second.wait() == 0, self.second.log
        return summary


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_machines_are_lost_and_new_ones_go_on_from_the_store(tmp_path, s3, model, data, rewards):
    """First one of them, and the other ends by itself; then both at once."""
    folder = tmp_path / "one"
    spec = adapter_spec(model, data, folder / "out", nodes=1, processes=2)
    reference = TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port())
    expected = reference.succeed()
    assert_whole_adapter(reference.folder)

    machines = TwoMachines(tmp_path / "two", s3, model, data, rewards)
    first, second = machines.start(pause_after(5, tmp_path / "pause"))
    machines.wait_for_stored()
    second.kill()
    end_pause(tmp_path / "pause")
    code = first.wait()
    assert code not in (0, ExitCode.INTERRUPTED), first.log
    assert not ExitCode(code).permanent, first.log
    assert not list(machines.stored.checkpoints.glob("checkpoint-*")), "half a checkpoint was copied"
    machines.lose_disks()

    first, second = machines.start(pause_after(6, tmp_path / "again"))
    first.wait_for_line(6)
    first.kill()
    second.kill()
    machines.lose_disks()

    first, _ = machines.start()
    summary = machines.succeed()
    assert "going on from step" in first.log
    other = RunFolder(machines.folders[1] / "scratch/output")
    assert len(list(other.checkpoints.iterdir())) == 1, "more than the checkpoint that it went on from"
    assert not other.rollouts.exists()

    assert (summary.tuned, summary.warmup) == (expected.tuned, expected.warmup)
    assert curve(first.metrics()) == curve(reference.metrics())
    assert Summary.model_validate_json(machines.stored.summary.read_text()) == summary
    assert files(machines.stored.path) == files(reference.folder.path)
    ours, theirs = (load_file(run.best / "adapter_model.safetensors") for run in (machines.stored, reference.folder))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
