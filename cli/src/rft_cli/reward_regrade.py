"""`rft rewards regrade`: score the stored completions of a run with a changed reward, and say what would change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.manifests import ManifestErrors
from rft_api.model import Json
from rft_api.reward_function import RewardFunction
from rft_api.run_folder import Stage
from rft_api.trainer_config import TrainerConfig
from rft_cli.check import read_manifests
from rft_cli.regraded import (
    Choice,
    Means,
    Regraded,
    Signal,
    best_step,
    choose,
    common_means,
    count_signal,
    differ,
    group_rows,
    has_signal,
    means,
    regrade_files,
    reward_of_sources,
)
from rft_cli.report import STAGE_TITLES, Run, read_run
from rft_cli.score import load_function
from rft_cli.stage_display import shown_stage
from rft_cli.texts import last_user_message, number, shorten, signed, sparkline

ERRORS_SHOWN = 5


def regrade(path: Path, manifest: Path, name: str | None, samples: int, console: Console) -> None:
    """Score the completions of a run with the changed reward; print what would change and, as the last line, JSON.

    Args:
        path: the folder of the run.
        manifest: the file of the changed RewardFunction, or of several.
        name: the name of the RewardFunction in the file; None for all that the run uses.
        samples: how many groups that gain or lose their signal are shown.
        console: where the text is printed.

    Raises:
        ManifestErrors: when the manifest is wrong.
        RunError: when the folder holds no run or no completions, or the changed reward can score none of them.
    """
    run = read_run(path)
    functions = changed_functions(run.config, manifest, name)
    steps = _files(run.folder.rollouts)
    validations = {step: file for step, file in _files(run.folder.validation(0).parent).items() if step > 0}
    stages: list[Stage] = [stage for stage in STAGE_TITLES if run.folder.evaluation(stage).is_file()]
    rewards = reward_of_sources(run.config)
    files = {
        **dict.fromkeys(steps.values(), rewards.rollouts),
        **dict.fromkeys(validations.values(), rewards.validations),
        **dict.fromkeys((run.folder.evaluation(stage) for stage in stages), rewards.evaluations),
    }
    if not files:
        raise RunError(
            ExitCode.OUTPUT_INVALID,
            f"{path} holds no completions yet: they are in its folders rollouts, validations and evaluations",
        )
    with shown_stage() as stage:
        rows = regrade_files(files, functions, stage)
    changed = [row for file_rows in rows.values() for row in file_rows if row.changed]
    if not changed:
        names = ", ".join(functions)
        raise RunError(
            ExitCode.CONFIGURATION_INVALID, f"{path}: no stored completion is of a source with the reward {names}"
        )
    errors = [row for row in changed if row.error is not None]
    if len(errors) == len(changed):
        raise RunError(
            ExitCode.REWARD_FAILING, f"no completion could be scored by {manifest}; the first error: {errors[0].error}"
        )
    size = run.config.hyperparameters.samples_per_prompt
    groups = {step: group_rows(rows[file], size) for step, file in steps.items()}
    curve = {step: means(rows[file]) for step, file in steps.items()}
    samples_per_prompt = run.config.evaluation.samples_per_prompt
    validation_curve = {step: means(rows[file], samples_per_prompt) for step, file in validations.items()}
    evaluations = common_means({stage: rows[run.folder.evaluation(stage)] for stage in stages}, samples_per_prompt)
    signal = count_signal([group for step_groups in groups.values() for group in step_groups])
    choice = choose(run, validation_curve)
    _print_curves(curve, validation_curve, evaluations, console)
    _print_signal(signal, groups, samples, console)
    _print_choice(run, choice, validation_curve, console)
    _print_errors(errors, len(changed), console)
    console.out(
        json.dumps(
            {
                "completions": len(changed),
                "unscored": len(errors),
                "differing": sum(differ(row) for row in changed),
                "steps": [
                    {"step": step, **curve[step].to_json(), **count_signal(groups[step]).to_json()} for step in steps
                ],
                "validations": [{"step": step, **values.to_json()} for step, values in validation_curve.items()],
                "evaluations": {stage: values.to_json() for stage, values in evaluations.items()},
                **signal.to_json(),
                "exportedStep": choice.exported,
                "bestStep": choice.best,
                "exportedIsBest": None if choice.best is None else choice.exported == choice.best,
            }
        ),
        highlight=False,
    )


def changed_functions(config: TrainerConfig, manifest: Path, name: str | None) -> dict[str, RewardFunction]:
    """Return the changed RewardFunctions by the name of the run's reward that each replaces.

    They replace rewards of the same name. A run with one reward takes a single RewardFunction of any name.

    Raises:
        ManifestErrors: when the manifest is wrong.
        RunError: CONFIGURATION_INVALID when the manifest has no RewardFunction that the run uses.
    """
    rewards = reward_of_sources(config)
    used = sorted({*rewards.rollouts.values(), *rewards.validations.values(), *rewards.evaluations.values()})
    manifests, errors = read_manifests([manifest])
    if errors:
        raise ManifestErrors(errors, manifests)
    available = list(manifests.reward_functions)
    names = [candidate for candidate in available if candidate in used and name in (None, candidate)]
    if names:
        return {candidate: load_function(manifest, candidate) for candidate in names}
    if len(used) == 1 and (name is not None or len(available) == 1):
        return {used[0]: load_function(manifest, name)}
    raise RunError(
        ExitCode.CONFIGURATION_INVALID,
        f"{manifest} defines {', '.join(available) or 'no RewardFunction'}, and the run uses {', '.join(used)}; "
        f"give the changed RewardFunction the name of the reward that it replaces",
    )


def _files(folder: Path) -> dict[int, Path]:
    """Return the files `step-N.parquet` of a folder by their step, in the order of the steps."""
    files = {}
    for file in folder.glob("step-*.parquet"):
        step = file.stem.removeprefix("step-")
        if step.isdecimal():
            files[int(step)] = file
    return dict(sorted(files.items()))


def _print_curves(
    steps: Mapping[int, Means], validations: Mapping[int, Means], evaluations: Mapping[Stage, Means], console: Console
) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reward")
    for column in ("first", "last", "best at step"):
        table.add_column(column, justify="right")
    table.add_column("curve")
    for title, curve in (("training", steps), ("validation", validations)):
        for version in ("stored", "regraded"):
            values = {step: value for step, means_ in curve.items() if (value := getattr(means_, version)) is not None}
            if values:
                rewards = list(values.values())
                best = best_step(values)
                table.add_row(
                    f"{title}, {version}", number(rewards[0]), number(rewards[-1]), str(best), sparkline(rewards)
                )
    console.print(table)
    if evaluations:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("held-out prompts")
        for stage in evaluations:
            table.add_column(STAGE_TITLES[stage], justify="right")
        table.add_column("difference", justify="right")
        for version in ("stored", "regraded"):
            values_of_stages = [getattr(values, version) for values in evaluations.values()]
            first, last = values_of_stages[0], values_of_stages[-1]
            comparable = len(values_of_stages) > 1 and first is not None and last is not None
            difference = signed(last - first) if comparable else ""
            table.add_row(f"reward, {version}", *map(number, values_of_stages), difference)
        console.print(table)


def _print_signal(
    signal: Signal, groups: Mapping[int, Sequence[Sequence[Regraded]]], samples: int, console: Console
) -> None:
    if not signal.groups:
        return
    console.print(
        f"Groups with different rewards, from which training learns: {signal.stored} of {signal.groups} as stored, "
        f"{signal.regraded} as regraded; {signal.gained} gain their signal, {signal.lost} lose it.",
        highlight=False,
    )
    changed = [
        (step, group, regraded)
        for step, step_groups in groups.items()
        for group in step_groups
        for stored, regraded in [has_signal(group)]
        if stored != regraded
    ]
    for step, group, gains in changed[:samples]:
        messages: list[Json] = group[0].line.sample["messages"]
        body = Table.grid(padding=(0, 2))
        body.add_row("prompt", "", Text(shorten(last_user_message(json.dumps(messages[:-1])), 200)))
        for row in group:
            text = shorten(str(row.line.sample["messages"][-1].get("content")), 200)
            body.add_row("completion", f"{number(row.stored)} → {number(row.regraded)}", Text(text))
        title = f"step {step}: {group[0].prompt} {'gains' if gains else 'loses'} its signal"
        console.print(Panel(body, title=Text(one_line(title)), title_align="left"))


def _print_choice(run: Run, choice: Choice, validations: Mapping[int, Means], console: Console) -> None:
    if choice.best is None:
        console.print("No validation was recorded, so no checkpoint can be compared with the exported one.")
    elif choice.exported == choice.best:
        console.print(f"The exported checkpoint, step {choice.exported}, would still be the best.", highlight=False)
    else:
        of_exported = validations.get(choice.exported) if choice.exported is not None else None
        kept = "kept" if run.folder.checkpoint(choice.best).is_dir() else "not kept"
        console.print(
            Text.assemble(
                (f"The exported checkpoint, step {choice.exported}, would not be the best:", "yellow"),
                f" step {choice.best} has a validation reward of {number(validations[choice.best].regraded)} instead "
                f"of {number(of_exported.regraded if of_exported else None)}. Its checkpoint is {kept}.",
            )
        )


def _print_errors(errors: Sequence[Regraded], completions: int, console: Console) -> None:
    console.print(f"Not scored: {len(errors)} of {completions}", highlight=False)
    for row in errors[:ERRORS_SHOWN]:
        console.print(Text(f"{row.file}:{row.line.number}: {one_line(row.error or '')}", style="red"), soft_wrap=True)
