"""The credentials that remote graders name: variables of the server's environment, from a Secret in a cluster."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping

from rft_api.remote_graders import models
from rft_api.reward_function import Grader

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
_OURS = {"content-length", "content-type", "host", "transfer-encoding"}


def header_value(environment: Mapping[str, str], key: str) -> str:
    """A credential that is sent in a header; Secrets made from files end with a new line."""
    return environment[key].strip()


def problems(grader: Grader, path: str, environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the credentials that a grader names."""
    sent: dict[str, str] = {}
    certificates: dict[str, str] = {}
    for kind, model in models(grader):
        place = f"{path}.{kind}.model"
        sent |= {f"{place}.tokenKey": model.token_key} if model.token_key else {}
        certificates |= {f"{place}.caKey": model.ca_key} if model.ca_key else {}
    if grader.http is not None:
        http, place = grader.http, f"{path}.http"
        sent |= {f"{place}.tokenKey": http.token_key} if http.token_key else {}
        certificates |= {f"{place}.caKey": http.ca_key} if http.ca_key else {}
        for name, key in http.headers.items():
            sent[f"{place}.headers.{name}"] = key
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS:
                yield f"{place}.headers.{name}: is not a header that can be set"
    for place, key in {**sent, **certificates}.items():
        if key not in environment:
            yield (
                f"{place}: there is no variable {key}: add it to the Secret that spec.credentials names, "
                "or to the environment on your own machine"
            )
    for place, key in sent.items():
        if key in environment and not _HEADER_VALUE.fullmatch(header_value(environment, key)):
            yield f"{place}: {key} is empty, or holds characters that a header cannot carry"
    for place, key in certificates.items():
        if key in environment:
            try:
                ssl.create_default_context(cadata=environment[key])
            except (ssl.SSLError, ValueError) as error:
                yield f"{place}: {key} holds no certificate in PEM: {error}"
