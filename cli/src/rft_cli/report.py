"""`rft report`: compare the model before and after a run with tables, sample completions and curves.

Everything is read from the run's folder.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rft_api.component_names import MOST_RECORDED_NAMES
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_document
from rft_api.foreign.text import one_line, printable
from rft_api.metrics import Gain
from rft_api.progress import format_seconds
from rft_api.run_folder import RolloutRow, RunFolder, Stage, best_address
from rft_api.summary import Evaluation, PreflightVerdict, Summary
from rft_api.tables import read_table
from rft_api.trainer_config import TrainerConfig
from rft_cli.history import History
from rft_cli.loss_table import print_losses
from rft_cli.requests import describe_completions, describe_request
from rft_cli.texts import describe_data, last_user_message, number, read_cell, short_path, shorten, signed

SAMPLES = 5
SAME_REWARD = 1e-9
STAGE_TITLES: dict[Stage, str] = {"base": "base", "warmup": "warm-up", "tuned": "tuned"}

AnyModel = TypeVar("AnyModel", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder so far."""

    folder: RunFolder
    config: TrainerConfig
    summary: Summary | None
    preflight: PreflightVerdict | None
    history: History
    address: str
    """Where the run is, for people: its folder, or the address that the folder is a copy of."""


def read_run(path: Path, address: str | None = None) -> Run:
    """Read the folder of a run, which may be unfinished.

    Args:
        path: the folder.
        address: the address that it is a copy of, if it is one.

    Raises:
        RunError: OUTPUT_INVALID when it is not the folder of a run, or when its files are damaged.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise RunError(ExitCode.OUTPUT_INVALID, f"{path}: there is no such folder")
    config = read_model(folder.config, TrainerConfig)
    if config is None:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{path} is not the output of a run: it has no {folder.config.name}")
    history = History(folder.metrics)
    history.update()
    summary = read_model(folder.summary, Summary)
    preflight = summary.preflight if summary else read_model(folder.preflight, PreflightVerdict)
    return Run(folder, config, summary, preflight, history, address or str(path))


def read_model(file: Path, model: type[AnyModel]) -> AnyModel | None:
    """Read a pydantic model from its JSON file; return None when the file does not exist.

    Raises:
        RunError: OUTPUT_INVALID when the file cannot be read, or holds something else.
    """
    try:
        return read_document(file, model)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = f"{error.errors()[0]['msg']} in {model.__name__}"
        raise RunError(ExitCode.OUTPUT_INVALID, f"{file} cannot be read: {problem}") from None
    except (OSError, ValueError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RunError(ExitCode.OUTPUT_INVALID, f"{file} cannot be read: {problem}") from None


def print_report(run: Run, console: Console, *, samples: bool = True) -> None:
    """Print the tables, the remarks and, with `samples`, sample completions."""
    console.print()
    console.print(Text(run.config.name, style="bold"), Text(f"· {one_line(short_path(run.config.model))}", style="dim"))
    if run.summary is None:
        _print_unfinished(run, console)
    else:
        _print_result(run, run.summary, console)
    for remark in _remarks(run):
        # What the files of a run say may come from anybody who can write to its folder.
        console.print(Text(printable(remark.plain), style=remark.style))
    if samples:
        _print_samples(run, console)


def _print_unfinished(run: Run, console: Console) -> None:
    steps, validations, warmup = run.history.steps, run.history.validations, run.history.warmup_steps
    console.print(
        Text.assemble(
            ("This run is not finished", "yellow"),
            ": there is no summary.json, so no before/after comparison yet.",
        )
    )
    if run.history.is_empty:
        console.print("No training step has been recorded.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("so far")
    for column in ("first", "last", "best"):
        table.add_column(column, justify="right")
    rewards = [step.reward for step in steps if step.reward is not None]
    validation_rewards = [validation.reward for validation in validations if validation.reward is not None]
    for title, values in (("training reward", rewards), ("validation reward", validation_rewards)):
        if values:
            table.add_row(title, number(values[0]), number(values[-1]), number(max(values)))
    losses = [step.loss for step in warmup if step.loss is not None]
    validation_losses = [step.validation_loss for step in warmup if step.validation_loss is not None]
    for title, values in (("loss", losses), ("validation loss", validation_losses)):
        if values:
            table.add_row(title, number(values[0]), number(values[-1]), number(min(values)))
    if steps:
        lengths = [step.episode_length for step in steps]
        table.add_row("episode length, tokens", number(lengths[0], 1), number(lengths[-1], 1), "")
    console.print(table)
    done = [*(step.step for step in steps), *(step.step for step in warmup)]
    console.print(f"Steps: {done[-1] if done else 0}")


def _print_result(run: Run, summary: Summary, console: Console) -> None:
    if summary.loss is not None:
        print_losses(summary.loss, console)
    if summary.gain is not None:
        _print_rewards(summary, summary.gain, console)
    early_stop = " (stopped early: validation no longer improved)" if summary.stopped_early else ""
    console.print(
        f"Exported: step {summary.best_step} of {summary.steps}{early_stop} → {short_path(best_address(run.address))}",
        highlight=False,
        soft_wrap=True,
    )
    times = [f"{one_line(stage)} {format_seconds(seconds)}" for stage, seconds in summary.seconds.items()]
    total = format_seconds(sum(summary.seconds.values()))
    console.print(f"Time: {total} ({', '.join(times)})", highlight=False)
    if summary.accelerator_hours:
        console.print(f"GPU hours: {summary.accelerator_hours:.2f}", highlight=False)


def _print_rewards(summary: Summary, gain_of_run: Gain, console: Console) -> None:
    """Print the table of rewards before and after."""
    stages: dict[Stage, Evaluation | None] = {"base": summary.base, "warmup": summary.warmup, "tuned": summary.tuned}
    evaluations = {stage: evaluation for stage, evaluation in stages.items() if evaluation is not None}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    title = f"{summary.prompts} {'held-out ' if summary.held_out == 'test' else 'validation '}prompts"
    table.add_column(title, overflow="fold")
    for stage in evaluations:
        table.add_column(STAGE_TITLES[stage], justify="right")
    table.add_column("difference", justify="right")

    def add(title: str, values: Sequence[float | None], digits: int = 3, style: str = "") -> None:
        first, last = values[0], values[-1]
        difference = "" if first is None or last is None else signed(last - first, digits)
        table.add_row(title, *(number(value, digits) for value in values), difference, style=style)

    # The gain, whose interval stands beside it, is that of the prompts with a reward from both models. When one of them
    # lacks some, it differs from the difference of the means.
    gain, low, high = (signed(value) for value in (gain_of_run.mean, gain_of_run.low, gain_of_run.high))
    rewards = [number(evaluation.reward) for evaluation in evaluations.values()]
    table.add_row("reward", *rewards, f"{gain}  [{low} … {high}]", style="bold")
    for component in sorted({name for e in evaluations.values() for name in e.components}):
        add(f"  {one_line(component)}", [e.components.get(component) for e in evaluations.values()])
    sources = sorted({name for e in evaluations.values() for name in e.sources})
    if len(sources) > 1:
        for source in sources:
            add(f"reward on {one_line(source)}", [e.sources.get(source) for e in evaluations.values()])
    for shadow in sorted({name for e in evaluations.values() for name in e.shadows}):
        add(f"shadow {one_line(shadow)}", [e.shadows.get(shadow) for e in evaluations.values()], style="dim")
    add("episode length, tokens", [e.episode_length for e in evaluations.values()], digits=1)
    if any(e.rewards_failed for e in evaluations.values()):
        table.add_row("completions not scored", *(str(e.rewards_failed) for e in evaluations.values()), "")
    console.print(table)
    console.print(
        Text(
            f"In brackets: {gain_of_run.confidence:.0%} interval of the gain (paired bootstrap over prompts). "
            f"{describe_completions(summary.evaluation)}",
            style="dim",
        )
    )
    if gain_of_run.low <= 0 <= gain_of_run.high:
        console.print(Text("The interval includes 0: this gain may be chance.", style="yellow"))
    if summary.held_out == "validation":
        console.print(
            Text("The checkpoint was chosen on these same prompts, so the gain flatters it.", style="yellow"),
            Text("Set spec.data.test to prompts that nothing else uses for an unbiased figure."),
        )


def _remarks(run: Run) -> Iterator[Text]:
    if run.preflight is not None and run.preflight.verdict != "Fine":
        yield Text(f"Before training: {run.preflight.verdict}: {run.preflight.message}", style="yellow")
    elif run.preflight is not None:
        yield Text(f"Before training: {run.preflight.message}")
    verdict = run.summary.reward_hacking if run.summary is not None else None
    if verdict is not None and verdict.suspected:
        yield Text(f"Reward hacking suspected: {verdict.message}", style="bold red")
    elif verdict is not None:
        yield Text(f"Reward and shadows: {verdict.message}")
    for shadow, count in _shadow_failures(run).items():
        yield Text(f"Completions that shadow {shadow} could not score: {count}", style="yellow")
    request = describe_request(run.config.sampling)
    if request is not None:
        yield Text(request)
    if run.summary is not None:
        data = run.summary.data
        yield Text(f"Data: {describe_data(data)}")
        for source, count in data.too_long.items():
            limit = run.config.hyperparameters.max_prompt_tokens
            yield Text(f"Left out of {source}: {count} prompts longer than {limit} tokens", style="yellow")
        for source, log in data.invocation_logs.items():
            yield Text(printable(f"Invocation logs of {source}: {log}"))
        if run.summary.rewards_failed:
            yield Text(f"Completions that could not be scored: {run.summary.rewards_failed}", style="yellow")
        if run.summary.components_left_out:
            yield Text(
                f"Values of components that are not recorded: {run.summary.components_left_out}, because the reward "
                f"names more than {MOST_RECORDED_NAMES} of them. Give components fixed names.",
                style="yellow",
            )


def _shadow_failures(run: Run) -> dict[str, int]:
    """Return how many completions of training and validation each shadow could not score, without shadows with none."""
    failures: Counter[str] = Counter()
    for shadows in (line.shadows for lines in (run.history.steps, run.history.validations) for line in lines):
        failures.update({name: scores.failed for name, scores in shadows.items() if scores.failed})
    return dict(failures)


@dataclass(frozen=True)
class Comparison:
    """The completions of one prompt before and after the run."""

    label: str
    """The kind of change: `most improved`, `unchanged` and so on; empty until it is chosen."""
    before: RolloutRow
    after: RolloutRow

    @property
    def change(self) -> float:
        """The reward after the run minus the reward before it."""
        return (self.after.reward or 0.0) - (self.before.reward or 0.0)


def read_rollouts(file: Path) -> list[RolloutRow]:
    """Read the rows of a file of rollouts or of an evaluation.

    Raises:
        RunError: OUTPUT_INVALID when the file is not such a file.
    """
    import pyarrow

    try:
        rows = read_table(file)
        # Components have columns of their own, and later versions may add columns.
        columns = {field.alias for field in RolloutRow.model_fields.values()}
        return [RolloutRow.model_validate({k: v for k, v in row.items() if k in columns}) for row in rows]
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"column {first['loc'][0]}: {first['msg']}" if first else str(error)
        raise RunError(ExitCode.OUTPUT_INVALID, f"{file} is not a file of rollouts: {reason}") from None


def choose_samples(before: Sequence[RolloutRow], after: Sequence[RolloutRow]) -> list[Comparison]:
    """Choose five prompts to show: the two that improved most, the one that worsened most, and unchanged ones.

    When there are too few unchanged prompts, improved and then worsened ones take their places. Apart from the
    extremes, the first prompts of each kind in the order of the data are chosen, so that the choice does not flatter
    the model. The label of each says which kind it is.
    """
    pairs = [Comparison("", row, row_after) for row, row_after in _pair_rows(before, after)]
    ranking = sorted(pairs, key=lambda pair: -pair.change)  # The sort is stable: ties keep the order of the data.
    better = [pair for pair in ranking if pair.change > SAME_REWARD]
    worse = [pair for pair in reversed(ranking) if pair.change < -SAME_REWARD]
    same = [pair for pair in pairs if abs(pair.change) <= SAME_REWARD]
    extremes = [*_label("most improved", better[:2]), *_label("most worsened", worse[:1])]
    other_better = [pair for pair in pairs if pair in better[2:]]
    other_worse = [pair for pair in pairs if pair in worse[1:]]
    rest = [*_label("unchanged", same), *_label("improved", other_better), *_label("worsened", other_worse)]
    return [*extremes, *rest[: SAMPLES - len(extremes)]]


def _label(label: str, pairs: Sequence[Comparison]) -> list[Comparison]:
    return [Comparison(label, pair.before, pair.after) for pair in pairs]


def _pair_rows(before: Sequence[RolloutRow], after: Sequence[RolloutRow]) -> Iterator[tuple[RolloutRow, RolloutRow]]:
    """Yield the rows before and after of each prompt that have rewards; repeated prompts are paired in their order."""
    rows_after: dict[tuple[str, str, str], list[RolloutRow]] = defaultdict(list)
    for row in after:
        rows_after[row.source, row.prompt, row.reference_answer].append(row)
    for row in before:
        same_prompt = rows_after[row.source, row.prompt, row.reference_answer]
        if same_prompt:
            other = same_prompt.pop(0)
            if row.reward is not None and other.reward is not None:
                yield row, other


def _print_samples(run: Run, console: Console) -> None:
    base, tuned = run.folder.evaluation("base"), run.folder.evaluation("tuned")
    if not base.exists():
        return
    before = read_rollouts(base)
    if not tuned.exists():
        # A run that ended before it trained, such as one that is NotLearnable, has these completions only.
        console.print()
        _print_samples_heading(f"{min(SAMPLES, len(before))} of {len(before)} completions of the base model", console)
        for row in before[:SAMPLES]:
            console.print(_sample_panel("base", [("completion", row, "")]))
        return
    after = read_rollouts(tuned)
    comparisons = choose_samples(before, after)
    if not comparisons:
        return
    changes = [pair.change for pair in (Comparison("", *rows) for rows in _pair_rows(before, after))]
    better, worse = sum(c > SAME_REWARD for c in changes), sum(c < -SAME_REWARD for c in changes)
    console.print()
    unchanged = len(changes) - better - worse
    kind = "prompts" if run.config.evaluation.samples_per_prompt == 1 else "pairs of completions"
    _print_samples_heading(
        f"of {len(changes)} {kind} {better} improved, {worse} worsened, {unchanged} stayed the same", console
    )
    for comparison in comparisons:
        colour = "green" if comparison.change > 0 else "red" if comparison.change < 0 else ""
        rows = [("before", comparison.before, ""), ("after", comparison.after, colour)]
        console.print(_sample_panel(comparison.label, rows))


def _print_samples_heading(text: str, console: Console) -> None:
    console.print(Text.assemble(("Samples", "bold"), f": {text}"))


def _sample_panel(label: str, rows: Sequence[tuple[str, RolloutRow, str]]) -> Panel:
    """Return a panel with a prompt, its reference answer, and completions of it with their titles and colours."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    _, first, _ = rows[0]
    reference = read_cell(first.reference_answer)
    reference_text = reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)
    grid.add_row("prompt", "", Text(shorten(last_user_message(first.prompt), 400)))
    if reference is not None:
        grid.add_row("reference", "", Text(shorten(reference_text, 200)))
    for title, row, colour in rows:
        grid.add_row(title, Text(number(row.reward, 2), style=colour), Text(shorten(row.completion, 400) or "(empty)"))
    return Panel(Group(grid), title=label, title_align="left", border_style="dim", box=box.ROUNDED)


def report(path: Path, console: Console, address: str | None = None) -> Run:
    """Print the report of a run, draw its curves to curves.svg and curves.png in its folder, and return the run.

    Args:
        path: the folder.
        console: the console.
        address: the address that the folder is a copy of, if it is one.
    """
    from rft_cli.charts import TooLarge, draw_curves

    run = read_run(path, address)
    print_report(run, console)
    if run.history.is_empty:
        return run
    kind = "sampled" if run.config.evaluation.temperature else "greedy"
    try:
        files = draw_curves(run.history, run.folder.curves, run.config.name, run.summary, kind)
    except OSError as error:  # The folder may belong to somebody else; the report is useful without the curves.
        console.print(Text(f"The curves could not be written: {error.strerror or error}", style="yellow"))
    except TooLarge as error:
        console.print(Text(f"The curves cannot be drawn: {error}", style="yellow"))
    else:
        console.print(f"Curves: {', '.join(short_path(file) for file in files)}", highlight=False, soft_wrap=True)
    return run
