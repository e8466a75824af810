"""`rft data`: check, stats, split and convert, on files, on jobs and on a real object store."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.hub import Hub, ask_hub
from support.manifests import reward_manifest

from rft_api.data_formats import read_conversations, read_prompts
from rft_api.sources import DataSource, WarmupSource
from rft_cli.stage_display import StageDisplay

REWARD = "---\n" + reward_manifest("exact", "builtin: {name: ExactMatch}\n")


def row(text: str, reference: Any = "1", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "reference_answer": reference, **fields}


def conversation(text: str, answer: str = "1") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


def logged(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "timestamp": "2025-03-11T00:38:02Z",
        "modelId": "amazon.nova-lite-v1:0",
        "operation": "Converse",
        "input": {"inputBodyJson": {"messages": [{"role": "user", "content": [{"text": text}]}]}},
        "output": {"outputBodyJson": {"output": {"message": {"content": [{"text": f"about {text}"}]}}}},
        **fields,
    }


def written(file: Path, *rows: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return file


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def job(folder: Path, data: str) -> Path:
    manifest = folder / "job.yaml"
    text = f"""\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {{name: demo}}
spec:
  model: {{uri: "hf://Qwen/Qwen3-0.6B"}}
{data}
  output: {{uri: out}}
"""
    manifest.write_text(text + REWARD, encoding="utf-8")
    return manifest


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def test_every_problem_of_every_file_is_told_with_its_line(rft, tmp_path):
    one = written(tmp_path / "one.jsonl", row("a"), "{broken", conversation("b"), row("a"))
    two = written(tmp_path / "two.jsonl", *["[]"] * 30)
    result = rft("data", "check", one, two, tmp_path / "gone.jsonl")
    assert result.returncode == 11
    assert result.stderr.startswith("error: 33 problems:\n")
    assert f"{one}:2: is not JSON" in result.stderr
    assert f"{one}:3: the last message must be the user's" in result.stderr
    assert f"{two}:30: must be a JSON object with messages, not list" in result.stderr
    assert f"{tmp_path / 'gone.jsonl'}: No such file or directory" in result.stderr
    assert f"{one}: 1 rows repeat the prompt of another row" in result.stdout


def test_good_files(rft, tmp_path):
    first = written(tmp_path / "a.jsonl", row("a"), row("b", {"x": 1}), row("c", None))
    second = written(tmp_path / "b.jsonl", row("c"), row("d"))
    result = rft("data", "check", first, second)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{first} and {second} share 1 prompts: {first}:3 = {second}:1" in result.stdout
    assert result.stdout.endswith("No problem found.\n")
    warmup = written(tmp_path / "w.jsonl", conversation("a"))
    assert rft("data", "check", warmup).returncode == 11
    assert rft("data", "check", "--conversations", warmup).returncode == 0


def test_a_job_is_checked_with_all_its_sources_and_splits(rft, tmp_path):
    written(tmp_path / "train.jsonl", *(row(str(i)) for i in range(40)))
    written(tmp_path / "test.jsonl", row("x"), row("7"))
    written(tmp_path / "warmup.jsonl", conversation("7"))
    manifest = job(
        tmp_path,
        """\
  data:
    train: [{name: words, uri: train.jsonl, reward: exact}]
    test: [{name: words, uri: test.jsonl, reward: exact}]
    validationFraction: "0.25"
  warmup: {data: [{name: shown, uri: warmup.jsonl}]}""",
    )
    result = rft("data", "check", manifest)
    assert result.returncode == 11
    text = " ".join(result.stdout.split())
    assert "train/words 30 30" in text
    assert "validation (0.25 of train/words) 10 10" in text
    assert "test/words 2 2" in text
    leak = f"share 1 prompts: {tmp_path / 'train.jsonl'}:8 = {tmp_path / 'test.jsonl'}:2"
    warmup_leak = f"test and warmup share 1 prompts: {tmp_path / 'test.jsonl'}:2 = {tmp_path / 'warmup.jsonl'}:1"
    assert leak in result.stderr
    assert warmup_leak in result.stderr
    assert "and warmup share 1 prompts" in result.stdout
    written(tmp_path / "test.jsonl", row("x"))
    assert rft("data", "check", manifest).returncode == 0


def test_a_prompt_with_several_answers_is_set_aside_with_all_of_them(rft, tmp_path):
    written(tmp_path / "train.jsonl", *(row(str(i), answer) for i in range(40) for answer in "abc"))
    manifest = job(
        tmp_path, '  data:\n    train: [{name: a, uri: train.jsonl, reward: exact}]\n    validationFraction: "0.1"'
    )
    result = rft("data", "check", manifest)
    assert (result.returncode, result.stderr) == (0, "")
    assert "share" not in result.stdout
    train, validation = json.loads(rft("data", "stats", "--json", manifest).stdout)
    assert (train["rows"], train["distinctPrompts"]) == (108, 36)
    assert (validation["rows"], validation["distinctPrompts"]) == (12, 4)


def test_arrays_gzip_and_tables_are_split(rft, tmp_path):
    rows = [row(str(i)) for i in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.json", "b.jsonl.gz", "c.parquet"):
        result = rft("data", "split", tmp_path / name)
        assert (result.returncode, result.stderr) == (0, "")
    assert parts(tmp_path, "a") == parts(tmp_path, "b") == parts(tmp_path, "c")
    assert sum(map(len, parts(tmp_path, "a").values())) == 60


def test_a_job_that_cannot_be_split_or_read_here(rft, tmp_path):
    written(tmp_path / "train.jsonl", row("a"))
    data = """\
  data:
    train: [{name: words, uri: train.jsonl, reward: exact}]
    test: [{name: words, uri: "pvc://claim/test.jsonl", reward: exact}]"""
    result = rft("data", "check", job(tmp_path, data))
    assert result.returncode == 11
    assert "data.train words: 1 prompts cannot be split with validationFraction 0.1" in result.stderr
    assert "test/words: pvc://claim/test.jsonl can be read in a cluster only" in result.stdout
    wrong = job(tmp_path, data.replace("train: [", "trane: ["))
    result = rft("data", "check", wrong)
    assert result.returncode == 10
    assert f"{wrong}:7: spec.data.trane: unknown field; did you mean train?" in result.stderr
    wrong.write_text(REWARD, encoding="utf-8")
    assert "defines no RFTJob" in rft("data", "check", wrong).stderr


LOGS = """\
  data:
    train:
    - name: production
      uri: logs
      reward: exact
      format: BedrockInvocationLog
      invocationLog:
        reference: LoggedAnswer
        requestMetadataFilters: {equals: {team: a}}
        redact: {patterns: [{pattern: '[0-9]{5}'}]}
    validationFraction: "0.5\""""


