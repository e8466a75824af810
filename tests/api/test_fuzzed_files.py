"""10,000 changed manifests, data rows and log records each: no traceback, and everything is taken or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml
from support.mutation import bounded, mutated

from rft_api.data_formats import read_prompts
from rft_api.exact_json import first_fault
from rft_api.foreign.yaml_text import parse_documents
from rft_api.manifests import KINDS, ManifestErrors, load_manifests
from rft_api.sources import DataSource

NUMBER = 10_000
HEAD = "apiVersion: rft.dev/v1alpha1\nkind: {}\nmetadata: {{name: {}}}\n"
MANIFESTS = [
    HEAD.format("RFTJob", "j")
    + "spec: {model: {uri: m}, data: {train: [{name: a, uri: a, reward: r}]}, output: {uri: o}}\n",
    HEAD.format("RewardFunction", "r") + "spec:\n  builtin: {name: Math}\n  timeout: 30s\n",
    HEAD.format("RewardFunction", "p")
    + "spec:\n  python:\n    source: |\n      def lambda_handler(e, c):\n        pass\n",
    HEAD.format("InferenceEndpoint", "e") + "spec: {model: {uri: m}, replicas: 2}\n",
    "kind: ConfigMap\nmetadata: {name: code}\ndata: {a.py: x = 1}\n",
]
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_10_000_changed_manifests(tmp_path):
    generator, file = random.Random(18), tmp_path / "m.yaml"
    taken, messages = 0, set()
    for _ in range(NUMBER):
        file.write_bytes(mutated(generator, generator.choice(MANIFESTS).encode()))
        with bounded():
            found = resources(file)
        if isinstance(found, list):
            assert found
            assert all(found)
            messages |= {message.removeprefix(str(file)) for message in found}
            continue
        taken += 1
        assert found == documents(file), "each document of ours is there"
    assert taken > NUMBER / 100
    assert len(messages) > 100


def resources(file: Path) -> int | list[str]:
    """How many resources a file has, or what is wrong with it."""
    try:
        found = load_manifests([file])
    except ManifestErrors as errors:
        return [str(error) for error in errors.errors]
    return len(found.jobs) + len(found.reward_functions) + len(found.endpoints) + len(found.config_maps)


def documents(file: Path) -> int:
    """How many documents of a file have a kind that is read."""
    values = [value for _, value in parse_documents(file.read_text(encoding="utf-8"))]
    return sum(isinstance(value, dict) and value.get("kind") in (*KINDS, "ConfigMap") for value in values)


def test_yaml_reads_the_manifests_as_they_are():
    for text in MANIFESTS:
        assert [value for _, value in parse_documents(text)] == [yaml.safe_load(text)]


def lines_of(*names: str) -> list[bytes]:
    lines = [line for name in names for line in (EXAMPLES / name).read_bytes().splitlines()[:20]]
    assert lines
    return lines


def changed_lines(generator: random.Random, originals: list[bytes], number: int) -> list[bytes]:
    """Lines that are not blank, each a changed one of these."""
    lines: list[bytes] = []
    while len(lines) < number:
        line = mutated(generator, generator.choice(originals)).replace(b"\n", b" ").replace(b"\r", b" ")
        if line.strip():
            lines.append(line)
    return lines


def test_10_000_changed_rows(tmp_path):
    generator, file = random.Random(19), tmp_path / "train.jsonl"
    originals = lines_of("quickstart/data/train.jsonl", "warmup/data/train.jsonl", "rewards/invoice_json.jsonl")
    taken = 0
    for _ in range(NUMBER // 100):
        # The first line tells the form of a file.
        lines = [originals[0], *changed_lines(generator, originals, 99)]
        file.write_bytes(b"\n".join(lines) + b"\n")
        problems: list[str] = []
        with bounded():
            prompts, _ = read_prompts(DataSource(name="s", uri=str(file), reward="r"), problems)
        numbers = [prompt.line for prompt in prompts] + [int(problem.split(":")[1]) for problem in problems]
        assert sorted(numbers) == list(range(1, 101)), "each row is taken or refused, once"
        assert all(len(problem) < 20_000 for problem in problems)
        for prompt in prompts:
            assert first_fault([prompt.messages, prompt.reference_answer, prompt.metadata]) is None
            json.dumps([prompt.messages, prompt.reference_answer, prompt.metadata], allow_nan=False).encode()
        taken += len(prompts)
    assert taken > NUMBER / 20


RECORD = {
    "schemaType": "ModelInvocationLog", "schemaVersion": "1.0", "timestamp": "2026-01-31T12:00:00Z",
    "modelId": "anthropic.claude", "operation": "Converse", "requestId": "r",
    "input": {"inputBodyJson": {"messages": [{"role": "user", "content": [{"text": "2 + 2?"}]}]}},
    "output": {"outputBodyJson": {"output": {"message": {"role": "assistant", "content": [{"text": "4"}]}}}},
}  # fmt: skip


def test_10_000_changed_records_of_logs(tmp_path):
    generator, file = random.Random(20), tmp_path / "log.json"
    stored = {**RECORD, "input": {"inputBodyS3Path": "s3://b/AWSLogs/1/data/x_input.json.gz"}}
    text = {**RECORD, "input": {"inputBodyJson": json.dumps(RECORD["input"]["inputBodyJson"])}}
    # A prompt that is there twice is counted as a duplicate.
    texts = [json.dumps(record) for record in (RECORD, stored, text)]
    originals = [text.replace("2 + 2", f"{number} + 2").encode() for number in range(300) for text in texts]
    taken = 0
    for _ in range(NUMBER // 100):
        file.write_bytes(b"\n".join([originals[0], *changed_lines(generator, originals, 99)]) + b"\n")
        problems: list[str] = []
        source = DataSource(name="s", uri=str(file), reward="r", format="BedrockInvocationLog")
        with bounded():
            prompts, report = read_prompts(source, problems)
        assert report is not None
        assert report.records == 100
        assert report.records == report.taken + sum(report.left_out.values()), "each is taken or counted"
        assert report.taken == len(prompts)
        taken += report.taken
    assert taken > NUMBER / 20
