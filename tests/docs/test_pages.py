"""What the pages name exists: commands of `rft` with their options, make targets, reasons, metrics, fields."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from support.pages import DOCS, ROOT, page

from rft_api.builtin_table import BUILTINS
from rft_api.conditions import Reason
from rft_api.crd import structural_schema
from rft_api.reward_function import RewardFunction
from rft_api.reward_protocol import Score, with_facts
from rft_api.rft_job import RFTJob, RFTJobSpec
from rft_api.training import Hyperparameters
from rft_cli.main import app

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("examples/**/*.md"))]
every_page = pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))


def code(text: str) -> Iterator[str]:
    """The lines of code on a page: of its blocks, and its spans."""
    blocks = r"^ *```.*?\n(.*?)^ *```$"
    for block in re.findall(blocks, text, flags=re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(blocks, "", text, flags=re.MULTILINE | re.DOTALL))


def rft_commands(text: str) -> Iterator[list[str]]:
    """The words after `rft` of every command on a page."""
    for line in code(text):
        if found := re.match(r"(?:\.venv/bin/)?rft ([a-z-].*)", line.strip()):
            yield shlex.split(found[1].replace("\\|", "|"), comments=True)


def check_command(words: list[str]) -> None:
    """AssertionError unless the command line has this command with these options."""
    command: Any = typer.main.get_command(app)
    options: set[str] = set()
    for number, word in enumerate(words):
        options |= {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        if word.startswith("-"):
            assert word in options | {"-h", "--help"}, f"rft {' '.join(words)}: no option {word}"
        elif hasattr(command, "commands"):
            # A table may name several at once: list|show|init.
            for name in word.split("|"):
                assert name in command.commands, f"rft {' '.join(words[: number + 1])}: no such command"
            command = command.commands[word.split("|")[0]]


@every_page
def test_every_rft_command_on_the_page_exists(file):
    for words in rft_commands(file.read_text(encoding="utf-8")):
        check_command(words)


def test_a_command_that_does_not_exist_is_found():
    text = (
        "`rft dance`, `rft run --quickly x`, `rft data check --conversations x`\n"
        "```sh\nrft score a.yaml \\\n  b --loud\n```\n"
    )
    found = list(rft_commands(text))
    assert len(found) == 4
    for words in found:
        if words[0] == "data":
            check_command(words)
        else:
            with pytest.raises(AssertionError, match=r"no such command|no option"):
                check_command(words)


@every_page
def test_every_make_target_on_the_page_exists(file):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for line in code(file.read_text(encoding="utf-8")):
        if found := re.match(r"make ([a-z]+)", line.strip()):
            assert found[1] in targets, line


def test_every_reason_has_one_entry_in_troubleshooting():
    text = page("troubleshooting.md")
    headings = re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(headings + rows) == sorted(Reason)


def test_every_entry_of_troubleshooting_says_what_to_do():
    for entry in re.split(r"^##+ ", page("troubleshooting.md"), flags=re.MULTILINE)[1:]:
        title, _, text = entry.partition("\n")
        if title in set(Reason):
            assert "- **Do** " in text, title


@pytest.mark.parametrize("name", ["costs.md", "troubleshooting.md", "queueing.md"])
def test_every_metric_on_the_page_is_described_on_that_of_its_program(name):
    described = "".join(page(other) for other in ("reference/metrics.md", "rewards.md", "operator.md"))
    metrics = re.findall(r"\brft_[a-z_]+", page(name))
    assert [metric for metric in metrics if not re.search(rf"\b{metric}\b", described)] == []


def test_the_table_of_terms_has_hyperparameters_that_exist():
    section = page("coming-from-other-products.md").split("## Hyperparameters\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[3] for line in section.splitlines() if line.startswith("|")][2:]
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    own = [name for name in named if not name.startswith("spec.")]
    assert own
    assert set(own) <= fields(Hyperparameters)
    assert {name.removeprefix("spec.") for name in named if name.startswith("spec.")} <= fields(RFTJobSpec)


def test_the_tables_of_settings_name_fields_with_their_defaults():
    schemas = dict(field_schemas(structural_schema(RFTJob)["properties"]["spec"]))
    named = 0
    for table in page("settings.md").split("| Field of `")[1:]:
        parent = table.partition("`")[0]
        for row in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table.split("\n\n")[0], flags=re.MULTILINE):
            schema = schemas[f"{parent}.{row[0]}"]
            if "default" in schema:
                assert row[1].strip("`") == str(schema["default"]).lower(), row
            named += 1
    assert named == 21


def here(section: str) -> list[str]:
    """What the last column of a table of terms names as ours."""
    text = page("coming-from-other-products.md").split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    cells = [re.split(r"(?<!\\)\|", line)[-2] for line in text.splitlines() if line.startswith("|")][2:]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell.partition("**Not here**")[0])]


def field_schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths of all fields of a schema, with their schemas; fields of the elements of a list follow `[]`."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}{name}", field
        is_list = field.get("type") == "array"
        yield from field_schemas(field["items"] if is_list else field, f"{path}{name}{'[]' * is_list}.")


@pytest.mark.parametrize("section", ["Rewards", "Data"])
def test_the_tables_of_terms_name_what_exists(section):
    specs = [structural_schema(kind)["properties"]["spec"] for kind in (RewardFunction, RFTJob)]
    schemas = {path: schema for spec in specs for path, schema in field_schemas(spec)}
    row = page("data.md").split("\n## A row\n")[1].split("\n## ")[0]
    names = {*schemas, *BUILTINS, *Score.model_fields, *re.findall(r"^\| `(\w+)` \|", row, flags=re.MULTILINE)}
    names |= {f"metadata.rft.{fact}" for fact in with_facts({}, 1, "stop")["rft"]}
    terms = [term for term in here(section) if not term.startswith("rft ")]  # commands have a test of their own
    assert len(terms) > 10
    for term in terms:
        field, _, value = term.partition(": ")
        if term.startswith("--"):
            check_command(["data", "convert", term.partition(" ")[0]])
        else:
            assert field in names, term
            assert not value or value in schemas[field]["enum"], term


def fields(model: type[BaseModel]) -> set[str]:
    """The fields of a model as manifests write them."""
    return {field.alias or name for name, field in model.model_fields.items()}