def test_a_job_with_logs_says_what_it_takes(rft, tmp_path):
    records = [logged(f"{i} 12345", requestMetadata={"team": "ab"[i % 2]}) for i in range(8)]
    written(tmp_path / "logs/2025/03/11/00/x.json", *records, "{broken")
    manifest = job(tmp_path, LOGS)
    result = rft("data", "check", manifest)
    assert (result.returncode, result.stderr) == (0, "")
    assert "train/production: 4 of 9 records taken; left out: 4 Filtered, 1 Unreadable" in result.stdout
    assert "(2025/03/11/00/x.json:9: is not JSON" in result.stdout
    (stats, validation) = json.loads(rft("data", "stats", "--json", manifest).stdout)
    assert stats["rows"] + validation["rows"] == 4
    assert stats["referenceAnswers"] == {"text": 2}
    assert stats["invocationLog"]["leftOut"] == {"Filtered": 4, "Unreadable": 1}
    assert rft("validate", manifest).returncode == 0


def test_a_wrong_pattern_is_found_with_the_manifest(rft, tmp_path):
    written(tmp_path / "logs/x.json", logged("x"))
    manifest = job(tmp_path, LOGS.replace("[0-9]{5}", "(?=x)"))
    result = rft("validate", manifest)
    assert result.returncode == 10
    place = "spec.data.train[0].invocationLog.redact.patterns[0].pattern"
    assert f"{manifest}:15: {place}: is not a regular expression that RE2 knows" in result.stderr
    manifest = job(tmp_path, LOGS.replace("format: BedrockInvocationLog", "format: OpenAIChat"))
    assert "invocationLog belongs to format BedrockInvocationLog" in rft("validate", manifest).stderr
    manifest = job(tmp_path, LOGS.replace("uri: logs", "uri: gone"))
    assert f"there is no file or folder {tmp_path / 'gone'}" in rft("validate", manifest).stderr


def test_files_of_logs_are_described_with_their_format(rft, tmp_path):
    file = written(tmp_path / "log.json", logged("x"), logged("y"), logged("x"))
    (prompts,) = json.loads(rft("data", "stats", "--json", "--format", "BedrockInvocationLog", file).stdout)
    assert (prompts["rows"], prompts["invocationLog"]["leftOut"]) == (2, {"Duplicate": 1})
    result = rft("data", "stats", "--json", "--conversations", "--format", "BedrockInvocationLog", file)
    (conversations,) = json.loads(result.stdout)
    assert conversations["answerCharacters"]["maximum"] == len("about x")
    assert rft("data", "check", file).returncode == 11, "it is not in OpenAI chat format"


def test_an_unknown_format_is_refused_with_those_that_exist(rft, tmp_path):
    result = rft("data", "check", "--format", "Csv", written(tmp_path / "a.jsonl", row("x")))
    assert result.returncode == 10
    assert (
        "--format Csv: must be one of OpenAIChat (rows in OpenAI chat format, as JSON or in tables), Bedrock"
        in result.stderr
    )


