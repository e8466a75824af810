"""What `rft score` says about completions that have a score and a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.text import Text

from rft_api.foreign.text import one_line
from rft_api.reward_protocol import Score

_SENTENCES = {
    "ErrorScoredZero": "scored 0 because the code raised an error (onError: Zero)",
    "MetricConverted": "have a component that is a boolean, which counts as 1 or 0",
    "MetricDropped": "have a component that was left out",
    "RatedAlone": "are the only completion of their prompt, so the judge rated them by themselves, from 1 to 5",
}


class NumberedLine(Protocol):
    """A completion of a file."""

    @property
    def number(self) -> int:
        """Number of its line in the file."""
        ...


def print_warnings(file: str, lines: Sequence[NumberedLine], scores: Sequence[Score], console: Console) -> None:
    """Print for each reason how many completions have a warning, and the first of the warnings."""
    for reason, sentence in _SENTENCES.items():
        messages = []
        for line, score in zip(lines, scores, strict=True):
            own = [warning.message for warning in score.warnings or [] if warning.reason == reason]
            messages += [(line.number, own[0])] if own else []
        if messages:
            number, message = messages[0]
            text = f"{len(messages)} of {len(scores)} {sentence}; the first: {file}:{number}: {one_line(message)}"
            console.print(Text(text, style="yellow"), soft_wrap=True)
