"""Says that a reward is the same for different completions, why that is most likely so, and which sample shows it.

A reward that cannot tell completions apart teaches nothing. It is most often a mistake in reading the data, which no
exception reports.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from rft_api.model import Json
from rft_api.openai_grader import PythonScript, grader_parts
from rft_api.reward_function import RewardFunctionSpec

SAME = 1e-9
"""Rewards that differ by no more than this are equal."""
_SHOWN = 160
"""Maximum number of characters that are shown of a text of the sample."""
_MOST_NAMES = 5
_KEYS_OF_ROWS = {"aggregate_reward_score", "metrics_list", "name", "value", "type", "error", "explanation"}
"""Fields of the answer, which code may also read from its own rows."""


def constant_reward(
    samples: Sequence[Json], rewards: Sequence[float | None], sources: Sequence[str] = ()
) -> str | None:
    """Return what to say about a reward that is the same for different completions; None if it differs, or nothing is
    known.

    Args:
        samples: the samples, as the reward function gets them.
        rewards: the reward of each sample; None for one that could not be scored.
        sources: the Python code of the reward, as far as it is known here.
    """
    scored = [(sample, reward) for sample, reward in zip(samples, rewards, strict=True) if reward is not None]
    values = [reward for _, reward in scored]
    completions = {_text(sample["messages"][-1].get("content")) for sample, _ in scored}
    if len(scored) < 2 or len(completions) < 2 or max(values) - min(values) > SAME:
        return None
    sample, reward = scored[0]
    return (
        f"all {len(scored)} completions scored {reward:g}, although {len(completions)} of them differ. If that is not "
        f"meant, the likeliest causes are: {'; '.join(_causes(sample, sources))}. For example, {_shown(sample)} "
        f"scored {reward:g}"
    )


def python_sources(spec: RewardFunctionSpec) -> list[str]:
    """Return the Python code of all graders of a function."""
    sources = []
    for _, grader in spec.graders():
        if grader.python is not None and grader.python.source is not None:
            sources.append(grader.python.source)
        if grader.openai is not None:
            parts = grader_parts(grader.openai.grader)
            sources += [part.source for _, part in parts if isinstance(part, PythonScript)]
    return sources


def _causes(sample: Json, sources: Sequence[str]) -> Iterator[str]:
    trees = list(_parsed(sources))
    absent = sorted({key for tree in trees for key in _keys(tree)} - set(_fields(sample)) - _KEYS_OF_ROWS)
    names = f" (the code reads {', '.join(absent[:_MOST_NAMES])}, which the sample does not have)" if absent else ""
    yield f"1. a field that is not there{names}"
    lines = sorted({line for tree in trees for line in _caught(tree)})
    places = f" (the code does so in line {', '.join(map(str, lines[:_MOST_NAMES]))})" if lines else ""
    yield f"2. an exception that is caught and becomes this score{places}"
    yield f"3. a reference answer of another form than is read ({_form(sample, absent)})"


def _parsed(sources: Sequence[str]) -> Iterator[ast.AST]:
    for source in sources:
        try:
            with warnings.catch_warnings(action="ignore"):
                yield ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def _keys(tree: ast.AST) -> Iterator[str]:
    """Yield the fields that code reads: x["key"] and x.get("key"). Variables of the environment are no fields."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str() as key), ctx=ast.Load()):
                pass
            case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[ast.Constant(value=str() as key), *_]):
                pass
            case _:
                continue
        if ast.unparse(value) not in ("os.environ", "environ"):
            yield key


def _caught(tree: ast.AST) -> Iterator[int]:
    """Yield the lines where code catches an exception and does not raise it again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            yield node.lineno


def _fields(value: Any) -> Iterator[str]:
    """Yield the names of all fields of a sample, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def _form(sample: Json, absent: Sequence[str]) -> str:
    reference = _reference(sample)
    if reference is None:
        return "the sample has none"
    if isinstance(reference, str):
        advice = "; the code reads text from an object: set textReferenceAnswer: AsObject" if "text" in absent else ""
        return f"here it is a text{advice}"
    if isinstance(reference, dict):
        return f"here it is an object with {', '.join(list(reference)[:_MOST_NAMES]) or 'no fields'}"
    return f"here it is of type {type(reference).__name__}"


def _shown(sample: Json) -> str:
    completion = _shorten(_text(sample["messages"][-1].get("content")))
    reference = _shorten(json.dumps(_reference(sample), ensure_ascii=False))
    return f"the completion {json.dumps(completion, ensure_ascii=False)} with reference_answer {reference}"


def _reference(sample: Json) -> Any:
    reference = sample.get("reference_answer")
    return reference if reference is not None else (sample.get("metadata") or {}).get("reference_answer")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."