def test_logs_on_an_object_store(rft, tmp_path, bucket):
    for hour in range(6):
        folder = bucket / f"AWSLogs/1/BedrockModelInvocationLogs/us-east-1/2025/03/11/{hour:02}"
        (folder / "data").mkdir(parents=True)
        stored = logged("", input={"inputBodyS3Path": f"s3://{bucket.name}/{(folder / 'data').relative_to(bucket)}/b"})
        stored["input"]["inputBodyS3Path"] += "_input.json.gz"
        records = [logged(f"{hour}", timestamp=f"2025-03-11T{hour:02}:38:02Z"), stored | {"modelId": "large"}]
        (folder / "x.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
        body = json.dumps({"prompt": f"stored {hour}"}).encode()
        (folder / "data/b_input.json.gz").write_bytes(gzip.compress(body))
    (bucket / "AWSLogs/1/BedrockModelInvocationLogs/us-east-1/2025/03/10/00").mkdir(parents=True)
    (bucket / "AWSLogs/1/BedrockModelInvocationLogs/us-east-1/2025/03/10/00/x.json").write_text("not fetched\n")
    address = f"s3://{bucket.name}/AWSLogs/1/BedrockModelInvocationLogs/"
    output = tmp_path / "prompts.jsonl"
    result = rft(
        "data", "convert", address, "--from", "BedrockInvocationLog", "--output", output,
        "--since", "2025-03-11T00:00:00Z", "--reference",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("12 of 12 records taken")
    texts = [line["messages"][0]["content"] for line in lines(output)]
    assert texts == [text for hour in range(6) for text in (f"{hour}", f"stored {hour}")]
    assert lines(output)[0]["reference_answer"] == "about 0"
    assert lines(output)[0]["metadata"]["modelId"] == "amazon.nova-lite-v1:0"
    manifest = job(
        tmp_path, LOGS.replace("uri: logs", f'uri: "{address}"').replace("{equals: {team: a}}", "{equals: {team: b}}")
    )
    result = rft("data", "check", manifest)
    assert result.returncode == 11
    assert f"{address}: no record of the invocation logs can be used: 0 of 13 records taken" in result.stderr
    result = rft("data", "stats", f"s3://{bucket.name}/gone")
    assert (result.returncode, result.stderr) == (11, f"error: s3://{bucket.name}/gone: nothing is stored there\n")


def test_files_on_an_object_store(rft, tmp_path, bucket):
    written(bucket / "data/train.jsonl", *(row(str(i)) for i in range(50)), "{")
    address = f"s3://{bucket.name}/data/train.jsonl"
    assert f"{address}:51: is not JSON" in rft("data", "check", address).stderr
    written(bucket / "data/train.jsonl", *(row(str(i)) for i in range(50)))
    assert rft("data", "check", address).returncode == 0
    assert rft("data", "split", address).returncode == 10
    assert rft("data", "split", address, "--output", tmp_path / "new").returncode == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "train.test.jsonl", "train.train.jsonl", "train.validation.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command", [("check",), ("convert", "--from", "OpenAIChat", "--output", "new.jsonl"), ("split", "--output", ".")]
)
def test_without_a_terminal_a_copy_of_data_says_how_far_it_is(rft, tmp_path, bucket, monkeypatch, command):
    written(bucket / "data/train.jsonl", *(row(f"{i} {'x' * 100_000}") for i in range(300)))
    reports = []
    report_bytes = StageDisplay.report_bytes

    def recorded(stage, text):
        report = report_bytes(stage, text)
        return lambda done, total: (report(done, total), reports.append((stage.describe(), done, total)))

    monkeypatch.setattr(StageDisplay, "report_bytes", recorded)
    monkeypatch.chdir(tmp_path)
    address = f"s3://{bucket.name}/data/train.jsonl"
    name, *options = command
    assert rft("data", name, address, *options).returncode == 0
    assert {total for _, _, total in reports} == {(bucket / "data/train.jsonl").stat().st_size}
    assert reports[0][0].startswith(f"fetching {address} · ")
    assert reports[-1][1] == reports[-1][2]


def test_statistics(rft, tmp_path):
    system = {"role": "system", "content": "s" * 10}
    rows = [row("x" * n, reference) for n, reference in ((1, "a"), (2, {"b": 1}), (3, 4), (4, None), (4, [1]))]
    rows.append({"messages": [system, {"role": "user", "content": "y"}]})
    file = written(tmp_path / "a.jsonl", *rows)
    (found,) = json.loads(rft("data", "stats", "--json", file).stdout)
    assert found == {
        "source": str(file),
        "rows": 6,
        "distinctPrompts": 5,
        "messages": {"minimum": 1, "median": 1, "p90": 1, "maximum": 2},
        "characters": {"minimum": 1, "median": 3, "p90": 4, "maximum": 11},
        "roles": {"user": 6, "system": 1},
        "referenceAnswers": {"text": 1, "object": 1, "number": 1, "none": 2, "list": 1},
    }
    text = " ".join(rft("data", "stats", file).stdout.split())
    assert "6 user, 1 system" in text
    assert "characters of the prompt minimum median p90 maximum" in text
    warmup = written(tmp_path / "w.jsonl", conversation("x", "long answer"))
    (found,) = json.loads(rft("data", "stats", "--json", "--conversations", warmup).stdout)
    assert found["answerCharacters"]["maximum"] == 11
    assert rft("data", "stats", tmp_path / "gone").returncode == 11


def parts(folder: Path, name: str = "all") -> dict[str, list[str]]:
    return {
        part: [line["messages"][0]["content"] for line in lines(folder / f"{name}.{part}.jsonl")]
        for part in ("train", "validation", "test")
    }


def test_a_split_is_by_prompt_and_stays_when_rows_are_added(rft, tmp_path):
    texts = [str(i % 300) for i in range(600)]
    file = written(tmp_path / "one/all.jsonl", *(row(text, str(n), extra=n) for n, text in enumerate(texts)))
    result = rft("data", "split", file, "--validation", "0.2", "--test", "0.1")
    assert (result.returncode, result.stderr) == (0, "")
    found = parts(tmp_path / "one")
    assert Counter(text for part in found.values() for text in part) == Counter(texts)
    assert not set(found["train"]) & set(found["test"])
    assert not set(found["validation"]) & {*found["train"], *found["test"]}
    assert 80 < len(found["validation"]) < 160
    assert 30 < len(found["test"]) < 90
    # Lines are copied as they are.
    everything = [(tmp_path / f"one/all.{part}.jsonl").read_bytes() for part in found]
    assert sorted(b"".join(everything).splitlines()) == sorted(file.read_bytes().splitlines())

    more = written(tmp_path / "two/all.jsonl", *(row(f"new {i}") for i in range(200)), *map(row, reversed(texts)))
    rft("data", "split", more, "--validation", "0.3", "--test", "0.1")
    again = parts(tmp_path / "two")
    assert {t for t in again["test"] if "new" not in t} == set(found["test"])
    assert set(found["validation"]) < set(again["validation"])
    rft("data", "split", more, "--seed", "1", "--output", tmp_path / "three")
    assert set(parts(tmp_path / "three")["test"]) != set(again["test"])


def test_nothing_is_overwritten(rft, tmp_path):
    file = written(tmp_path / "all.jsonl", *(row(str(i)) for i in range(100)))
    (tmp_path / "all.test.jsonl").write_text("mine")
    result = rft("data", "split", file)
    assert result.returncode == 15
    assert f"{tmp_path / 'all.test.jsonl'}: exists already; nothing was written" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.jsonl", "all.test.jsonl"]
    result = rft("data", "convert", file, "--from", "QuestionAnswer", "--output", file)
    assert result.returncode == 11
    assert rft("data", "split", file, "--test", "0").returncode == 0


@pytest.mark.parametrize("shares", [("0", "0"), ("0.6", "0.4"), ("-0.1", "0.3"), ("1.5", "0")])
def test_shares_that_are_none(rft, tmp_path, shares):
    file = written(tmp_path / "all.jsonl", row("a"))
    result = rft("data", "split", file, f"--validation={shares[0]}", f"--test={shares[1]}")
    assert result.returncode == 10
    assert "must be from 0 to 1" in result.stderr


def test_files_that_cannot_be_split(rft, tmp_path):
    few = written(tmp_path / "few.jsonl", row("a"), row("a"))
    result = rft("data", "split", few)
    assert result.returncode == 11
    assert "no prompt of 2 falls to" in result.stderr
    bad = written(tmp_path / "bad.jsonl", *(row(str(i)) for i in range(100)), conversation("x"))
    result = rft("data", "split", bad)
    assert f"{bad}:101: the last message must be the user's" in result.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_conversations_are_split_by_their_prompt(rft, tmp_path):
    file = written(tmp_path / "all.jsonl", *(conversation(str(i % 50), str(i)) for i in range(200)))
    assert rft("data", "split", file, "--conversations").returncode == 0
    found = parts(tmp_path)
    assert not set(found["train"]) & {*found["validation"], *found["test"]}
    source = WarmupSource(name="w", uri=str(tmp_path / "all.train.jsonl"))
    assert len(read_conversations(source, [])[0]) == len(found["train"])


def test_logs_are_converted_with_filters(rft, tmp_path):
    metadata = [{"team": "a", "tier": "x"}, {"team": "a", "tier": "y"}, {"team": "b"}]
    records = [logged(f"mail {i}@example.org", requestMetadata=m) for i, m in enumerate(metadata)]
    records.append(logged("other model", modelId="other"))
    file = written(tmp_path / "log.json", *records)
    output = tmp_path / "new/prompts.jsonl"
    result = rft(
        "data", "convert", file, "--from", "BedrockInvocationLog", "--output", output, "--conversations",
        "--model", "amazon.nova-lite-v1:0", "--equals", "team=a", "--not-equals", "tier=y",
        "--redact", r"\S+@\S+", "--limit", "5",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 of 4 records taken; left out: 2 Filtered, 1 OtherModel" in result.stdout
    (line,) = lines(output)
    assert line["messages"] == [
        {"role": "user", "content": "mail [redacted]"},
        {"role": "assistant", "content": "about mail [redacted]"},
    ]
    assert len(read_conversations(WarmupSource(name="w", uri=str(output)), [])[0]) == 1
    assert rft("data", "check", "--conversations", output).returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--equals", "team"], 10, "--equals team: must look like KEY=VALUE"),
        (["--feedback", "Best"], 10, "feedback.rating: "),
        (["--since", "yesterday"], 10, "from: must look like 2026-01-31T12:00:00Z"),
        (["--redact", "("], 11, "redact.patterns: (: is not a regular expression that RE2 knows"),
        (["--model", "none"], 11, "no record of the invocation logs can be used: 0 of 1 records taken; left out: 1 O"),
    ],
)
def test_options_that_leave_nothing(rft, tmp_path, options, code, message):
    file = written(tmp_path / "log.json", logged("x"))
    output = tmp_path / "prompts.jsonl"
    result = rft("data", "convert", file, "--from", "BedrockInvocationLog", "--output", output, *options)
    assert result.returncode == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_rows_of_other_formats_are_converted(rft, tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = written(
        tmp_path / "trl.jsonl",
        {"prompt": "2+2?", "completion": "4", "level": 1},
        {"prompt": turns, "completion": [{"role": "assistant", "content": "5"}]},
        {"prompt": "no answer"},
    )
    assert rft("data", "convert", file, "--from", "PromptCompletion", "--output", tmp_path / "a.jsonl").returncode == 0
    problems: list[str] = []
    prompts, _ = read_prompts(DataSource(name="a", uri=str(tmp_path / "a.jsonl"), reward="r"), problems)
    assert problems == []
    assert [(p.messages[-1]["content"], p.reference_answer) for p in prompts] == [
        ("2+2?", "4"), ("u", "5"), ("no answer", None),
    ]  # fmt: skip
    assert prompts[0].metadata == {"level": 1}
    result = rft(
        "data", "convert", file, "--from", "PromptCompletion", "--output", tmp_path / "b.jsonl", "--conversations"
    )
    assert result.returncode == 11
    assert f"{file}:3: there is no answer to imitate" in result.stderr

    gsm = written(tmp_path / "gsm.jsonl", {"question": "6*7?", "answer": "6*7=<<6*7=42>>42\n#### 42"})
    rft("data", "convert", gsm, "--from", "QuestionAnswer", "--output", tmp_path / "c.jsonl")
    assert lines(tmp_path / "c.jsonl") == [row("6*7?", "42", solution="6*7=<<6*7=42>>42")]
    rft("data", "convert", gsm, "--from", "QuestionAnswer", "--output", tmp_path / "d.jsonl", "--conversations")
    assert lines(tmp_path / "d.jsonl") == [conversation("6*7?", "6*7=<<6*7=42>>42\n#### 42")]


U, A = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello"}
S = {"role": "system", "content": "Be short."}
NOVA = {
    "schemaVersion": "bedrock-conversation-2024",
    "system": [{"text": "Be short."}],
    "messages": [{"role": "user", "content": [{"text": "Hi?"}]}, {"role": "assistant", "content": [{"text": "Hello"}]}],
}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello"}],
    "system": "Be short.",
}
ALPACA = {"instruction": "Translate.", "input": "Hallo", "output": "Hello", "history": [["Hi?", "Hello"]]}
CONVERSIONS = [
    # Form, row, options, the row for training, the row for the warm-up
    ("OpenAIChat", {"messages": [U, A], "reference_answer": "#### 6"}, [], [U], "#### 6", [U, A]),
    ("OpenAIChat", {"messages": [U, A], "metadata": {"reference_answer": 6}}, [], [U], 6, [U, A]),
    ("Converse", NOVA, [], [S, U], "Hello", [S, U, A]),
    ("ShareGPT", SHAREGPT, [], [S, U], "Hello", [S, U, A]),
    ("ShareGPT", {"chat": SHAREGPT["conversations"]}, ["--prompt-field", "chat"], [U], "Hello", [U, A]),
    ("Alpaca", ALPACA, [], [U, A, {"role": "user", "content": "Translate.\n\nHallo"}], "Hello", None),
    ("PromptCompletion", {"prompt": "Hi?", "completion": "Hello"}, [], [U], "Hello", [U, A]),
    (
        "QuestionAnswer",
        {"problem": "Hi?", "solution": "Hello"},
        ["--prompt-field", "problem", "--answer-field", "solution"],
        [U],
        "Hello",
        [U, A],
    ),
    ("QuestionAnswer", {"question": "Hi?", "answer": {"n": [1]}}, [], [U], {"n": [1]}, None),
    (
        "PromptCompletion",
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}], "completion": [A], "tools": "[]"},
        [],
        [U],
        "Hello",
        [U, A],
    ),
    (
        "PromptCompletion",
        {"prompt": [U], "reward_model": {"style": "rule", "ground_truth": "Hello"}},
        ["--answer-field", "reward_model.ground_truth"],
        [U],
        "Hello",
        [U, A],
    ),
]


