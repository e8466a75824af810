"""Turns the manifest of a RewardFunction into the settings of a server, and reports all problems before it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft_api.manifests import ManifestErrors, load_manifests
from rft_api.model import Violation
from rft_api.openai_grader import PythonScript, asks_model, single_graders
from rft_api.python_source import imported_modules
from rft_api.quantities import duration_seconds, quantity_value
from rft_api.remote_graders import models
from rft_api.reward_environment import environment_problems
from rft_api.reward_function import CombineTerm, Grader, RewardFunction
from rft_reward.graders.builtin import BUILDERS
from rft_reward.openai_plan import worker_plan

if TYPE_CHECKING:
    from rft_reward.scoring import ScoringSettings


class ConfigurationError(Exception):
    """A problem that the user has to correct in the manifest or in the arguments."""


def load_function(file: Path) -> RewardFunction:
    """Read and check the only RewardFunction of a file.

    Raises:
        ConfigurationError: the file has problems; with all of them.
    """
    try:
        manifests = load_manifests([file])
    except ManifestErrors as errors:
        raise ConfigurationError(str(errors)) from None
    functions = list(manifests.reward_functions.values())
    if len(functions) != 1:
        raise ConfigurationError(f"{file}: must contain exactly one RewardFunction, but contains {len(functions)}")
    function = functions[0]
    origin = manifests.origins[function.kind, function.metadata.name]
    problems = [str(origin.error(violation)) for violation in _problems(function)]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return function


def scoring_settings(
    function: RewardFunction,
    folder: Path,
    hidden_file: Path | None,
    code: Path | None = None,
    packages: Path | None = None,
) -> ScoringSettings:
    """Return the settings for scoring with a function that has been checked.

    Args:
        function: the function.
        folder: the folder in which each worker gets one of its own.
        hidden_file: a file of the server that workers must not read.
        code: the folder with the further files of the code; None if it has none.
        packages: the folder with the packages that the code may import; None if it declares none.
    """
    from rft_reward.pool import PoolSettings
    from rft_reward.scoring import ScoringSettings
    from rft_reward.worker_process import WorkerSettings

    spec = function.spec
    seconds = float(duration_seconds(spec.timeout))
    terms = [grader for _, grader in spec.graders()]
    in_workers = [term for term in terms if not _is_remote(term)]
    folders = [str(folder) for folder in (code, packages) if folder is not None]

    def workers(for_terms: Sequence[Grader], is_part: bool = False) -> PoolSettings | None:
        if not for_terms:
            return None
        named = [] if is_part else [term for term in for_terms if isinstance(term, CombineTerm)]
        runs_code = any(map(_runs_code, for_terms))
        return PoolSettings(
            worker=WorkerSettings(
                terms=[_worker_term(term, spec.sees_groups) for term in for_terms],
                function_name=function.metadata.name,
                memory=spec.sandbox.memory,
                memory_bytes=int(quantity_value(spec.sandbox.memory)),
                needs_libraries=any(term.builtin is not None or term.openai is not None for term in for_terms),
                folder=str(folder),
                hidden_file=None if hidden_file is None else str(hidden_file.resolve()),
                readable=spec.sandbox.readable,
                runs_code=runs_code,
                code_path=folders if runs_code else [],
                code_imports=_package_imports(for_terms) if packages is not None else [],
                companions=sum(BUILDERS[t.builtin.name].processes for t in for_terms if t.builtin is not None),
            ),
            workers=spec.sandbox.processes,
            timeout=spec.timeout,
            timeout_seconds=seconds,
            combined=([term.name for term in named], [float(term.weight) for term in named]) if named else None,
            by_group=spec.sees_groups,
        )

    # Builtins need libraries of the server. The user's code must not find them, and may have other versions of them.
    pools = [
        workers([term for term in in_workers if _runs_code(term)]),
        workers([term for term in in_workers if not _runs_code(term)]),
    ]
    remote = [term for term in terms if _is_remote(term)]
    # The formula of a multi grader needs the scores of models and those of workers at the same time.
    parts = [workers([term] if _has_worker_part(term) else [], is_part=True) for term in remote]
    names = [] if spec.combine is None else [term.name for term in spec.combine.terms]
    return ScoringSettings(
        [pool for pool in pools if pool is not None], remote, parts, seconds, names, spec.sees_groups
    )


def _runs_code(term: Grader) -> bool:
    """Return whether workers run code of the user for the term."""
    return bool(_code_of(term))


def _code_of(term: Grader) -> list[str]:
    """Return the code of the user that a term runs in workers: its source, and the modules among its files."""
    if term.python is not None:
        modules = [text for name, text in (term.python.files or {}).items() if name.endswith(".py")]
        return [term.python.source or "", *modules]
    if term.openai is not None:
        return [part.source for _, part in single_graders(term.openai.grader) if isinstance(part, PythonScript)]
    return []


def _package_imports(terms: Sequence[Grader]) -> list[str]:
    """Return the modules of packages that the code of the terms imports, each once."""
    names = [item.module for term in terms for source in _code_of(term) for item in imported_modules(source)]
    return [name for name in dict.fromkeys(names) if name.partition(".")[0] not in sys.stdlib_module_names]


def _is_remote(term: Grader) -> bool:
    """Return whether another service scores the term. The server's process asks it, because workers have no network."""
    if term.openai is not None:
        return asks_model(term.openai.grader)
    return term.judge is not None or term.lambda_ is not None or term.http is not None


def _has_worker_part(term: Grader) -> bool:
    return term.openai is not None and any(not part.asks_model for _, part in single_graders(term.openai.grader))


def _worker_term(term: Grader, by_group: bool) -> dict[str, Any]:
    if term.python is not None:
        # Error messages contain the name of the module, which tells the terms apart.
        module = f"reward_{term.name.replace('-', '_')}" if isinstance(term, CombineTerm) else "reward"
        code = {
            "source": term.python.source,
            "handler": term.python.function,
            "hasFiles": bool(term.python.files),
            "zeroOnError": term.python.on_error == "Zero",
            "textInObject": term.python.text_reference_answer == "AsObject",
            "assistantRole": term.python.assistant_role,
            "byGroup": by_group,
        }
        return {"python": code, "module": module}
    if term.openai is not None:
        return {"openai": worker_plan(term.openai.grader, zero_on_error=term.openai.on_error != "Unscored")}
    assert term.builtin is not None
    return {"builtin": {"name": term.builtin.name, "options": term.builtin.options.for_grader()}}


def _problems(function: RewardFunction) -> Iterator[Violation]:
    """Yield the problems that keep this server from scoring on this machine, although the manifest is valid."""
    for location, grader in function.spec.graders():
        if grader.python is not None and grader.python.source is None:
            text = "must have been replaced by source before the server starts"
            yield Violation(text, (*location, "python", "sourceFrom"))
        for fields, model in models(grader):
            if model.endpoint is not None:
                text = "must have been replaced by url before the server starts"
                yield Violation(text, (*location, *fields, "endpoint"))
    yield from environment_problems(function.spec, os.environ)
