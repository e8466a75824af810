"""From a RewardFunction manifest to the settings of a server: everything that is wrong shows before anything starts."""

from __future__ import annotations

import os
import symtable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rft_api.manifests import ManifestErrors, format_location, load_manifests
from rft_api.openai_grader import asks_model, single_graders
from rft_api.quantities import duration_seconds, quantity_value
from rft_api.remote_graders import models
from rft_api.reward_function import CombineTerm, Grader, RewardFunction
from rft_reward.builtin_checks import builtin_problems, worker_options
from rft_reward.openai_plan import worker_plan

if TYPE_CHECKING:
    from rft_reward.scoring import ScoringSettings

_LEAST_MEMORY = 16 * 1024 * 1024


class ConfigurationError(Exception):
    """Something that the user has to change in the manifest or the arguments."""


def load_function(file: Path) -> RewardFunction:
    """Reads and checks the one RewardFunction of a file.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    try:
        functions = list(load_manifests([file]).reward_functions.values())
    except ManifestErrors as errors:
        raise ConfigurationError(str(errors)) from None
    if len(functions) != 1:
        raise ConfigurationError(f"{file}: must hold exactly one RewardFunction, holds {len(functions)}")
    problems = [f"{file}: {problem}" for problem in _problems(functions[0])]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return functions[0]


def scoring_settings(function: RewardFunction, hidden_file: Path | None) -> ScoringSettings:
    """Who scores the terms of a checked function, and how."""
    from rft_reward.pool import PoolSettings
    from rft_reward.scoring import ScoringSettings
    from rft_reward.worker_process import WorkerSettings

    spec = function.spec
    seconds = float(duration_seconds(spec.timeout))
    terms = [grader for _, grader in spec.graders()]
    in_workers = [term for term in terms if not _is_remote(term)]
    combined = None
    if spec.combine is not None:
        named = [term for term in spec.combine.terms if not _is_remote(term)]
        combined = ([term.name for term in named], [float(term.weight) for term in named])

    def workers(for_terms: list[Grader], weighted: tuple[list[str], list[float]] | None) -> PoolSettings | None:
        if not for_terms:
            return None
        return PoolSettings(
            worker=WorkerSettings(
                terms=[_worker_term(term) for term in for_terms],
                function_name=function.metadata.name,
                memory=spec.sandbox.memory,
                memory_bytes=int(quantity_value(spec.sandbox.memory)),
                needs_libraries=any(term.builtin is not None or term.openai is not None for term in for_terms),
                hidden_file=None if hidden_file is None else str(hidden_file.resolve()),
                readable=spec.sandbox.readable,
                companions=sum(term.builtin is not None and term.builtin.name == "Code" for term in for_terms),
            ),
            workers=spec.sandbox.processes,
            timeout=spec.timeout,
            timeout_seconds=seconds,
            combined=weighted,
        )

    remote = [term for term in terms if _is_remote(term)]
    # A multi grader's formula needs both at once: what a model says, and what workers compute.
    parts = [workers([term] if _has_worker_part(term) else [], None) for term in remote]
    return ScoringSettings(workers(in_workers, combined), remote, parts, seconds)


def _is_remote(term: Grader) -> bool:
    """Whether another service scores the term: the server's process asks it, as workers have no network."""
    if term.openai is not None:
        return asks_model(term.openai.grader)
    return term.judge is not None or term.lambda_ is not None or term.http is not None


def _has_worker_part(term: Grader) -> bool:
    return term.openai is not None and any(not part.asks_model for _, part in single_graders(term.openai.grader))


def _worker_term(term: Grader) -> dict[str, Any]:
    if term.python is not None:
        # A handler's file shows in its error messages; terms are told apart by it.
        module = f"reward_{term.name.replace('-', '_')}" if isinstance(term, CombineTerm) else "reward"
        return {"python": {"source": term.python.source, "handler": term.python.handler}, "module": module}
    if term.openai is not None:
        return {"openai": worker_plan(term.openai.grader)}
    assert term.builtin is not None
    return {"builtin": worker_options(term.builtin)}


def _problems(function: RewardFunction) -> list[str]:
    spec = function.spec
    problems = []
    if duration_seconds(spec.timeout) < 1:
        problems.append("spec.timeout: must be at least 1s")
    if quantity_value(spec.sandbox.memory) < _LEAST_MEMORY:
        problems.append("spec.sandbox.memory: must be at least 16Mi")
    for number, path in enumerate(spec.sandbox.readable):
        if not Path(path).exists():
            problems.append(
                f"spec.sandbox.readable[{number}]: {path} does not exist: mount it with spec.pod.volumeMounts"
            )
    for location, grader in spec.graders():
        problems += _grader_problems(grader, format_location(location), spec.timeout)
    return problems


def _grader_problems(grader: Grader, path: str, timeout: str) -> list[str]:
    if _is_remote(grader):
        return _remote_problems(grader, path)
    if grader.openai is not None:
        return []  # its schema has checked it whole
    if grader.python is not None:
        if grader.python.source is None:
            return [f"{path}.python.sourceFrom: must have been replaced by source before the server starts"]
        return _source_problems(grader.python.source, grader.python.handler, f"{path}.python")
    assert grader.builtin is not None  # exactly one is set
    return list(builtin_problems(grader.builtin, f"{path}.builtin", timeout))


def _remote_problems(grader: Grader, path: str) -> list[str]:
    from rft_reward.remote import credentials

    problems = []
    for kind, model in models(grader):
        if model.endpoint is not None:
            problems.append(f"{path}.{kind}.model.endpoint: must have been replaced by url before the server starts")
        problems += _url_problems(model.url, f"{path}.{kind}.model.url")
    if grader.http is not None:
        problems += _url_problems(grader.http.url, f"{path}.http.url")
    return [*problems, *credentials.problems(grader, path, os.environ)]


def _url_problems(url: str | None, path: str) -> list[str]:
    if url is None:
        return []
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    # Spaces, controls and the like would be refused when the first sample is sent.
    valid = valid and url.isascii() and url.isprintable() and " " not in url
    return [] if valid else [f"{path}: is not a URL"]


def _source_problems(source: str, handler: str, path: str) -> list[str]:
    try:
        table = symtable.symtable(source, "reward.py", "exec")
    except SyntaxError as error:
        place = "" if error.lineno is None else f"line {error.lineno}: "
        return [f"{path}.source: {place}{error.msg}"]
    except (ValueError, RecursionError, MemoryError) as error:
        return [f"{path}.source: cannot be compiled: {error}"]
    try:
        symbol = table.lookup(handler)
        defined = symbol.is_assigned() or symbol.is_imported()
    except KeyError:
        defined = False
    if defined:
        return []
    return [f"{path}.source: defines no function {handler}: define it, or name another in handler"]