@pytest.mark.parametrize("form", ["jsonl", "array", "gzip", "parquet"])
@pytest.mark.parametrize(("name", "source", "options", "prompt", "answer", "imitated"), CONVERSIONS)
def test_forms_of_rows(rft, tmp_path, form, name, source, options, prompt, answer, imitated):
    file, output = tmp_path / "data", tmp_path / "new.jsonl"
    source = {**source, "level": 1}
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([source]), file)
    else:
        text = json.dumps([source], indent=1) if form == "array" else json.dumps(source)
        file.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    result = rft("data", "convert", file, "--from", name, *options, "--output", output)
    assert (result.returncode, result.stderr) == (0, "")
    (converted,) = lines(output)
    assert (converted["messages"], converted["reference_answer"], converted["level"]) == (prompt, answer, 1)
    assert not {"schemaVersion", "system", "conversations", "problem", "instruction"} & converted.keys()
    assert rft("data", "check", output).returncode == 0
    if imitated:
        output.unlink()
        result = rft("data", "convert", file, "--from", name, *options, "--output", output, "--conversations")
        assert (result.returncode, result.stderr) == (0, "")
        assert lines(output)[0]["messages"] == imitated


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("OpenAIChat", {"question": "x"}, "messages must be a list with at least one message"),
        ("OpenAIChat", {"messages": [U], "tools": [{}]}, "tools: definitions of tools are not supported yet"),
        (
            "PromptCompletion",
            {"prompt": [U, {**A, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "3"}]},
            "prompt[1].tool_calls: tool calls are not supported",
        ),
        (
            "PromptCompletion",
            {"prompt": "x", "completion": [A, {"role": "tool", "content": "3"}, A]},
            "completion must be one message of the assistant, not assistant, tool, assistant",
        ),
        (
            "ShareGPT",
            {"conversations": [{"from": "observation", "value": "x"}]},
            "conversations[0].from must be one of",
        ),
        ("ShareGPT", {"conversations": [{"from": "human", "value": 3}]}, "conversations[0].value must be text"),
        ("Alpaca", {"instruction": ""}, "the prompt is empty"),
        ("Alpaca", {"instruction": "x", "history": [["y"]]}, "history must hold pairs of texts"),
        ("QuestionAnswer", {"problem": "x"}, "question must be a text; --prompt-field names the field of the prompt"),
        ("QuestionAnswer", {"question": "x"}, "answer is missing; --answer-field names the field of the answer"),
        ("OpenAIChat", {"system": "x", "messages": [S, U]}, "system: messages begins with a system message already"),
        ("QuestionAnswer", {"question": "x", "answer": 2**64}, "answer is an integer of more than 64 bits"),
        (
            "QuestionAnswer",
            {"question": "x", "answer": "2+2\n#### 4", "solution": "mine"},
            "solution would be replaced by what stands before #### in answer; rename it: jq",
        ),
    ],
)
def test_rows_of_another_form(rft, tmp_path, name, source, problem):
    file = written(tmp_path / "x.jsonl", source)
    result = rft("data", "convert", file, "--from", name, "--output", tmp_path / "y.jsonl")
    assert result.returncode == 11
    assert f"{file}:1: {problem}" in result.stderr
    assert not (tmp_path / "y.jsonl").exists()


