"""Print what a ledger contains, as a table or as CSV: the program behind `rft usage`."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TextIO

from sqlalchemy.exc import DBAPIError

from rft_api.exit_codes import ExitCode
from rft_gateway.ledger.database import LedgerError, check_version, connect, describe, name_of
from rft_gateway.ledger.totals import GROUPS, Total, TotalsQuery, read_totals
from rft_gateway.settings import LEDGER_VARIABLE

_DAY = 86_400
_NUMBERS: dict[str, Callable[[Total], str]] = {
    "requests": lambda total: str(total.requests),
    "prompt_tokens": lambda total: str(total.prompt_tokens),
    "cached_tokens": lambda total: str(total.cached_tokens),
    "completion_tokens": lambda total: str(total.completion_tokens),
    "cost": lambda total: f"{total.cost.normalize():f}",
}


def main(arguments: Sequence[str] | None = None, output: TextIO = sys.stdout) -> int:
    """Print the report, and return the exit code."""
    options = _parser().parse_args(arguments)
    if "key" in options.by and not options.namespace:
        options.by.append("namespace")  # Keys of two namespaces may have the same name.
    address = options.ledger or os.environ.get(LEDGER_VARIABLE)
    try:
        if not address:
            raise LedgerError(f"name the ledger: its file, or set {LEDGER_VARIABLE} to its URL")
        totals = _read(address, options)
    except LedgerError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION_INVALID
    columns = [name for name in ("day", *GROUPS) if name in options.by]
    rows = [[*_names(total, columns), *(number(total) for number in _NUMBERS.values())] for total in totals]
    if options.csv:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerows([[*columns, *_NUMBERS], *rows])
    else:
        everything = Total(0, None, None, None)
        for total in totals:
            everything = everything.plus(total)
        sums = [number(everything) for number in _NUMBERS.values()]
        label = ["total", *[""] * (len(columns) - 1)] if columns else []
        output.write(_table([*columns, *(name.replace("_", " ") for name in _NUMBERS)], rows, [*label, *sums]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rft usage", description="Print what was used through the gateway.")
    help_ = f"file of the ledger, or URL of PostgreSQL; by default what {LEDGER_VARIABLE} says"
    parser.add_argument("ledger", nargs="?", help=help_)
    by = "of day,namespace,key,model; key brings namespace, unless --namespace names one; none: ''"
    parser.add_argument("--by", type=_groups, default="key,model", help=by)
    month = datetime.now(UTC).date().replace(day=1)
    parser.add_argument("--since", type=date.fromisoformat, default=month, help="first day (UTC): the month's first")
    parser.add_argument("--until", type=date.fromisoformat, default=date.max, help="last day (UTC)")
    parser.add_argument("--namespace", help="count this namespace only")
    parser.add_argument("--csv", action="store_true", help="print CSV, without the sum")
    return parser


def _groups(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ("day", *GROUPS):
            raise argparse.ArgumentTypeError(f"{name!r} is none of day, {', '.join(GROUPS)}")
    return names


def _read(address: str, options: argparse.Namespace) -> list[Total]:
    engine = connect(address, must_exist=True)
    start = datetime.combine(options.since, datetime.min.time(), UTC)
    end = datetime.combine(min(options.until, date.max - timedelta(1)), datetime.min.time(), UTC) + timedelta(1)
    try:
        with engine.connect() as connection:
            check_version(connection)
            bucket_seconds = _DAY if "day" in options.by else None
            only = {"namespace": [options.namespace]} if options.namespace else {}
            return read_totals(connection, TotalsQuery(start, end, options.by, bucket_seconds, only))
    except DBAPIError as error:
        raise LedgerError(f"{name_of(engine)}: cannot be read as a ledger: {describe(error)}") from error
    finally:
        engine.dispose()


def _names(total: Total, columns: Sequence[str]) -> list[str]:
    day = datetime.fromtimestamp(total.time, UTC).date().isoformat()
    return [day if column == "day" else getattr(total, column) for column in columns]


def _table(head: list[str], rows: list[list[str]], sums: list[str]) -> str:
    lines = [head, *rows, sums]
    widths = [max(len(line[number]) for line in lines) for number in range(len(head))]
    names = len(head) - len(_NUMBERS)
    texts = [
        "  ".join(
            cell.ljust(width) if number < names else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
