"""Checks of a RewardFunction that its types cannot make: whether its code is Python, and its JSON Schemas are valid.

The command line and the reward server make them whenever they read manifests. The operator does not, because it never
compiles code of users. Its conditions report what the reward server has refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rft_api.builtin_table import options_key
from rft_api.model import Location, Violation
from rft_api.openai_grader import PythonScript, grader_parts
from rft_api.python_source import source_problem
from rft_api.reward_function import Grader, PythonReward, RewardFunction

Document = tuple[str, str]
"""Kind and name of the document that has a problem: the function, or a ConfigMap that holds its code."""


def reward_problems(
    function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Document, Violation]]:
    """The problems of a function, and of the code that it reads from those ConfigMaps that are given."""
    document = ("RewardFunction", function.metadata.name)
    for location, grader in function.spec.graders():
        if grader.python is not None:
            yield from _python_problems(document, location, grader.python, config_maps)
        for violation in _grader_problems(grader):
            yield document, replace(violation, location=(*location, *violation.location))


def _python_problems(
    document: Document, location: Location, python: PythonReward, config_maps: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Document, Violation]]:
    source, place = python.source, (*location, "python", "source")
    if python.source_from is not None:
        reference = python.source_from.config_map
        source = config_maps.get(reference.name, {}).get(reference.key)
        document, place = ("ConfigMap", reference.name), ("data", reference.key)
    # A missing ConfigMap is reported by those who need the code.
    problem = source_problem(source, python.function, "; set handler to one of them") if source else None
    if problem is not None:
        yield document, replace(problem, location=place)


def _grader_problems(grader: Grader) -> Iterator[Violation]:
    if grader.builtin is not None:
        key = options_key(grader.builtin.name)
        for violation in grader.builtin.options.problems():
            yield replace(violation, location=("builtin", key, *violation.location))
    if grader.openai is not None:
        for location, part in grader_parts(grader.openai.grader):
            problem = source_problem(part.source, "grade") if isinstance(part, PythonScript) else None
            if problem is not None:
                yield replace(problem, location=("openai", "grader", *location, "source"))