def test_what_the_model_needs_and_does_not_see_is_said(rft, tmp_path):
    choices = {"text": ["Nile", "Rhine"], "label": ["A", "B"]}
    says = "The prompts do not contain {}, which only the reward sees"
    for question, further, unseen in (
        ("Which is longer?", {"choices": choices}, "choices"),
        ("Where is it?", {"context": "It is here.", "options": None}, "context"),
        ("Which is longer? A. Nile B. Rhine", {"choices": choices, "context": ""}, None),
        ("Which?", {"level": "hard"}, None),
    ):
        file = written(tmp_path / "x.jsonl", {"question": question, "answer": "A", **further})
        output = tmp_path / "y.jsonl"
        result = rft("data", "convert", file, "--from", "QuestionAnswer", "--output", output)
        assert result.returncode == 0, result.stderr
        assert (says.format(unseen) in result.stdout) == (unseen is not None)
        assert ("do not contain" in result.stdout) == (unseen is not None)
        output.unlink()


def test_a_solution_of_the_row_is_kept_if_nothing_replaces_it(rft, tmp_path):
    file = written(tmp_path / "x.jsonl", {"question": "x", "answer": "#### 4", "solution": "mine"})
    assert rft("data", "convert", file, "--from", "QuestionAnswer", "--output", tmp_path / "y.jsonl").returncode == 0
    (row,) = lines(tmp_path / "y.jsonl")
    assert (row["reference_answer"], row["solution"]) == ("4", "mine")


