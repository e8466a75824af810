"""Draw the curves of a run as one figure, in SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rft_api.component_names import MOST_RECORDED_NAMES, component_name
from rft_api.files import atomic_file
from rft_api.foreign.text import one_line
from rft_api.metrics import TrainMetrics, ValidationMetrics, WarmupMetrics
from rft_api.summary import Summary
from rft_cli.history import History

# The palette of Okabe and Ito, whose colours colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222",
)  # fmt: skip
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#8a8a8a"

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#444444",
    "axes.edgecolor": "#bbbbbb",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.75,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # names are names: "$\\x$" would be a formula, and an exception
    "svg.hashsalt": "rft",  # With a fixed salt, the same run gives the same file.
}

MetricsT = TypeVar("MetricsT", TrainMetrics, WarmupMetrics)

_LARGEST = 1e300
"""Largest number that can be drawn: the axis is somewhat longer, and computed with floats."""
SMOOTHING_STEPS = 20
"""Curves with more points than this get a smoothed line over the noisy one."""


class TooLarge(ValueError):
    """A number cannot be drawn; the message names the step and the field."""


def draw_curves(history: History, target: Path, title: str, summary: Summary | None, kind: str) -> list[Path]:
    """Draw all curves to `target`.svg and `target`.png, and return both paths.

    `kind` says what completions of validation prompts are: greedy or sampled.

    Raises:
        TooLarge: when a number cannot be drawn. Then nothing is written.
        OSError: when the files cannot be written.
    """
    lines: list[TrainMetrics | WarmupMetrics | ValidationMetrics] = [
        *history.warmup.values(), *history.steps, *history.validations,
    ]  # fmt: skip
    for step in lines:
        _check_numbers(f"step {step.step}", step.model_dump(by_alias=True))
    panels: list[Callable[[Axes, History, Summary | None], None]] = [
        partial(_reward, kind), _components, _episode_length, _gradient_norm, _advantages, _entropy, _ratios, _seconds,
    ]  # fmt: skip
    if history.warmup:
        panels = [_loss, _warmup_gradient_norm]
    rows = len(panels) // 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.25 * rows), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        axes = figure.subplots(rows, 2, sharex="all").flat
        for axis, panel in zip(axes, panels, strict=True):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)
            panel(axis, history, summary)
        files = [target.with_name(target.name + suffix) for suffix in (".svg", ".png")]
        with atomic_file(files[0]) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
        with atomic_file(files[1]) as file:
            figure.savefig(file, format="png", dpi=110)
        return files


def _check_numbers(place: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _check_numbers(f"{place}: {one_line(name)}", part)
    elif isinstance(value, float) and abs(value) > _LARGEST:
        raise TooLarge(f"{place} is {value:g}, which is more than {_LARGEST:g}")


def _plot(axis: Axes, steps: Sequence[MetricsT], pick: Callable[[MetricsT], float | None], **style: str) -> None:
    """Draw the curve of a training metric; a long curve is drawn faintly, under its moving average."""
    points = [(step.step, value) for step in steps if (value := pick(step)) is not None]
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    # A line with a single point would be invisible.
    mark = "o" if len(points) == 1 else ""
    if len(points) <= SMOOTHING_STEPS:
        axis.plot(xs, ys, marker=mark, **style)  # type: ignore[arg-type]
        return
    axis.plot(xs, ys, color=style["color"], alpha=0.25, linewidth=1)
    axis.plot(xs, _moving_average(ys), **style)  # type: ignore[arg-type]


def _moving_average(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over about a tenth of the values."""
    half = max(1, len(values) // 20)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best")


def _reward(kind: str, axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Reward")
    axis.set_ylabel("mean reward")
    _plot(axis, history.steps, lambda step: step.reward, color=BLUE, label="training (sampled)")
    points = [(v.step, v.reward) for v in history.validations if v.reward is not None]
    if points:
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, color=VERMILION, marker="o", markersize=4, label=f"validation ({kind})")
        if summary is not None:
            best_points = [(x, y) for x, y in points if x == summary.best_step]
            for x, y in best_points:
                axis.plot(x, y, "o", markersize=11, fillstyle="none", color=VERMILION, label=f"exported: step {x}")
    shadows = sorted({name for v in history.validations for name in v.shadows})
    for index, name in enumerate(shadows):
        rewards = [(v.step, v.shadows[name].reward) for v in history.validations if name in v.shadows]
        shadow_points = [(step, value) for step, value in rewards if value is not None]
        if shadow_points:
            xs, ys = zip(*shadow_points, strict=True)
            # The first two colours belong to the curves of the reward.
            colour = CYCLE[2 + index % (len(CYCLE) - 2)]
            axis.plot(
                xs, ys, color=colour, linestyle=":", marker="s", markersize=3, label=f"shadow {_label(name)} ({kind})"
            )
    _legend(axis)


def _loss(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Loss")
    axis.set_ylabel("nats per token of an answer")
    _plot(axis, history.warmup_steps, lambda step: step.loss, color=BLUE, label="training")
    points = [(step.step, step.validation_loss) for step in history.warmup_steps if step.validation_loss is not None]
    if summary is not None and summary.loss is not None:
        points.insert(0, (0, summary.loss.base))
    if points:
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, color=VERMILION, marker="o", markersize=4, label="validation")
    _legend(axis)


def _warmup_gradient_norm(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Gradient norm")
    axis.set_ylabel("norm before clipping")
    _plot(axis, history.warmup_steps, lambda step: step.gradient_norm, color=BLUE)


def _label(name: str) -> str:
    """Return the name of a component as a legend shows it, which leaves out names that begin with an underscore."""
    shown = component_name(name)
    return f" {shown}" if shown.startswith("_") else shown


def _components(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Reward components (training)")
    axis.set_ylabel("mean")
    names = sorted({name for step in history.steps for name in step.components})[:MOST_RECORDED_NAMES]
    for index, name in enumerate(names):
        # When there are more components than colours, dashes distinguish curves of the same colour.
        line = "-" if index < len(CYCLE) else "--"
        colour = CYCLE[index % len(CYCLE)]
        shown = _label(name)
        _plot(axis, history.steps, lambda s, n=name: s.components.get(n), color=colour, linestyle=line, label=shown)  # type: ignore[misc]
    if not names:
        _write_note(axis, "this reward reports no components")
    _legend(axis)


def _episode_length(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Episode length")
    axis.set_ylabel("mean completion tokens")
    _plot(axis, history.steps, lambda step: step.episode_length, color=BLUE, label="training")
    if history.validations:
        xs = [v.step for v in history.validations]
        ys = [v.episode_length for v in history.validations]
        axis.plot(xs, ys, color=VERMILION, marker="o", markersize=4, label="validation")
    axis.set_ylim(bottom=0)
    _legend(axis)


def _gradient_norm(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Gradient norm")
    axis.set_ylabel("L2 norm before clipping")
    _plot(axis, history.steps, lambda step: step.gradient_norm, color=BLUE)
    axis.set_ylim(bottom=0)


def _advantages(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Advantages")
    axis.set_ylabel("over the step's completions")
    _plot(axis, history.steps, lambda step: step.advantage_std, color=BLUE, label="standard deviation")
    _plot(axis, history.steps, lambda step: step.advantage_abs_mean, color=VERMILION, label="mean absolute value")
    axis.set_ylim(bottom=0)
    _legend(axis)


def _entropy(axis: Axes, history: History, summary: Summary | None) -> None:
    divergence = any(step.kl_divergence is not None for step in history.steps)
    axis.set_title("Policy entropy and KL divergence" if divergence else "Policy entropy")
    axis.set_ylabel("nats per token")
    _plot(axis, history.steps, lambda step: step.policy_entropy, color=BLUE, label="entropy")
    if divergence:
        _plot(axis, history.steps, lambda step: step.kl_divergence, color=VERMILION, label="KL from the starting model")
        _legend(axis)
    axis.set_ylim(bottom=0)


def _ratios(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Groups and completions that teach little")
    axis.set_ylabel("share")
    _plot(
        axis,
        history.steps,
        lambda step: step.zero_variance_group_ratio,
        color=BLUE,
        label="groups with equal rewards (zero variance)",
    )
    _plot(
        axis,
        history.steps,
        lambda step: step.clipped_completion_ratio,
        color=VERMILION,
        label="completions cut at the token limit (clipped)",
    )
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _legend(axis)


def _seconds(axis: Axes, history: History, summary: Summary | None) -> None:
    axis.set_title("Step time by phase")
    axis.set_ylabel("seconds")
    steps = history.steps
    if steps:
        axis.stackplot(
            [step.step for step in steps],
            [step.generate_seconds for step in steps],
            [step.reward_seconds for step in steps],
            [step.update_seconds for step in steps],
            labels=["generate", "reward", "update"],
            colors=[SKY, ORANGE, GREEN],
            alpha=0.9,
            step="mid" if len(steps) <= SMOOTHING_STEPS else None,
        )
        axis.set_ylim(bottom=0)
        _legend(axis)
    else:
        _write_note(axis, "no training step yet")


def _write_note(axis: Axes, message: str) -> None:
    axis.text(0.5, 0.5, message, transform=axis.transAxes, ha="center", va="center", color=GREY)
