"""Logs of conversations, which train the next model: assembly, record, spool, stores, uploads, conversations."""

from rft_gateway.logs.assembly import Assembly
from rft_gateway.logs.conversations import Conversations
from rft_gateway.logs.record import Conversation, LineTooLarge, line, redacted, timestamp
from rft_gateway.logs.spool import Spool, SpoolError
from rft_gateway.logs.stores import Stores

__all__ = [
    "Assembly",
    "Conversation",
    "Conversations",
    "LineTooLarge",
    "Spool",
    "SpoolError",
    "Stores",
    "line",
    "redacted",
    "timestamp",
]
