"""Adapters that are made to break a loader or a server are refused with a sentence, and take bounded memory."""

from __future__ import annotations

import json
import os
import random
import tracemalloc

import pytest
from safetensors import SafetensorError, safe_open
from support.adapters import (
    CONFIGURATION,
    MODULE,
    WEIGHTS,
    configuration,
    entry,
    header,
    safetensors,
    write_adapter_bytes,
)
from support.mutation import bounded, mutated

from rft_loader.base_model import read_base_model
from rft_loader.problems import Problem
from rft_loader.tensors import read_tensors
from rft_loader.validation import check_adapter

MEBIBYTE = 1 << 20
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"


def check(folder, weights=None, config=None):
    write_adapter_bytes(
        folder,
        safetensors(header()) if weights is None else weights,
        config if isinstance(config, bytes) else json.dumps(config or configuration()).encode(),
    )
    check_adapter(folder, None, 8)


def test_the_adapter_that_the_attacks_change_is_good(tmp_path):
    check(tmp_path)
    check(tmp_path, config=configuration(lora_alpha=0.5, use_rslora=True, fan_in_fan_out=None))


def changed(**fields):
    return safetensors({**header(), A: {**entry([2, 4], 0), **fields}})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        # offsets
        (changed(data_offsets=[32, 64]), "has a gap before it"),
        (safetensors({A: entry([2, 4], 0), B: entry([4, 2], 16)}), "overlaps the tensor before it"),
        (safetensors({A: entry([2, 4], 0), B: entry([4, 2], 0)}), "overlaps the tensor before it"),
        (changed(data_offsets=[0, 64]), "takes 32 bytes, but has 64"),
        (changed(data_offsets=[-32, 0]), "data_offsets that are none"),
        (changed(data_offsets=[32, 0]), "takes 32 bytes, but has -32"),
        (changed(data_offsets=[0, 32, 64]), "data_offsets that are none"),
        (changed(data_offsets=[False, 32]), "data_offsets that are none"),
        (changed(data_offsets="0-32"), "data_offsets that are none"),
        (changed(data_offsets=[0.0, 32.0]), "data_offsets that are none"),
        (changed(data_offsets=[1 << 62, (1 << 62) + 32]), "has a gap before it"),
        (safetensors({A: entry([2, 4], 0), B: entry([4, 2], 64)}, bytes(96)), "has a gap before it"),
        (safetensors({A: entry([2, 4], 8), B: entry([4, 2], 40)}, bytes(72)), "has a gap before it"),
        # shapes
        (changed(shape=[8_000_000_000]), "takes 32,000,000,000 bytes, but has 32"),
        (changed(shape=[1 << 32, 1 << 32]), "but has 32"),
        (changed(shape=[(1 << 63) - 1] * 8), "but has 32"),
        (changed(shape=[2] * 1_000_000), "a shape that is none"),
        (changed(shape=[-2, -4]), "a shape that is none"),
        (changed(shape=[2.0, 4.0]), "a shape that is none"),
        (changed(shape=["2", "4"]), "a shape that is none"),
        (changed(shape={"0": 2}), "a shape that is none"),
        (changed(shape=None), "a shape that is none"),
        (changed(shape=[], data_offsets=[0, 4]), "has a gap before it"),
        (safetensors({A: entry([], 0), B: entry([4, 2], 4)}, bytes(36)), "does not fit r: 2"),
        # dtypes
        (changed(dtype="F16"), "takes 16 bytes, but has 32"),
        (changed(dtype="I32"), "is stored as I32"),
        (changed(dtype="BOOL", shape=[2, 16]), "is stored as BOOL"),
        (changed(dtype="Q4_K"), "the dtype Q4_K, which safetensors does not have"),
        (changed(dtype=["F32"]), "which safetensors does not have"),
        (changed(dtype=None), "which safetensors does not have"),
        # names
        (
            safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry([2, 4], 0)).encode(),) * 2)),
            "a is in the object twice",
        ),
        (
            safetensors(b'{"a":{"dtype":"F32","dtype":"F16","shape":[2,4],"data_offsets":[0,32]}}'),
            "dtype is in the object twice",
        ),
        (
            safetensors({A: entry([2, 4], 0), f"{MODULE}.lora_A": entry([2, 4], 32)}),
            "has lora_A twice",
        ),
        (
            safetensors({A: entry([2, 4], 0), A.removeprefix("base_model.model."): entry([2, 4], 32)}),
            "has lora_A twice",
        ),
        (
            safetensors({A: entry([2, 4], 0), MODULE + ".lora_embedding_A": entry([2, 4], 32)}),
            "has lora_A twice",
        ),
        (safetensors({"x\n2026-01-01 ERROR forged\x1b[2J\u202e": entry([16], 0)}), r"forged\x1b[2J\u202e is not"),
        (safetensors({"x" * 5_000_000: entry([16], 0)}), "more characters"),
        # headers
        (safetensors({**header(), A: 5}), "is not described by"),
        (safetensors({**header(), A: {**entry([2, 4], 0), "more": 1}}), "is not described by"),
        (safetensors({**header(), "__metadata__": {"format": 1}}), "__metadata__ does not map names to texts"),
        (safetensors({**header(), "__metadata__": ["pt"]}), "__metadata__ does not map names to texts"),
        (safetensors([]), "is no object"),
        (safetensors(b"null"), "is no object"),
        (safetensors(b"[" * 100_000), "nested too deeply"),
        (safetensors(b"[" * 300 + b"]" * 300), "levels deep"),
        (safetensors(b'{"a": %b}' % (b"9" * 100_000)), "more than 64 bits"),
        (safetensors(b'{"a": NaN}'), "NaN"),
        (safetensors(b"\xff\xfe"), "is not UTF-8"),
        (safetensors(header())[:-1], "copy it again"),
        (safetensors(header()) + b"x", "copy it again"),
        ((1 << 63).to_bytes(8, "little"), "its header should have 9,223,372,036,854,775,808 bytes, in a file of 8"),
        ((57).to_bytes(8, "little") + b"{}" + bytes(54), "its header should have 57 bytes"),
        ((33 * MEBIBYTE).to_bytes(8, "little") + bytes(34 * MEBIBYTE), "headers have at most 32 MiB"),
        (b"\x08\0\0", "only the beginning"),
        (b"", "only the beginning"),
    ],
)  # fmt: skip
def test_weights_that_are_refused(tmp_path, weights, words):
    with pytest.raises(Problem) as raised:
        check(tmp_path, weights)
    assert words in str(raised.value)
    assert raised.value.permanent
    assert str(raised.value).startswith(WEIGHTS)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 2100


