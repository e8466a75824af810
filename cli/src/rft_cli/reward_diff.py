"""`rft rewards diff`: compare two versions of a reward on the same completions."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev, quantiles

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rft_api.constant_reward import SAME
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.model import Json
from rft_api.reward_protocol import Score
from rft_cli.score import Line, load_function, read_lines, score_lines
from rft_cli.stage_display import shown_stage
from rft_cli.texts import bars, last_user_message, number, shorten, signed

BINS = 20


@dataclass(frozen=True)
class Pair:
    """A completion that both versions have scored."""

    line: Line
    first: float
    """The score of the first version."""
    second: float
    """The score of the second version."""
    moved: float = 0.0
    """The rank by the second version minus the rank by the first, divided by the number of completions."""


@dataclass(frozen=True)
class Order:
    """How the second version changes the order of completions of the same prompt: numbers of pairs of completions."""

    pairs: int
    """All pairs."""
    flipped: int
    """Pairs of which the other completion is now the better one."""
    tied: int
    """Pairs of which one completion was better, and whose scores are now equal."""
    untied: int
    """Pairs whose scores were equal, and of which one completion is now better."""


def diff(first: Path, second: Path, completions: Path, samples: int, console: Console) -> None:
    """Score the completions with both versions, print how the scores differ and, as the last line, the result in JSON.

    Raises:
        ManifestErrors: when a manifest is wrong.
        RunError: when the file of completions is wrong, or no completion was scored by both versions.
    """
    functions = [load_function(first), load_function(second)]
    with shown_stage() as stage:
        stage.update(f"reading {completions}")
        lines = read_lines(completions)
        scores = [score_lines(function, lines, stage) for function in functions]
    pairs = pair_scores(lines, *scores)
    if not pairs:
        raise RunError(ExitCode.REWARD_FAILING, "no completion was scored by both")
    correlation = spearman([pair.first for pair in pairs], [pair.second for pair in pairs])
    order = compare_order(pairs)
    _print_distributions([str(first), str(second)], pairs, scores, console)
    _print_agreement(correlation, order, pairs, console)
    _print_samples(pairs, samples, console)
    console.out(
        json.dumps(
            {
                "completions": len(lines),
                "scoredByBoth": len(pairs),
                "unscored": [sum(score.error is not None for score in scores_of_one) for scores_of_one in scores],
                "means": [fmean(pair.first for pair in pairs), fmean(pair.second for pair in pairs)],
                "differing": sum(abs(pair.first - pair.second) > SAME for pair in pairs),
                "rankCorrelation": correlation,
                "pairs": order.pairs,
                "flipped": order.flipped,
                "tied": order.tied,
                "untied": order.untied,
            }
        ),
        highlight=False,
    )


def pair_scores(lines: Sequence[Line], first: Sequence[Score], second: Sequence[Score]) -> list[Pair]:
    """Return the completions that both versions have scored, with the change of their ranks."""
    scored = [
        (line, a.aggregate_reward_score, b.aggregate_reward_score)
        for line, a, b in zip(lines, first, second, strict=True)
        if a.aggregate_reward_score is not None and b.aggregate_reward_score is not None
    ]
    first_ranks, second_ranks = ranks([a for _, a, _ in scored]), ranks([b for _, _, b in scored])
    return [
        Pair(line, a, b, (second_rank - first_rank) / len(scored))
        for (line, a, b), first_rank, second_rank in zip(scored, first_ranks, second_ranks, strict=True)
    ]


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value in ascending order, from 1; equal values get the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] - values[order[start]] <= SAME:
            end += 1
        for place in order[start : end + 1]:
            result[place] = (start + end) / 2 + 1
        start = end + 1
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None when all values of one side are equal."""
    a, b = ranks(first), ranks(second)
    spread = pstdev(a) * pstdev(b)
    if math.isclose(spread, 0.0, abs_tol=1e-12):
        return None
    middle = (len(a) + 1) / 2
    return fmean((x - middle) * (y - middle) for x, y in zip(a, b, strict=True)) / spread


def compare_order(pairs: Sequence[Pair]) -> Order:
    """Compare the order of every two completions of the same prompt, because training uses nothing but their order."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[json.dumps(pair.line.sample["messages"][:-1], sort_keys=True)].append(pair)
    count = flipped = tied = untied = 0
    for group in groups.values():
        for one, other in combinations(group, 2):
            before, after = _sign(one.first - other.first), _sign(one.second - other.second)
            count += 1
            flipped += before * after < 0
            tied += before != 0 and after == 0
            untied += before == 0 and after != 0
    return Order(count, flipped, tied, untied)


def _sign(value: float) -> int:
    return 0 if abs(value) <= SAME else 1 if value > 0 else -1


def _print_distributions(
    names: Sequence[str], pairs: Sequence[Pair], scores: Sequence[Sequence[Score]], console: Console
) -> None:
    columns = [[pair.first for pair in pairs], [pair.second for pair in pairs]]
    low, high = min(map(min, columns)), max(map(max, columns))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{len(pairs)} completions")
    for name in ("mean", "std", "min", "25 %", "median", "75 %", "max", "not scored"):
        table.add_column(name, justify="right")
    table.add_column(f"{number(low)} … {number(high)}")
    for name, values, own in zip(names, columns, scores, strict=True):
        quartiles = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        figures = (fmean(values), pstdev(values), min(values), *quartiles, max(values))
        unscored = str(sum(score.error is not None for score in own))
        table.add_row(Text(name), *map(number, figures), unscored, bars(_histogram(values, low, high)))
    console.print(table)


def _histogram(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS)) if high > low else 0] += 1
    return counts


def _print_agreement(correlation: float | None, order: Order, pairs: Sequence[Pair], console: Console) -> None:
    differences = sum(abs(pair.first - pair.second) > SAME for pair in pairs)
    console.print(f"Scores differ for {differences} of {len(pairs)} completions.", highlight=False)
    if correlation is None:
        console.print("There is no rank correlation: one version scores all completions the same.")
    else:
        console.print(f"Rank correlation (Spearman): {number(correlation)}", highlight=False)
    if not order.pairs:
        console.print("No prompt has several completions, so there is no order to compare.")
        return
    parts = ((order.flipped, "are the other way round"), (order.tied, "became ties"), (order.untied, "were ties"))
    text = ", ".join(f"{share:.1%} {what}" for share, what in ((n / order.pairs, what) for n, what in parts))
    console.print(f"Of {order.pairs} pairs of completions of the same prompt, {text}.", highlight=False)


def _print_samples(pairs: Sequence[Pair], count: int, console: Console) -> None:
    ranking = sorted(pairs, key=lambda pair: (-abs(pair.moved), -abs(pair.second - pair.first), pair.line.number))
    samples = [pair for pair in ranking if abs(pair.moved) > SAME or abs(pair.second - pair.first) > SAME][:count]
    for pair in samples:
        messages: list[Json] = pair.line.sample["messages"]
        body = Table.grid(padding=(0, 2))
        body.add_row("prompt", Text(shorten(last_user_message(json.dumps(messages[:-1])), 300)))
        body.add_row("completion", Text(shorten(str(messages[-1].get("content")), 600)))
        body.add_row(
            "reference", Text(shorten(json.dumps(pair.line.sample["reference_answer"], ensure_ascii=False), 300))
        )
        title = (
            f"line {pair.line.number}: {number(pair.first)} → {number(pair.second)}, "
            f"moved by {signed(100 * pair.moved, 0)} % of the ranks"
        )
        console.print(Panel(body, title=Text(one_line(title)), title_align="left"))
