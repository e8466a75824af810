"""The list of models that the gateway answers for, as a file: `rft serve` writes it, and the gateway follows it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.conversation_logs import ConversationLogs
from rft_api.model import Model
from rft_api.price import Price

Server = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+$")]
"""Address of a vLLM server, without a path."""


class Route(Model):
    """A model, and the servers that serve it."""

    namespace: Annotated[str, Field(min_length=1)]
    """Namespace whose keys open the model."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model, as requests say it."""
    base: Annotated[str, Field(min_length=1)]
    """Name of the base model: that of an adapter, else the model's own."""
    served_model: Annotated[str, Field(min_length=1)]
    """Name of the model at its servers."""
    price: Price | None = None
    """What its tokens cost; nothing without it."""
    servers: list[Server]
    """The servers that take requests now; a server that is about to end is not among them."""
    logs: ConversationLogs | None = None
    """The log of the model's conversations. Without it, none is kept."""


class RouteList(Model):
    """The file: every model of every namespace."""

    routes: list[Route]
    """The models. A namespace has each name once."""
