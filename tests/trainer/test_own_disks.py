"""Files between machines without a common disk: two machines of two processes each, a folder for each machine."""

import multiprocessing
import os
import traceback

import pytest
import torch.distributed as dist
from support.patience import PATIENCE_SECONDS
from support.tiny import digits_rows, write_jsonl

from rft_api.data_formats import read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.sources import DataSource
from rft_trainer import own_disks
from rft_trainer.same_data import check_same_data

PER_MACHINE = 2
SIZES = {"empty": 0, "small": 1, "chunk": 100, "some/chunks": 350}


def content(name, size, machine):
    return f"{name} of {machine}".encode().ljust(size)[:size]


def write(folder, machine, prefix=""):
    for name, size in SIZES.items():
        path = folder / (prefix + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, size, machine))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected(machine, prefix=""):
    return {prefix + name: content(name, size, machine) for name, size in SIZES.items()}


def on_machines(tmp_path, work, machines=2, own="1"):
    """Runs `work(rank, folder of its machine)` in every process; returns their exit codes."""

    def run(rank):
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": str(machines * PER_MACHINE), "LOCAL_RANK": str(rank % PER_MACHINE),
            "LOCAL_WORLD_SIZE": str(PER_MACHINE), "RFT_OWN_DISKS": own,
        }  # fmt: skip
        code = 1
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=rank, world_size=machines * PER_MACHINE
            )
            own_disks.CHUNK_BYTES = 100
            work(rank, tmp_path / f"machine-{rank // PER_MACHINE}")
            dist.barrier()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Without what the tests' own process has to do at its end.
            os._exit(code)

    # Forked: torch is imported already, and importing it anew takes longer than everything here.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(machines * PER_MACHINE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        process.kill()
    return [process.exitcode for process in processes]


@pytest.fixture
def folders(tmp_path):
    made = [tmp_path / f"machine-{machine}" for machine in range(3)]
    for folder in made:
        folder.mkdir()
    return made


def test_what_all_machines_wrote_comes_to_the_first(tmp_path, folders):
    for machine, folder in enumerate(folders):
        write(folder / "checkpoint", machine, prefix=f"{machine}-")
    assert on_machines(tmp_path, lambda rank, folder: own_disks.collect(folder / "checkpoint"), machines=3) == [0] * 6
    assert contents(folders[0] / "checkpoint") == expected(0, "0-") | expected(1, "1-") | expected(2, "2-")
    assert not any((folder / "checkpoint").exists() for folder in folders[1:])


def test_the_others_have_what_the_first_has(tmp_path, folders):
    write(folders[0] / "best", 0)
    (folders[0] / "metrics").write_bytes(b"lines")
    (folders[0] / "private").write_bytes(b"not chosen")
    write(folders[1] / "best", 1, prefix="old-")
    (folders[1] / "gone").write_bytes(b"not on the first")
    (folders[1] / "kept").write_bytes(b"not chosen")

    def work(rank, folder):
        # Only the first machine's choice counts: the others may know less.
        names = ["best", "metrics", "gone"] if rank == 0 else []
        reports = []
        own_disks.spread(folder, [folder / name for name in names], lambda *report: reports.append(report))
        copied = sum(len(content) for content in contents(folder / "best").values()) + len(b"lines")
        if rank % 2 == 0:  # one process of each machine copies
            assert reports[-1] == (copied, copied)
        else:
            assert reports == []

    assert on_machines(tmp_path, work, machines=3) == [0] * 6
    same = expected(0, "best/") | {"metrics": b"lines"}
    assert contents(folders[1]) == same | {"kept": b"not chosen"}
    assert contents(folders[2]) == same
    assert contents(folders[0]) == same | {"private": b"not chosen"}


def test_nothing_is_moved_in_a_folder_that_all_share(tmp_path, folders):
    write(folders[1], 1)

    def work(rank, folder):
        assert own_disks.on_first_machine()
        own_disks.collect(folder)
        own_disks.spread(folder, [folder / "small"])

    assert on_machines(tmp_path, work, own="0") == [0] * 4
    assert contents(folders[1]) == expected(1)
    assert contents(folders[0]) == {}


def test_a_machine_that_is_lost_on_the_way_is_an_error(tmp_path, folders):
    write(folders[1] / "checkpoint", 1)

    read = own_disks._read

    def read_until_lost(path, size, move):
        if path.name == "small":
            os._exit(9)
        read(path, size, move)

    def work(rank, folder):
        own_disks._read = read_until_lost
        own_disks.collect(folder / "checkpoint")
        if rank == 0:
            (folder / "complete").touch()

    codes = on_machines(tmp_path, work)
    assert codes[0] == 1
    assert codes[PER_MACHINE] == 9
    assert (folders[0] / "checkpoint/chunk").read_bytes() == content("chunk", SIZES["chunk"], 1)
    assert not (folders[0] / "complete").exists()


@pytest.mark.parametrize("last_answer", ["9", "8"])
def test_machines_that_have_copied_different_data_stop(tmp_path, folders, last_answer):
    for folder, answer in zip(folders, ("9", last_answer), strict=False):
        write_jsonl(
            folder / "data.jsonl",
            [*digits_rows(3, 2, seed=1), {**digits_rows(1, 2, seed=2)[0], "reference_answer": answer}],
        )

    def work(rank, folder):
        source = DataSource(name="digits", uri=str(folder / "data.jsonl"), reward="digits")
        prompts, _ = read_prompts(source, [])
        if last_answer == "9":
            check_same_data(prompts)
            return
        with pytest.raises(RunError, match="those of 2, 3 differ from that of process 0") as raised:
            check_same_data(prompts)
        assert raised.value.code is ExitCode.DATA_INVALID

    assert on_machines(tmp_path, work) == [0] * 4
