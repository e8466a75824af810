"""What the pages say is what the program does: codes, metric names, messages, manifests, links."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.trainer import job_spec, render

import rft_api.jsonl
from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLog, LeftOut
from rft_api.manifests import KINDS, load_manifests
from rft_api.metrics import TrainMetrics, ValidationMetrics, WarmupMetrics
from rft_api.progress import HackingVerdict
from rft_api.resource import API_VERSION
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.warmup import Warmup
from rft_trainer.data import Message, load_conversations, load_dataset, load_warmup
from rft_trainer.progress import ProgressReporter

ROOT = Path(__file__).parents[2]
# Folders of tools, of built things and of runs: nothing in them is ours to check.
SKIPPED = {"node_modules", "runs", "dist", "build"}


def pages() -> list[Path]:
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


PAGES = pages()
AnyMetrics = TypeVar("AnyMetrics", TrainMetrics, ValidationMetrics, WarmupMetrics)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def code(cell: str) -> str:
    return cell.strip("`")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"


@every_page
def test_whole_manifests_on_the_page_are_valid(page, tmp_path):
    blocks = re.findall(r"^```ya?ml\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        documents = list(yaml.safe_load_all(block))
        if any(
            isinstance(d, dict) and (d.get("kind") in KINDS or d.get("apiVersion") == API_VERSION) for d in documents
        ):
            file = tmp_path / f"{number}.yaml"
            file.write_text(block, encoding="utf-8")
            load_manifests([file])


def test_every_page_is_in_the_index():
    index = text_of("README.md")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, name


def test_the_table_of_exit_codes_is_the_enumeration():
    stated = [
        (int(number), code(name), code(reason), again)
        for number, name, reason, again, *_ in table(text_of("reference/exit-codes.md"), "# Exit codes")
    ]
    assert stated == [
        (code.value, code.name, code.reason, "done" if not code else "permanent" if code.permanent else "retried")
        for code in ExitCode
    ]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("## The metrics of a step", TrainMetrics),
        ("## The metrics of a validation", ValidationMetrics),
        ("## The metrics of a step of a warm-up alone", WarmupMetrics),
    ],
)
def test_the_metrics_of_a_line_are_all_on_the_page(heading, model):
    stated = [code(row[0]) for row in table(text_of("reference/metrics.md"), heading)]
    assert sorted(stated) == sorted(field.alias or name for name, field in model.model_fields.items())


PARTS = ("step", "validation", "step of a warm-up alone")


def test_the_names_for_prometheus_are_those_that_the_trainer_serves():
    page = text_of("reference/metrics.md")
    cells = [row[1] for of in PARTS for row in table(page, f"## The metrics of a {of}")]
    cells += [row[0] for row in table(page, "## The metrics of a run")]
    stated: dict[str, set[str]] = {}
    for series in re.findall(r"`([^`]+)`", " ".join(cells)):
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})?", series)
        assert match, series
        labels = [label.partition("=")[0].strip() for label in (match[2] or "").split(",") if label]
        stated.setdefault(match[1], set()).update(labels)
    assert stated == served()
    # What the text speaks of exists, too.
    assert set(re.findall(r"rft_train_\w+", page)) == set(stated)
    assert set(re.findall(r"rft_train_\w+", text_of("curves.md"))) <= set(stated)


def served() -> dict[str, set[str]]:
    """Names and labels of everything that the trainer serves once it has trained and validated."""
    reporter = ProgressReporter("namespace", "job")
    reporter.plan(2)
    reporter.record_step(example(TrainMetrics), new_tokens=1)
    reporter.record_validation(example(ValidationMetrics))
    reporter.record_warmup(example(WarmupMetrics), new_tokens=1)
    reporter.record_hacking(HackingVerdict(suspected=False, message="fine"))
    samples = [sample for family in reporter.registry.collect() for sample in family.samples]
    return {
        sample.name: set(sample.labels) - {"namespace", "job"}
        for sample in samples
        if not sample.name.endswith("_created")
    }


def example(model: type[AnyMetrics]) -> AnyMetrics:
    """A line with a value in every field."""
    maps: dict[str, Any] = {"components": {"part": 1.0}, "sources": {"source": 1.0}}
    maps |= {"shadows": {"shadow": {"reward": 1, "failed": 1}}, "comparisons": {}}
    return model.model_validate({name: maps.get(name, 1) for name in model.model_fields if name != "split"})


MESSAGE = {"role": "user", "content": "3+4"}
LINES = [
    "{broken",
    "[1]",
    "{}",
    '{"messages": []}',
    '{"messages": ["x"]}',
    json.dumps({"messages": [{"role": "bot", "content": "x"}]}),
    json.dumps({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}),
    json.dumps({"messages": [{"role": "user"}]}),
    json.dumps({"messages": [{"role": "user", "content": 3}]}),
    json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    json.dumps({"messages": [MESSAGE, {"role": "assistant", "content": "7"}]}),
    json.dumps({"messages": [MESSAGE, {"role": "system", "content": "x"}]}),
    json.dumps({"messages": [MESSAGE], "metadata": "x"}),
    json.dumps({"messages": [MESSAGE], "reference_answer": 1, "metadata": {"reference_answer": 2}}),
    json.dumps({"messages": [{"role": "user", "content": " "}]}),
    json.dumps({"messages": [MESSAGE], "system": 3}),
    json.dumps({"messages": [MESSAGE], "system": [{}]}),
    json.dumps({"messages": [{"role": "system", "content": "x"}, MESSAGE], "system": "y"}),
    json.dumps({"messages": [MESSAGE], "tools": [{}]}),
    json.dumps({"messages": [MESSAGE], "toolConfig": {"tools": [{}]}}),
    json.dumps({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": ""}]}),
    json.dumps({"conversations": []}),
    json.dumps({"text": "x"}),
    json.dumps({"item": {"messages": [MESSAGE]}}),
    json.dumps({"data": [{"messages": [MESSAGE]}]}),
    '{"level": 1, "level": 2}',
    '{"level": 3.14159265358979323846}',
    json.dumps({"messages": [MESSAGE], "level": float("nan")}),
    json.dumps({"messages": [MESSAGE], "level": 2**70}),
    '{"level": 1e999}',
    json.dumps({"messages": [MESSAGE], "level": "\ud83d"}),
    json.dumps({"messages": [MESSAGE], "\ud83d": 1}),
    '{"level": ' + "[" * 300 + "]" * 300 + "}",
]


def data_messages(folder: Path) -> Iterator[str]:
    """Every message about data, provoked."""
    # slow to import
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    from rft_trainer.arguments import planned_steps
    from rft_trainer.modeling import prompt_token_ids

    good = json.dumps({"messages": [MESSAGE]})
    bad, empty, fine = folder / "bad", folder / "empty", folder / "fine"
    empty.write_bytes(b"\n")
    fine.write_text(f"{good}\n", encoding="utf-8")

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    tokenizer.chat_template = "{{ raise_exception('no') }}"

    def refuse(messages: list[Message]) -> int:
        return len(prompt_token_ids(tokenizer, messages))

    def problems(*files: Path, fraction: float = 0.0, limit: int = 100, count_tokens=lambda messages: 50) -> list[str]:
        sources = [DataSource(name=file.name, uri=str(file), reward="r") for file in files]
        data = Data(train=sources).model_copy(update={"validation_fraction": fraction})
        with pytest.raises(RunError) as caught:
            load_dataset(data, limit, count_tokens)
        assert caught.value.code is ExitCode.DATA_INVALID
        return caught.value.message.splitlines()

    files = {
        "utf16": good.encode("utf-16"),
        "utf32": good.encode("utf-32"),
        "csv": b"question,answer\n1,2\n",
        "zip": b"PK\x03\x04",
        "half": gzip.compress(good.encode())[:-12],
        "bomb": gzip.compress(f"{good}\n".encode() * 20),
        "long": f"{good}{' ' * 1000}".encode(),
        "array": f"[{good}{', ' * 1000}".encode(),
        "table": b"PAR1",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.table({"messages": [[MESSAGE]], "image": [b"x"]}), folder / "image")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAXIMUM_LINE_BYTES", "MAXIMUM_UNPACKED_BYTES", "MAXIMUM_WHOLE_BYTES"):
            patch.setattr(rft_api.jsonl, name, 500)
        yield from problems(*(folder / name for name in (*files, "image")))
    folders = ("none/a.txt", "both/train.jsonl", "both/test.jsonl", "two/a/x.jsonl", "two/b/x.jsonl")
    for name in (*folders, "kinds/a.parquet", "kinds/a.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{good}\n", encoding="utf-8")
    yield from problems(*(folder / name for name in ("none", "both", "two", "kinds")))
    # A run shows the first problems only.
    for start in range(0, len(LINES), 10):
        bad.write_bytes("\n".join(LINES[start : start + 10]).encode() + b"\n\xff\n")
        yield from problems(bad, empty, folder / "missing")
    yield from problems(fine, limit=10)
    for options in (InvocationLog(), InvocationLog.model_validate({"redact": {"patterns": [{"pattern": "("}]}})):
        log = DataSource(name="log", uri=str(fine), reward="r", format="BedrockInvocationLog", invocation_log=options)
        with pytest.raises(RunError) as caught:
            load_dataset(Data(train=[log]), 100, len)
        yield from caught.value.message.splitlines()
    yield from problems(fine, count_tokens=refuse)
    yield from problems(fine, fraction=0.1)
    thinks = folder / "thinks"
    answer = {"role": "assistant", "content": "7", "reasoning_content": "4+3"}
    thinks.write_text(json.dumps({"messages": [MESSAGE, answer]}), encoding="utf-8")
    for file in (fine, thinks):
        with pytest.raises(RunError) as caught:
            load_conversations([WarmupSource(name="w", uri=str(file))], len)
        yield from caught.value.message.splitlines()
    greets, weights = folder / "greets", folder / "weights"
    seven, eight = {"role": "assistant", "content": "7"}, {"role": "assistant", "content": "8"}
    greets.write_text(json.dumps({"messages": [eight, MESSAGE, seven]}), encoding="utf-8")
    rows = [[MESSAGE, {**seven, "weight": weight}] for weight in (2, 0)]
    weights.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    answered = folder / "answered"
    answered.write_text(json.dumps({"messages": [MESSAGE, seven, MESSAGE, eight]}), encoding="utf-8")

    def refuse_seven(messages: list[Message]) -> None:
        if messages[-1] == seven:
            raise ValueError("no")

    def accept(messages: list[Message]) -> None:
        pass

    for file, check in ((greets, accept), (weights, accept), (answered, refuse_seven), (answered, accept)):
        source = WarmupSource(name="w", uri=str(file), imitate="EveryAnswer")
        with pytest.raises(RunError) as caught:
            load_warmup(Warmup(data=[source]), check, None, is_alone=True)
        yield from caught.value.message.splitlines()
    config = render(job_spec(folder, folder, folder), folder / "job", "http://127.0.0.1:1", None)
    with pytest.raises(RunError) as caught:
        planned_steps(config, prompts=1)
    yield caught.value.message


def test_every_reason_to_leave_a_record_out_is_explained():
    stated = [code(row[0]) for row in table(text_of("data.md"), "### What is left out")]
    assert stated == list(get_args(LeftOut))


def test_every_message_about_data_is_on_the_page_as_it_is_said(tmp_path):
    cells = [row[0] for row in table(text_of("data.md"), "## What is checked")]
    forms = [form for cell in cells for form in re.findall("`([^`]+)`", cell)]
    # Words in capitals stand for something; those of formats are themselves.
    patterns = {
        form: "".join(
            part if part == ".+" else re.escape(part)
            for part in re.split(r"(\.\+)", re.sub(r"\b(?!JSON\b|UTF\b)[A-Z]+\b", ".+", form))
        )
        for form in forms
    }
    said = list(data_messages(tmp_path))
    unknown = [message for message in said if not any(re.fullmatch(p, message) for p in patterns.values())]
    assert unknown == []
    never = [form for form, pattern in patterns.items() if not any(re.fullmatch(pattern, m) for m in said)]
    assert never == []
