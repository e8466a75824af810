"""Adapters with large headers are checked in a process of their own, as the others are, and within its limits."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.adapters import configuration, entry, header, safetensors, write_adapter_bytes

from rft_loader import check_process
from rft_loader.base_model import read_base_model
from rft_loader.check_process import check_apart
from rft_loader.problems import Problem
from rft_loader.validation import check_adapter

LARGE = {"__metadata__": {"x": "é" * (300 << 10)}}


def faults(folder, base):
    """What the check says in this process, and in another."""
    said = []
    for check, model in ((check_adapter, read_base_model(base) if base else None), (check_apart, base)):
        try:
            check(folder, model, 8)
            said.append(None)
        except Problem as problem:
            said.append((str(problem), problem.permanent))
    return said


def written(folder, tensors=None, **fields):
    weights = safetensors(json.dumps({**LARGE, **(header() if tensors is None else tensors)}).encode())
    return write_adapter_bytes(folder, weights, json.dumps({**configuration(), **fields}).encode())


def test_both_say_the_same(tmp_path, base, originals):
    good = faults(originals / "one", base)
    assert good == [None, None]
    for number, (folder, model, sentence) in enumerate(
        [
            (originals / "wide", base, "rank 16 is above the 8"),
            (written(tmp_path / "other"), base, "maps 4 inputs to 4 outputs, in the base model 128 to 128"),
            (written(tmp_path / "gap", {"é\n": entry([2, 4], 8)}), None, "tensor é has a gap before it"),
            (written(tmp_path / "rank", r=4), None, "which does not fit r: 4"),
            (written(tmp_path / "type", peft_type="\x1b[31m"), None, "only LORA is served"),
            (tmp_path / "absent", None, "No such file"),
        ]
    ):
        here, apart = faults(folder, model)
        assert here == apart, number
        assert sentence in here[0]


def test_a_header_that_takes_too_much_memory_is_refused(tmp_path):
    values = b"{" + b",".join(b'"%07d":[]' % number for number in range(900_000)) + b"}"
    folder = write_adapter_bytes(tmp_path / "a", safetensors(values), json.dumps(configuration()).encode())
    program = "import sys; from rft_loader import check_process as c; c._MEMORY_BYTES = 100 << 20; c.main(sys.argv[1:])"
    end = subprocess.run([sys.executable, "-c", program, folder, "8"], capture_output=True, text=True, check=False)
    assert (end.returncode, end.stderr) == (0, "")
    fault = json.loads(end.stdout)
    assert fault["permanent"]
    assert "its header takes more than 100 MiB of memory" in fault["message"]


@pytest.mark.parametrize(
    ("module", "name", "value", "sentence"),
    [
        (check_process, "_DEADLINE_SECONDS", 0.001, "to check its header took more than 0.001 s; it is tried again"),
        (sys, "executable", "/bin/false", "its header could not be checked: exit code 1"),
    ],
)
def test_a_check_that_does_not_end_in_order_is_tried_again(tmp_path, monkeypatch, module, name, value, sentence):
    monkeypatch.setattr(module, name, value)
    with pytest.raises(Problem, match=sentence) as raised:
        check_apart(written(tmp_path / "a"), None, 8)
    assert not raised.value.permanent
