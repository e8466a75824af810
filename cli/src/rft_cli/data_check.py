"""`rft data check`: report every problem of data by file and line, repeated prompts, and prompts shared by splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line, printable
from rft_cli.data_sources import ReadSource, Row, read_targets
from rft_cli.data_stats import print_table

PLACES_SHOWN = 3
_LONGEST_PROBLEM = 2000
"""Characters of a problem; it may quote a value of the data, which may have any size."""


def check(targets: Sequence[str], format_name: str, conversations: bool, split: str | None, console: Console) -> None:
    """Read data as a run would, and print what is wrong with it.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: DATA_INVALID with every problem.
    """
    problems: list[str] = []
    remarks: list[str] = []
    sources = read_targets(targets, format_name, conversations, split, problems, remarks)
    print_table([source for source in sources if source.rows], console)
    for source in sources:
        duplicates = sum(count - 1 for count in Counter(row.digest for row in source.rows).values())
        if duplicates:
            remarks.append(f"{source.label}: {duplicates} rows repeat the prompt of another row")
        if source.report is not None:
            remarks.append(f"{source.label}: {source.report}")
    for first, second in combinations(_parts(sources), 2):
        _compare(first, second, problems, remarks)
    for remark in remarks:
        console.print(Text(printable(remark), style="yellow"), soft_wrap=True)
    if problems:
        count = len(problems)
        heading = "1 problem:" if count == 1 else f"{count} problems:"
        lines = [one_line(problem, _LONGEST_PROBLEM) for problem in problems]
        raise RunError(ExitCode.DATA_INVALID, "\n".join([heading, *lines]))
    console.print("No problem found.")


def _parts(sources: Sequence[ReadSource]) -> Iterator[tuple[str, bool, dict[bytes, Row]]]:
    """Yield each part (its name, whether a job has it, and the first row of each of its prompts by digest)."""
    for part, of_job in dict.fromkeys((source.part, source.of_job) for source in sources):
        rows: dict[bytes, Row] = {}
        for source in sources:
            if (source.part, source.of_job) == (part, of_job):
                for row in source.rows:
                    rows.setdefault(row.digest, row)
        yield part, of_job, rows


def _compare(
    first: tuple[str, bool, dict[bytes, Row]],
    second: tuple[str, bool, dict[bytes, Row]],
    problems: list[str],
    remarks: list[str],
) -> None:
    (name, of_job, rows), (other, other_of_job, others) = first, second
    overlap = [digest for digest in rows if digest in others]
    if not overlap:
        return
    places = [f"{rows[digest].place} = {others[digest].place}" for digest in overlap[:PLACES_SHOWN]]
    more = f" and {len(overlap) - PLACES_SHOWN} more" if len(overlap) > PLACES_SHOWN else ""
    message = f"{name} and {other} share {len(overlap)} prompts: {', '.join(places)}{more}"
    # Test prompts that the model was trained on, or that chose its checkpoint, do not show what it has learnt. Neither
    # do conversations that it has imitated.
    measured = "test" in (name, other) or {name, other} == {"warmup", "warmupValidation"}
    leaks = of_job and other_of_job and measured
    (problems if leaks else remarks).append(message)
