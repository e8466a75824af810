"""`rft rewards init --from-file grader.json`: the spec of a reward whose grader is in OpenAI's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rft_api.exact_json import parse_row
from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Json
from rft_api.requirements import imported_packages

_PLACES = (("method", "reinforcement", "grader"), ("reinforcement", "grader"), ("grader",), ())
"""Where a file has its grader: in the request of a fine-tuning job, in its method, in a request to run it, or alone."""


def grader_spec(file: Path, content: str) -> dict[str, Any]:
    """Return the spec of a RewardFunction with the grader of a file.

    Args:
        file: the file, for messages.
        content: a grader as JSON, or the request of a fine-tuning job with one.

    Raises:
        RunError: CONFIGURATION_INVALID when the file holds no grader.
    """
    try:
        document = parse_row(content.encode())
    except ValueError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {error}") from None
    grader = next((inner for place in _PLACES if (inner := _at(document, place)) is not None), None)
    if not isinstance(grader, dict) or not isinstance(grader.get("type"), str):
        message = f"{file}: holds no grader, which is an object with a type, nor the request of a job with one"
        raise RunError(ExitCode.CONFIGURATION_INVALID, message)
    if grader["type"] == "lambda":  # of Amazon Bedrock's jobs in the form of OpenAI's
        return {"lambda": {"functionArn": _at(grader, ("lambda", "function"))}}
    packages = imported_packages(part["source"] for part in _parts(grader) if isinstance(part.get("source"), str))
    models = [part["model"] for part in _parts(grader) if isinstance(part.get("model"), str)]
    spec: dict[str, Any] = {"openai": {**({"requirements": packages} if packages else {}), "grader": grader}}
    if models:
        model = {"url": "https://api.openai.com/v1", "name": models[0], "tokenKey": "OPENAI_API_KEY"}
        spec["openai"]["model"] = model
        spec |= {"credentials": {"secretName": "openai"}, "egress": [{"cidr": "0.0.0.0/0"}], "timeout": "5m"}
    return spec


def _at(document: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _parts(grader: Json) -> Iterator[Json]:
    """Yield the grader, and those of which it is made."""
    yield grader
    graders = grader.get("graders")
    inner = list(graders.values()) if isinstance(graders, dict) else graders if isinstance(graders, list) else []
    yield from (part for part in inner if isinstance(part, dict))
