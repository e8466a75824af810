"""From a RewardFunction manifest to the settings of a server: everything that is wrong shows before anything starts."""

from __future__ import annotations

import re
import symtable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft_api.manifests import ManifestErrors, load_manifests
from rft_api.quantities import duration_seconds, quantity_value
from rft_api.reward_function import CombineTerm, Grader, RewardFunction

if TYPE_CHECKING:
    from rft_reward.pool import PoolSettings

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


def pool_settings(function: RewardFunction, hidden_file: Path | None) -> PoolSettings:
    """The settings of the pool that computes a checked function."""
    from rft_reward.pool import PoolSettings
    from rft_reward.worker_process import WorkerSettings

    spec = function.spec
    combined = None
    terms: list[Grader] = [spec]
    if spec.combine is not None:
        terms = list(spec.combine.terms)
        combined = ([t.name for t in spec.combine.terms], [float(t.weight) for t in spec.combine.terms])
    return PoolSettings(
        worker=WorkerSettings(
            terms=[_worker_term(term) for term in terms],
            function_name=function.metadata.name,
            memory=spec.sandbox.memory,
            memory_bytes=int(quantity_value(spec.sandbox.memory)),
            needs_libraries=any(term.builtin is not None for term in terms),
            hidden_file=None if hidden_file is None else str(hidden_file.resolve()),
        ),
        workers=spec.sandbox.processes,
        timeout=spec.timeout,
        timeout_seconds=float(duration_seconds(spec.timeout)),
        combined=combined,
    )


def _worker_term(term: Grader) -> dict[str, Any]:
    if term.python is not None:
        # A handler's file shows in its error messages; terms are told apart by it.
        module = f"reward_{term.name.replace('-', '_')}" if isinstance(term, CombineTerm) else "reward"
        return {"python": {"source": term.python.source, "handler": term.python.handler}, "module": module}
    assert term.builtin is not None
    return {"builtin": term.builtin.to_json_object()}


def _problems(function: RewardFunction) -> list[str]:
    spec = function.spec
    problems = []
    if duration_seconds(spec.timeout) < 1:
        problems.append("spec.timeout: must be at least 1s")
    if quantity_value(spec.sandbox.memory) < _LEAST_MEMORY:
        problems.append("spec.sandbox.memory: must be at least 16Mi")
    if spec.combine is None:
        return problems + _grader_problems(spec, "spec")
    for number, term in enumerate(spec.combine.terms):
        problems += _grader_problems(term, f"spec.combine.terms[{number}]")
    return problems


def _grader_problems(grader: Grader, path: str) -> list[str]:
    for name, value in (
        ("judge", grader.judge),
        ("lambda", grader.lambda_),
        ("http", grader.http),
        ("openai", grader.openai),
    ):
        if value is not None:
            return [f"{path}.{name}: this version of the reward server computes python, builtin and combine only"]
    if grader.python is not None:
        if grader.python.source is None:
            return [f"{path}.python.sourceFrom: must have been replaced by source before the server starts"]
        return _source_problems(grader.python.source, grader.python.handler, f"{path}.python")
    builtin = grader.builtin
    assert builtin is not None  # exactly one is set
    problems = []
    for name, options in (("exactMatch", builtin.exact_match), ("format", builtin.format)):
        pattern = options.pattern if options is not None else None
        if pattern is not None:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                problems.append(f"{path}.builtin.{name}.pattern: is not a regular expression: {error}")
    if builtin.json_ is not None and builtin.json_.json_schema is not None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(builtin.json_.json_schema)
        except SchemaError as error:
            problems.append(f"{path}.builtin.json.jsonSchema: {error.json_path}: {error.message}")
    return problems


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
