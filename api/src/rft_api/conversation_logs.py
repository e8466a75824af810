"""Which conversations the gateway keeps of a model, and where: in the format of Amazon Bedrock's invocation logs."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from rft_api.invocation_log import Redaction
from rft_api.model import Model
from rft_api.quantities import Between, Decimal
from rft_api.resource import SecretReference

CREDENTIALS_LABEL: Final = "rft.dev/gateway-logs"
"""Label of Secrets with which gateways may write logs; its value is "true". Gateways read no others for that."""
FEEDBACK_FOLDER: Final = "rft-feedback"
"""Folder below the address of a log that has what people have said about its answers."""
LogAddress = Annotated[str, Field(max_length=1024, pattern=r"^(s3://[^/\s]+(/\S*)?|/.*)$")]
"""s3://BUCKET/PREFIX, or the absolute path of a folder of the gateway's machine."""


class ConversationLogs(Model):
    """The log of a model's conversations."""

    uri: LogAddress
    """Address that conversations are stored below, as s3://BUCKET/PREFIX, or, on one machine, a folder."""
    fraction: Annotated[Decimal, Between("0", "1")] = 1.0
    """Share of the conversations that is kept, from "0" to "1". Whether a conversation is kept depends on the id of its
    request."""
    redact: Redaction | None = None
    """Text that is replaced before anything is written."""


class EndpointLogs(ConversationLogs):
    """The log of the conversations with an endpoint's model, which gateways keep."""

    uri: Annotated[str, Field(max_length=1024, pattern=r"^s3://[^/\s]+(/\S*)?$")]
    """Address below which conversations are stored: s3://BUCKET or s3://BUCKET/PREFIX."""
    credentials: SecretReference
    """Secret with the credentials to write there. It must have the label rft.dev/gateway-logs: "true", without which no
    gateway reads it."""
