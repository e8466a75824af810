"""The table of data formats: an entry says which files belong to a source and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rft_api import invocation_prompts, openai_chat
from rft_api.invocation_log import InvocationLogReport
from rft_api.model import Location
from rft_api.prompts import Check, Conversation, Prompt, no_check
from rft_api.sources import DataSource, FormatName, Source, WarmupSource

FileFilter = Callable[[str], bool]
"""Returns whether a file is read, from its name relative to the address of the source. Equal filters choose the same
files."""


def _no_problems(source: Source) -> Iterator[tuple[Location, str]]:
    return iter(())


@dataclass(frozen=True)
class DataFormat:
    """A format of data."""

    name: FormatName
    """Its name in manifests."""
    description: str
    """A short description for users."""
    read_prompts: Callable[[DataSource, list[str], Check], tuple[list[Prompt], InvocationLogReport | None]]
    """Reads the prompts of a source whose address is a path; returns them with a report, where the format has one.

    What is wrong is appended to the list, each as FILE:LINE: REASON. The check looks at the messages of each prompt.
    """
    read_conversations: Callable[
        [WarmupSource, list[str], Check], tuple[list[Conversation], InvocationLogReport | None]
    ]
    """Reads the conversations of a source of warm-up data, in the same way; a row with several answers is several."""
    files: Callable[[Source], FileFilter] | None = None
    """Which files of a folder, or of a prefix in an object store, are read; None for formats of a single file."""
    option_problems: Callable[[Source], Iterator[tuple[Location, str]]] = _no_problems
    """Checks the options of a source beyond their schema; yields the place of each problem in the source, and its
    message."""


FORMATS: Mapping[str, DataFormat] = {
    entry.name: entry
    for entry in (
        DataFormat(
            name="OpenAIChat",
            description="rows in OpenAI chat format, as JSON or in tables",
            read_prompts=openai_chat.read_prompts,
            read_conversations=openai_chat.read_conversations,
            files=openai_chat.files,
        ),
        DataFormat(
            name="BedrockInvocationLog",
            description="Amazon Bedrock's model invocation logs",
            read_prompts=invocation_prompts.read_prompts,
            read_conversations=invocation_prompts.read_conversations,
            files=invocation_prompts.files,
            option_problems=invocation_prompts.option_problems,
        ),
    )
}


def read_prompts(
    source: DataSource, problems: list[str], check: Check = no_check
) -> tuple[list[Prompt], InvocationLogReport | None]:
    """Return the prompts of a source in its format; see `DataFormat.read_prompts`."""
    return FORMATS[source.format].read_prompts(source, problems, check)


def read_conversations(
    source: WarmupSource, problems: list[str], check: Check = no_check
) -> tuple[list[Conversation], InvocationLogReport | None]:
    """Return the conversations of a source in its format; see `DataFormat.read_conversations`."""
    return FORMATS[source.format].read_conversations(source, problems, check)


def file_filter(source: Source) -> FileFilter:
    """Return which files at or below the address of a source are read."""
    files = FORMATS[source.format].files
    return files(source) if files is not None else every_file


def every_file(name: str) -> bool:
    """Return True: every file is read."""
    return True
