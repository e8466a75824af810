"""`rft data split`: split a file into training, validation and test files by a hash of each prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath

from rich.console import Console

from rft_api.data_formats import read_conversations, read_prompts
from rft_api.exit_codes import ExitCode, RunError
from rft_api.prompts import Message, problem_report, prompt_digest
from rft_api.rows import read_rows
from rft_api.scratch import scratch_folder
from rft_api.sources import WarmupSource
from rft_cli.data_sources import fetch, file_source
from rft_cli.new_file import new_files
from rft_cli.stage_display import shown_stage


def split(
    address: str,
    validation: float,
    test: float,
    seed: int,
    output: Path | None,
    conversations: bool,
    console: Console,
) -> None:
    """Copy each row of a file to one of up to three new files (JSONL), beside the file or in the folder `output`.

    Raises:
        RunError: when the shares or the file are wrong, a part would be empty, or a new file exists already.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and 0 < validation + test < 1):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, "--validation and --test must be from 0 to 1, with a sum between 0 and 1"
        )
    if output is None and "://" in address:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"--output is needed: nothing is written to {address}")
    with scratch_folder() as scratch, shown_stage() as stage, fetch(address, scratch / "data", stage) as path:
        stage.update(f"splitting {address}")
        parts = _parts(path, address, validation, test, seed, conversations)
        counts = Counter(parts.values())
        names = ["train", *(name for name, share in (("validation", validation), ("test", test)) if share)]
        empty_parts = [name for name in names if not counts[name]]
        if empty_parts:
            raise RunError(
                ExitCode.DATA_INVALID,
                f"{address}: no prompt of {len(parts)} falls to {' and '.join(empty_parts)}; "
                f"add rows or change the shares",
            )
        name = _stem(PurePosixPath(address).name)
        folder = output if output is not None else Path(address).parent
        targets = {part: folder / f"{name}.{part}.jsonl" for part in names}
        with new_files(list(targets.values())) as files:
            file_of_part = dict(zip(targets, files, strict=True))
            for row in read_rows(Path(path), []):
                file_of_part[parts[row.number]].write(row.text + b"\n")
    for part, target in targets.items():
        console.print(f"{part}: {counts[part]} rows → {target}", highlight=False, soft_wrap=True)


def part_of(messages: list[Message], validation: float, test: float, seed: int) -> str:
    """Return the part to which a prompt belongs; it depends only on the prompt, the shares and the seed."""
    digest = hashlib.sha256(str(seed).encode() + prompt_digest(messages)).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    # Test has the lowest places and validation the highest, so another share of one does not change the other.
    return "test" if place < test else "validation" if place >= 1 - validation else "train"


def _stem(name: str) -> str:
    """Return the name of a file without the endings of what can be read."""
    for ending in (".gz", ".jsonl", ".json", ".parquet", ".arrow"):
        name = name.removesuffix(ending)
    return name


def _parts(path: str, address: str, validation: float, test: float, seed: int, conversations: bool) -> dict[int, str]:
    """Return the part of each row, by its number in the file."""
    problems: list[str] = []
    source = file_source(path, "OpenAIChat", conversations)
    rows: list[tuple[int, list[Message]]]
    if isinstance(source, WarmupSource):
        rows = [(row.line, row.messages[:-1]) for row in read_conversations(source, problems)[0]]
    else:
        rows = [(row.line, row.messages) for row in read_prompts(source, problems)[0]]
    if problems:
        raise RunError(
            ExitCode.DATA_INVALID, problem_report([address + problem.removeprefix(path) for problem in problems])
        )
    return {line: part_of(messages, validation, test, seed) for line, messages in rows}