def test_the_command_that_an_error_names_works(rft, tmp_path):
    """Each refusal of a row in another form names the form that converts it."""
    sources = [
        (SHAREGPT, "Hello"),
        ({"conversation": SHAREGPT["conversations"]}, "Hello"),
        (ALPACA, "Hello"),
        ({"prompt": "x"}, None),
        ({"prompt": "x", "label": "y"}, "y"),
        ({"prompt": [U], "reward_model": {"style": "rule", "ground_truth": "y"}}, "y"),
        ({"prompt": [U], "reward_spec": {"method": "rule", "ground_truth": "y"}}, "y"),
        ({"input": [U], "ideal": "y"}, "y"),
        ({"question": "x", "answer": "y"}, "y"),
        ({"problem": "x", "expected_answer": "y"}, "y"),
        ({"input": "x", "output": "y"}, "y"),
        ({"input": [U]}, None),
        ({"messages": [U, A]}, "Hello"),
    ]
    for source, answer in sources:
        file = written(tmp_path / "x.jsonl", source)
        named = re.search(r"rft (data convert) FILE (--from [\w. -]+) --output NEW", rft("data", "check", file).stderr)
        arguments = [*named[1].split(), file, *named[2].split(), "--output", tmp_path / "y.jsonl"]
        assert rft(*arguments).returncode == 0
        assert rft("data", "check", tmp_path / "y.jsonl").returncode == 0
        assert lines(tmp_path / "y.jsonl")[0].get("reference_answer") == answer
        (tmp_path / "y.jsonl").unlink()


