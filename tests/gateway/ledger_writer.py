"""Write entries to a ledger from several tasks, and print the id of each when it is durable; a signal ends it."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import UTC, datetime

from rft_gateway.ledger import Entry, Ledger, Outcome, make_id

TASKS = 20


async def write_on(ledger: Ledger, name: str) -> None:
    for number in itertools.count(1):
        now = datetime.now(UTC)
        entry = Entry(make_id(now), now, "team", name, "m", "b", number, 0, 1, 0.0, 0.1, 200, Outcome.ANSWERED)
        await ledger.write(entry)
        os.write(1, f"{entry.id} {number}\n".encode())
        # as a client may ask again, whose answer was lost
        await ledger.write(entry)


async def main(address: str) -> None:
    ledger = Ledger(address)
    await ledger.prepare()
    await asyncio.gather(*(write_on(ledger, f"key-{number}") for number in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
