"""The ledger: what every request has used, in SQLite or PostgreSQL. Its modules: entry, database, writer, totals."""

from rft_gateway.ledger.database import LedgerError
from rft_gateway.ledger.entry import Entry, Outcome, Price, make_id
from rft_gateway.ledger.totals import Total, TotalsQuery
from rft_gateway.ledger.writer import Ledger

__all__ = ["Entry", "Ledger", "LedgerError", "Outcome", "Price", "Total", "TotalsQuery", "make_id"]