def test_answers_that_are_not_where_they_are_looked_for(rft, tmp_path):
    file = written(tmp_path / "x.jsonl", {"prompt": "a", "label": "b"}, {"prompt": "a", "labels": {"x": "b"}})
    output = tmp_path / "y.jsonl"
    for name in ("label", "labels.y"):
        result = rft("data", "convert", file, "--from", "PromptCompletion", "--answer-field", name, "--output", output)
        assert result.returncode == 11
        assert f"{file}:2: {name} is missing; --answer-field names the field of the answer" in result.stderr
    result = rft("data", "convert", file, "--from", "PromptCompletion", "--output", output)
    assert f"2 rows → {output}; 2 have no reference answer: --answer-field names its field" in result.stdout


def test_the_help_shows_what_stands_for_redacted_texts(rft):
    assert "[redacted]" in rft("data", "convert", "--help").stdout


def dataset(folder: Path) -> Path:
    """A dataset as it is on the hub: two configurations, each with two splits, and what describes them."""
    for name in ("main", "socratic"):
        (folder / name).mkdir(parents=True)
        for split, texts in (("train", ["a", "b", "c"]), ("test", ["x"])):
            for shard, text in enumerate(texts):
                table = pyarrow.Table.from_pylist([{"question": f"{name} {text}", "answer": "1"}])
                pyarrow.parquet.write_table(table, folder / name / f"{split}-0000{shard}-of-0000{len(texts)}.parquet")
    (folder / "README.md").write_text("# A dataset")
    (folder / "dataset_infos.json").write_text("{}")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    dataset(tmp_path / "hub/owner/gsm")
    hub = Hub(tmp_path / "hub")
    ask_hub(hub, monkeypatch)
    yield hub
    hub.stop()


@pytest.mark.parametrize("store", ["folder", "s3", "hub"])
def test_datasets_of_hugging_face(rft, tmp_path, store, bucket, hub):
    if store == "folder":
        address = str(dataset(tmp_path / "gsm"))
    elif store == "s3":
        dataset(bucket / "gsm")
        address = f"s3://{bucket.name}/gsm"
    else:
        address = "hf://datasets/owner/gsm"

    def convert(address, *options):
        output = tmp_path / "new.jsonl"
        output.unlink(missing_ok=True)
        result = rft("data", "convert", address, "--from", "QuestionAnswer", "--output", output, *options)
        return result.stderr or [line["messages"][0]["content"] for line in lines(output)]

    assert convert(f"{address}/main", "--split", "train") == ["main a", "main b", "main c"]
    assert convert(f"{address}/main/test-00000-of-00001.parquet") == ["main x"]
    assert f"{address}/main: holds several splits (test, train); name" in convert(f"{address}/main")
    assert f"{address}/main: has no split dev; it has test, train" in convert(f"{address}/main", "--split", "dev")
    assert f"{address}: has data in several folders (main, socratic); name" in convert(address, "--split", "test")
    assert f"{address}/gone: " in convert(f"{address}/gone")


