"""Checks what a RewardFunction needs on the machine that scores: credentials in the environment, and files to read."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from rft_api.model import Location, Violation
from rft_api.remote_graders import models
from rft_api.reward_function import Grader, RewardFunctionSpec

_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")


def environment_problems(spec: RewardFunctionSpec, environment: Mapping[str, str]) -> Iterator[Violation]:
    """Yield the problems of this machine: what the function needs and the machine does not have.

    Args:
        spec: the spec of the function.
        environment: environment variables of the reward server.
    """
    for number, path in enumerate(spec.sandbox.readable):
        if not Path(path).exists():
            message = f"{path} does not exist: mount it with spec.pod.volumeMounts"
            yield Violation(message, ("spec", "sandbox", "readable", number))
    for location, grader in spec.graders():
        yield from _credential_problems(grader, location, environment)


def header_value(environment: Mapping[str, str], key: str) -> str:
    """Return a credential that is sent in a header, without the line break at the end of Secrets that are made from
    files."""
    return environment[key].strip()


def _credential_problems(grader: Grader, location: Location, environment: Mapping[str, str]) -> Iterator[Violation]:
    sent: dict[Location, str] = {}
    certificates: dict[Location, str] = {}
    for fields, model in models(grader):
        place = (*location, *fields)
        sent |= {(*place, "tokenKey"): model.token_key} if model.token_key else {}
        certificates |= {(*place, "caKey"): model.ca_key} if model.ca_key else {}
    if grader.http is not None:
        http, place = grader.http, (*location, "http")
        sent |= {(*place, "tokenKey"): http.token_key} if http.token_key else {}
        certificates |= {(*place, "caKey"): http.ca_key} if http.ca_key else {}
        sent |= {(*place, "headers", name): key for name, key in http.headers.items()}
    for place, key in {**sent, **certificates}.items():
        if key not in environment:
            message = (
                f"there is no variable {key}: add it to the Secret that spec.credentials names, "
                "or to the environment on your own machine"
            )
            yield Violation(message, place)
    for place, key in sent.items():
        if key in environment and not _HEADER_VALUE.fullmatch(header_value(environment, key)):
            yield Violation(f"{key} is empty, or holds characters that a header cannot carry", place)
    for place, key in certificates.items():
        if key in environment:
            try:
                ssl.create_default_context(cadata=environment[key])
            except (ssl.SSLError, ValueError) as error:
                yield Violation(f"{key} holds no certificate in PEM: {error}", place)