@pytest.mark.parametrize(
    ("config", "words"),
    [
        *[
            (configuration(lora_alpha=alpha), "lora_alpha is ")
            for alpha in (1e308, 65_505, True, False, "16", None, [], {}, 0, -8, 0.0)
        ],
        (b'{"peft_type": "LORA", "r": 2}', "lora_alpha is missing"),
        (b'{"peft_type": "LORA", "r": 2, "lora_alpha": NaN}', "lora_alpha is NaN"),
        (b'{"peft_type": "LORA", "r": 2, "lora_alpha": Infinity}', "lora_alpha is Infinity"),
        (b'{"peft_type": "LORA", "r": 2, "lora_alpha": 1e999}', "lora_alpha is too large"),
        (b'{"peft_type": "LORA", "r": 2, "lora_alpha": %b}' % (b"1" * 5000), "lora_alpha is an integer of more"),
        (b'{"peft_type": "LORA", "r": 2, "r": 4, "lora_alpha": 4}', "r is in the object twice"),
        *[(configuration(r=rank), "r is ") for rank in (True, 0, -1, 2.0, "2", None, [2])],
        (configuration(r=1 << 62), "is above the 8 that the server takes"),
        *[(configuration(use_rslora=value), "use_rslora is ") for value in ("false", 1, ["x"], {"a": 1})],
        (configuration(fan_in_fan_out="no"), "fan_in_fan_out is 'no'"),
        (configuration(peft_type=["LORA"]), "only LORA is served"),
        (configuration(rank_pattern={"q_proj": 4}), "rank_pattern"),
        (b"[]", "must hold an object"),
        (b"", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 250 + b"1" + b"}" * 250, "levels deep"),
        (json.dumps(configuration(x="x" * MEBIBYTE)).encode(), "is larger than 1 MiB"),
        (json.dumps(configuration(peft_type="\u202ex\n\x1b")).encode(), r"\u202ex \x1b; only LORA"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(tmp_path, config, words):
    with pytest.raises(Problem) as raised:
        check(tmp_path, config=config)
    assert words in str(raised.value)
    assert str(raised.value).startswith(CONFIGURATION)
    assert str(raised.value).isprintable()


def peak(call):
    """The most memory that Python held at once during a call, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(folder, words):
    def call():
        with pytest.raises(Problem, match=words):
            check_adapter(folder, None, 8)

    return call


def test_a_sparse_file_takes_no_memory(tmp_path):
    folder = write_adapter_bytes(tmp_path, safetensors(header()), b"")
    os.truncate(folder / CONFIGURATION, 1 << 30)
    assert peak(refused(folder, "is larger than 1 MiB")) < 2 * MEBIBYTE
    write_adapter_bytes(folder, (90_000_000).to_bytes(8, "little"), json.dumps(configuration()).encode())
    os.truncate(folder / WEIGHTS, 1 << 30)
    assert peak(refused(folder, "headers have at most 32 MiB")) < 2 * MEBIBYTE


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"":0}', b"[[]]", b'""', b"0"])
def test_a_header_of_small_values_takes_bounded_memory(tmp_path, text):
    """What 31 MiB of a header become was a gigabyte."""
    head = b"[" + b",".join([text] * (31 * MEBIBYTE // (len(text) + 1))) + b"]"
    folder = write_adapter_bytes(tmp_path, safetensors(head), json.dumps(configuration()).encode())
    assert peak(refused(folder, "has more than 2,000,000 values")) < 80 * MEBIBYTE


def test_what_is_no_file_is_refused_at_once(tmp_path):
    folder = write_adapter_bytes(tmp_path / "fifo", safetensors(header()), b"")
    (folder / CONFIGURATION).unlink()
    os.mkfifo(folder / CONFIGURATION)
    refused(folder, "adapter_config.json: is no regular file")()
    folder = write_adapter_bytes(tmp_path / "device", safetensors(header()), json.dumps(configuration()).encode())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/dev/zero")
    refused(folder, "is no regular file")()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refused(folder, "Is a directory")()


@pytest.mark.parametrize(
    "config", [b"[]", b"5", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b" " * (9 * MEBIBYTE)]
)
def test_a_base_model_with_a_wrong_configuration_is_not_compared_with(tmp_path, caplog, config):
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(safetensors(header()))
    assert read_base_model(tmp_path) is None
    assert "adapters are not compared with the base model" in caplog.text


def test_a_base_model_may_say_infinity(tmp_path):
    """Configurations of Mamba have a time_step_limit of [0, Infinity]."""
    (tmp_path / "config.json").write_text('{"model_type": "mamba2", "time_step_limit": [0.0, Infinity]}')
    (tmp_path / "model.safetensors").write_bytes(safetensors(header()))
    assert read_base_model(tmp_path) is not None


def problem_of(folder):
    try:
        check_adapter(folder, None, 8)
    except Problem as problem:
        return str(problem)
    return None


def test_10_000_mutated_adapters(tmp_path):
    """Each is taken, or refused with a printable sentence; the library takes every one that is taken."""
    generator = random.Random(17)
    weights, config = safetensors(header()), json.dumps(configuration()).encode()
    taken, sentences = 0, set()
    for _ in range(10_000):
        folder = write_adapter_bytes(
            tmp_path,
            mutated(generator, weights) if generator.random() < 0.7 else weights,
            mutated(generator, config) if generator.random() < 0.5 else config,
        )
        with bounded():
            problem = problem_of(folder)
        if problem is not None:
            assert problem.startswith((WEIGHTS, CONFIGURATION))
            assert problem.isprintable()
            sentences.add(problem[:45])
            continue
        taken += 1
        with safe_open(folder / WEIGHTS, "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert shapes == {name: tensor.shape for name, tensor in read_tensors(folder / WEIGHTS).items()}
    assert taken > 1000
    assert len(sentences) > 30


def test_what_the_library_refuses_is_refused(tmp_path):
    """The other direction: no file that is taken here makes the server's library raise."""
    for change in ({"data_offsets": [0, 64]}, {"shape": [8_000_000_000]}, {"dtype": "Q4_K"}, {"data_offsets": [32, 0]}):
        (tmp_path / WEIGHTS).write_bytes(changed(**change))
        with pytest.raises(SafetensorError), safe_open(tmp_path / WEIGHTS, "np"):
            pass
        with pytest.raises(Problem):
            read_tensors(tmp_path / WEIGHTS)