def test_addresses_of_datasets_that_are_none(rft, tmp_path, hub):
    result = rft("data", "check", "hf://owner/gsm")
    assert result.returncode == 10
    assert "hf://owner/gsm: must look like hf://datasets/OWNER/NAME" in result.stderr
    result = rft("data", "check", "hf://datasets/owner/gone")
    assert result.returncode == 11
    assert "hf://datasets/owner/gone: the hub has no such dataset, or HF_TOKEN may not read it" in result.stderr


def test_a_job_reads_the_folder_of_a_split(rft, tmp_path):
    for shard in range(2):
        table = pyarrow.Table.from_pylist([row(f"{shard} {i}") for i in range(20)])
        (tmp_path / "words").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / f"words/train-{shard}.parquet")
    manifest = job(tmp_path, "  data: {train: [{name: words, uri: words, reward: exact}]}")
    assert rft("validate", manifest).returncode == 0
    assert rft("data", "check", manifest).returncode == 0
    train, validation = json.loads(rft("data", "stats", "--json", manifest).stdout)
    assert (train["rows"], validation["rows"]) == (36, 4)
    written(tmp_path / "words/test.jsonl", row("x"))
    (tmp_path / "words/test.jsonl").rename(tmp_path / "words/test.parquet")
    assert f"{tmp_path / 'words'}: holds several splits (test, train)" in rft("data", "check", manifest).stderr


def test_files_are_checked_and_described_of_one_split(rft, tmp_path):
    (tmp_path / "words").mkdir()
    for split, rows in (("train", 20), ("test", 5)):
        table = pyarrow.Table.from_pylist([row(f"{split} {i}") for i in range(rows)])
        pyarrow.parquet.write_table(table, tmp_path / f"words/{split}.parquet")
    (found,) = json.loads(rft("data", "stats", "--json", "--split", "train", tmp_path / "words").stdout)
    assert found["rows"] == 20
    result = rft("data", "check", "--split", "test", tmp_path / "words")
    assert result.returncode == 0
    assert "6 to 6" in result.stdout  # characters of the shortest and the longest prompt
    manifest = job(tmp_path, "  data: {train: [{name: words, uri: words, reward: exact}]}")
    result = rft("data", "check", "--split", "test", manifest)
    assert result.returncode == 10
    assert "each source of" in result.stderr


def test_a_job_reads_a_split_of_a_dataset_of_the_hub(rft, tmp_path, hub):
    folder = tmp_path / "hub/owner/words/data"
    folder.mkdir(parents=True)
    for split, rows in (("train_sft", 20), ("train_gen", 10), ("test", 5)):
        table = pyarrow.Table.from_pylist([row(f"{split} {i}") for i in range(rows)])
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    source = 'name: words, uri: "hf://datasets/owner/words", reward: exact'
    data = f"  data: {{train: [{{{source}, split: train_sft}}], test: [{{{source}, split: test}}]}}"
    manifest = job(tmp_path, data)
    assert rft("validate", manifest).returncode == 0
    stats = json.loads(rft("data", "stats", "--json", manifest).stdout)
    assert [part["rows"] for part in stats] == [18, 2, 5]
    result = rft("data", "check", job(tmp_path, f"  data: {{train: [{{{source}}}]}}"))
    assert "hf://datasets/owner/words: holds several splits (test, train_gen, train_sft); name one" in result.stderr
    wrong = job(tmp_path, data.replace("datasets/", ""))
    assert "spec.data.train[0].uri: must look like hf://datasets/OWNER/NAME" in rft("validate", wrong).stderr


def test_options_of_the_other_kind_of_data_are_refused(rft, tmp_path):
    file = written(tmp_path / "x.jsonl", {"prompt": "x"})
    for name, option in (("PromptCompletion", "--model"), ("BedrockInvocationLog", "--prompt-field")):
        result = rft("data", "convert", file, "--from", name, "--output", tmp_path / "y", option, "z")
        assert (result.returncode, result.stderr) == (10, f"error: {option} has no meaning with --from {name}\n")


def test_rows_that_cannot_be_converted(rft, tmp_path):
    file = written(tmp_path / "x.jsonl", {"prompt": 3}, {"prompt": [3]}, {}, "{")
    result = rft("data", "convert", file, "--from", "PromptCompletion", "--output", tmp_path / "y.jsonl")
    assert result.returncode == 11
    assert f"{file}:1: prompt must be a text or a list of messages" in result.stderr
    assert f"{file}:2: prompt[0] must be an object with role and content" in result.stderr
    assert f"{file}:4: is not JSON" in result.stderr
    result = rft("data", "convert", file, "--from", "CSV", "--output", tmp_path / "y.jsonl")
    assert (
        "--from CSV: must be one of BedrockInvocationLog, OpenAIChat, Converse, ShareGPT, Alpaca, Prompt"
        in result.stderr
    )
    assert not (tmp_path / "y.jsonl").exists()
