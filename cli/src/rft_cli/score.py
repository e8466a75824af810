"""`rft score`: score a file of completions with a RewardFunction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev, quantiles

import httpx
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.constant_reward import constant_reward, python_sources
from rft_api.exact_json import parse_text
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line, printable
from rft_api.groups import group_id, split_groups, whole_batches
from rft_api.manifests import ManifestErrors, resolve_source
from rft_api.model import Json
from rft_api.openai_chat import read_chat_rows
from rft_api.prompts import problem_report
from rft_api.quantities import duration_seconds
from rft_api.reward_checks import code_remarks
from rft_api.reward_function import RewardFunction
from rft_api.reward_protocol import SCORE_PATH, Score, build_sample, match_scores, with_facts
from rft_api.scratch import scratch_folder
from rft_cli.check import read_manifests
from rft_cli.local_rewards import local_reward_errors
from rft_cli.processes import RewardServer
from rft_cli.report import read_rollouts
from rft_cli.score_warnings import print_warnings
from rft_cli.stage_display import StageDisplay, shown_stage
from rft_cli.texts import number

BATCH = 64
"""Samples per request."""
CONCURRENCY = 4
"""Requests in flight, so that the server has work while this process reads and writes the others."""
ERRORS_SHOWN = 10


@dataclass(frozen=True)
class Line:
    """A completion of the file."""

    number: int
    """Number of its line or row in the file, from 1."""
    row: Json
    """The completion in the format of JSONL: `messages`, `reference_answer` and further fields."""
    sample: Json
    """The sample that the reward server scores."""
    stored_reward: float | None = None
    """The reward in the file; None in JSONL files, which have none."""
    part: str = ""
    """Part of what is scored, such as a step: completions of one prompt in different parts are no group."""


def score(reward: Path, name: str | None, completions: Path, output: Path | None, console: Console) -> None:
    """Score the completions with a reward, print the distribution of the scores, and write them to `output`.

    Raises:
        ManifestErrors: when the manifest of the reward is wrong.
        RunError: when the file of completions is wrong, the output is one of the files that are read, or the reward can
            score none of them.
    """
    for source in (reward, completions):
        if output is not None and output.exists() and source.exists() and output.samefile(source):
            raise RunError(
                ExitCode.OUTPUT_INVALID, f"--output {output} would overwrite {source}, which is read; name another file"
            )
    function = load_function(reward, name)
    with shown_stage() as stage:
        stage.update(f"reading {completions}")
        lines = read_lines(completions)
        scores = score_lines(function, lines, stage)
    if output is not None:
        _write(output, lines, scores)
    _print_distribution(function.metadata.name, scores, console)
    _print_errors(completions, lines, scores, console)
    print_warnings(str(completions), lines, scores, console)
    _print_constant(function, lines, scores, console)
    for remark in code_remarks(function):
        console.print(Text(f"The code {remark.message}.", style="yellow"), soft_wrap=True)
    _compare_with_stored(lines, scores, console)
    if output is not None:
        console.print(f"Scores: {output}", highlight=False, soft_wrap=True)
    if not any(s.error is None for s in scores):
        raise RunError(ExitCode.REWARD_FAILING, "no sample could be scored")


def load_function(manifest: Path, name: str | None = None) -> RewardFunction:
    """Load the RewardFunction with this name from a file, or the only one when `name` is None; its code is inlined.

    Raises:
        ManifestErrors: when the manifest is wrong.
        RunError: CONFIGURATION_INVALID when no RewardFunction has the name, or when `name` is None and the file does
            not define exactly one.
    """
    manifests, errors = read_manifests([manifest])
    if errors:
        raise ManifestErrors(errors, manifests)
    functions = [function for key, function in manifests.reward_functions.items() if name in (None, key)]
    errors = [error for function in functions for error in local_reward_errors(manifests, function)]
    if errors:
        raise ManifestErrors(errors, manifests)
    if len(functions) != 1:
        names = ", ".join(manifests.reward_functions) or "none"
        text = f"{manifest} has to define one RewardFunction" if name is None else f"{manifest} has no {name}"
        advice = "; choose one with --name" if name is None and functions else ""
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{text}; it defines {names}{advice}")
    return resolve_source(functions[0], manifests.config_maps)


def read_lines(file: Path) -> list[Line]:
    """Read the completions of a file of data, whose rows end with the assistant's message, or of a file of rollouts.

    Raises:
        RunError: when the file is wrong, or holds no completion.
    """
    return _read_rollouts(file) if _is_rollouts(file) else _read_rows(file)


def score_lines(function: RewardFunction, lines: Sequence[Line], stage: StageDisplay) -> list[Score]:
    """Start a reward server for the function, and return its score of each completion.

    Args:
        function: the function.
        lines: the completions.
        stage: shows how far it is.

    Raises:
        RunError: when the server does not become ready, or does not answer.
    """
    with scratch_folder() as folder:
        requirements = ", ".join(function.spec.requirements())
        if requirements:
            stage.update(f"installing {requirements}")
        with RewardServer(function, folder, folder / "server.log") as server:
            tests = len(function.spec.tests)
            stage.update(f"starting the reward server{f' and running its {tests} tests' if tests else ''}")
            server.wait_until_ready()
            by_group = function.spec.sees_groups
            return _score(server, lines, duration_seconds(function.spec.timeout), by_group, stage)


def _read_rows(file: Path) -> list[Line]:
    lines: list[Line] = []
    problems: list[str] = []
    for row, chat in read_chat_rows(file, "completion", problems):
        *conversation, completion = chat.messages
        text = completion["content"]
        sample = build_sample(str(row.number), conversation, text, chat.reference_answer, chat.metadata)
        lines.append(Line(row.number, row.row, sample))
    if problems:
        heading = f"{len(problems)} lines cannot be used:\n" if len(problems) > 1 else ""
        raise RunError(ExitCode.DATA_INVALID, heading + problem_report(problems))
    return lines


def _is_rollouts(file: Path) -> bool:
    """Return whether a file is one of rollouts; other tables have a column of messages."""
    if file.suffix != ".parquet" or not file.is_file():
        return False
    import pyarrow.parquet

    try:
        return "messages" not in pyarrow.parquet.read_schema(file).names
    except (OSError, pyarrow.ArrowException):
        return False


def _read_rollouts(file: Path) -> list[Line]:
    lines = []
    for index, rollout in enumerate(read_rollouts(file), start=1):
        try:
            reference = parse_text(rollout.reference_answer)
            metadata, conversation = parse_text(rollout.metadata), parse_text(rollout.prompt)
        except ValueError as error:
            raise RunError(ExitCode.DATA_INVALID, f"{file}: row {index}: a column with JSON {error}") from None
        if not isinstance(metadata, dict) or not isinstance(conversation, list):
            raise RunError(ExitCode.DATA_INVALID, f"{file}: row {index}: prompt is no list, or metadata no object")
        facts = with_facts(metadata, rollout.tokens, rollout.finish_reason)
        sample = build_sample(str(index), conversation, rollout.completion, reference, facts)
        row = {"messages": sample["messages"], "reference_answer": reference, "metadata": metadata}
        lines.append(Line(index, row, sample, rollout.reward))
    if not lines:
        raise RunError(ExitCode.DATA_INVALID, f"{file}: holds no completions")
    return lines


def _score(
    server: RewardServer, lines: Sequence[Line], timeout: float, by_group: bool, stage: StageDisplay
) -> list[Score]:
    samples = [_with_group(line) if by_group else line.sample for line in lines]
    batches = [
        [position for group in groups for position in group]
        for groups in whole_batches(split_groups(samples, by_group), BATCH)
    ]
    headers = {"Authorization": f"Bearer {server.token}"}
    # The server enforces the timeout of the function. The longer timeout here ends the wait for a server that hangs.
    client = httpx.Client(headers=headers, timeout=timeout + 30, trust_env=False)
    scores: dict[int, Score] = {}
    threads = ThreadPoolExecutor(CONCURRENCY)
    text = f"scoring with {server.name}"
    stage.update(text, 0, len(lines), "completions")
    with client:
        requests = [threads.submit(_post, client, server, [samples[place] for place in batch]) for batch in batches]
        try:
            for batch, request in zip(batches, requests, strict=True):
                scores |= zip(batch, request.result(), strict=True)
                stage.update(text, len(scores), len(lines), "completions")
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C, no request is waited for
    return [scores[position] for position in range(len(lines))]


def _with_group(line: Line) -> Json:
    """Return a sample with the id of its group: the completions of the same prompt with the same reference answer."""
    sample = line.sample
    return {**sample, "group": f"{line.part}/{group_id(sample['messages'][:-1], sample['reference_answer'])}"}


def _post(client: httpx.Client, server: RewardServer, batch: Sequence[Json]) -> list[Score]:
    try:
        answer = client.post(server.url + SCORE_PATH, json=list(batch))
        answer.raise_for_status()
        return match_scores([sample["id"] for sample in batch], answer.json())
    except httpx.HTTPStatusError as error:
        text = one_line(error.response.text)
        raise RunError(
            ExitCode.REWARD_FAILING, f"RewardFunction {server.name}: HTTP {error.response.status_code}: {text}"
        ) from None
    except (httpx.TransportError, ValueError) as error:
        raise RunError(ExitCode.REWARD_FAILING, f"RewardFunction {server.name} did not answer: {error}") from None


def _write(output: Path, lines: Sequence[Line], scores: Sequence[Score]) -> None:
    try:
        with output.open("w", encoding="utf-8") as file:
            for line, result in zip(lines, scores, strict=True):
                values = result.model_dump(mode="json", exclude={"id"}, exclude_none=True)
                file.write(json.dumps({**line.row, "score": values}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{output} cannot be written: {error.strerror}") from None


def _print_distribution(name: str, scores: Sequence[Score], console: Console) -> None:
    successes = [s for s in scores if s.error is None]
    values: dict[str, list[float]] = {}
    for result in successes:
        for metric in result.metrics_list:
            values.setdefault(metric.name, []).append(metric.value)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{len(scores)} completions", overflow="fold")
    for column in ("mean", "std", "min", "25 %", "median", "75 %", "max"):
        table.add_column(column, justify="right")
    rewards = [s.aggregate_reward_score for s in successes if s.aggregate_reward_score is not None]
    if rewards:
        table.add_row("reward", *_statistics(rewards), style="bold")
    for component, component_values in sorted(values.items()):
        # Not every row has every component; those that lack it, such as answers that could not be read, do not count.
        count = len(component_values)
        share = "" if count == len(successes) else f" (in {count} of {len(successes)})"
        table.add_row(f"  {one_line(component)}{share}", *_statistics(component_values))
    console.print(Text(name, style="bold"))
    if rewards:
        console.print(table)
    failures = len(scores) - len(successes)
    console.print(f"Not scored: {failures} of {len(scores)} ({failures / len(scores):.1%})", highlight=False)


def _statistics(values: Sequence[float]) -> Iterator[str]:
    # "inclusive" gives the quartiles of these values themselves, not of a population that they are a sample of.
    quartiles = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    for value in (fmean(values), pstdev(values), min(values), *quartiles, max(values)):
        yield number(value)


def _print_errors(file: Path, lines: Sequence[Line], scores: Sequence[Score], console: Console) -> None:
    failures = [(line, result.error) for line, result in zip(lines, scores, strict=True) if result.error is not None]
    for line, error in failures[:ERRORS_SHOWN]:
        console.print(Text(f"{file}:{line.number}: {one_line(error or '')}", style="red"), soft_wrap=True)
    if len(failures) > ERRORS_SHOWN:
        console.print(f"… and {len(failures) - ERRORS_SHOWN} more; --output writes them all", highlight=False)


def _print_constant(function: RewardFunction, lines: Sequence[Line], scores: Sequence[Score], console: Console) -> None:
    """Say so if the reward cannot tell the completions apart, with the likeliest causes."""
    rewards = [score.aggregate_reward_score for score in scores]
    text = constant_reward([line.sample for line in lines], rewards, python_sources(function.spec))
    if text is not None:
        sentence = printable(f"{text[0].upper()}{text[1:]}.")
        console.print(Text(sentence, style="yellow"), soft_wrap=True)


def _compare_with_stored(lines: Sequence[Line], scores: Sequence[Score], console: Console) -> None:
    pairs = [
        (line.stored_reward, result.aggregate_reward_score)
        for line, result in zip(lines, scores, strict=True)
        if line.stored_reward is not None and result.aggregate_reward_score is not None
    ]
    if pairs:
        differences = sum(abs(stored - score) > 1e-6 for stored, score in pairs)
        mean = fmean(stored for stored, _ in pairs)
        console.print(
            f"Stored rewards of the same completions: mean {number(mean)}; {differences} of {len(pairs)} differ",
            highlight=False,
        )
