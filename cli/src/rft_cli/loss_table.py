"""The table of the loss before and after a job that is its warm-up alone."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.summary import LossComparison
from rft_cli.texts import number, signed


def print_losses(loss: LossComparison, console: Console) -> None:
    """Print the loss of both models, its change with the interval, and what that means."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{loss.conversations} validation conversations", overflow="fold")
    for column in ("base", "tuned", "difference"):
        table.add_column(column, justify="right")
    change, low, high = (signed(value) for value in (loss.change.mean, loss.change.low, loss.change.high))
    table.add_row("loss", number(loss.base), number(loss.tuned), f"{change}  [{low} … {high}]", style="bold")
    console.print(table)
    console.print(
        Text(
            f"Mean negative log-probability, in nats, of the {loss.tokens} tokens of their answers; lower is better. "
            f"In brackets: {loss.change.confidence:.0%} interval of the change (paired bootstrap over conversations).",
            style="dim",
        )
    )
    if loss.change.low <= 0 <= loss.change.high:
        console.print(Text("The interval includes 0: this change may be chance.", style="yellow"))
    elif loss.change.low > 0:
        console.print(Text("The tuned model predicts these answers worse than the base model.", style="yellow"))
