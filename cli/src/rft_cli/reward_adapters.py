"""The handlers that `rft rewards init` adds to reward functions of other libraries, which are called in other ways."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rft_api.model import Violation
from rft_api.python_source import Definition
from rft_cli.reward_shapes import (
    ANSWERS,
    FUNCTIONS,
    TEXTS_OF_COMPLETION,
    RewardCode,
    parameter_names,
    required_parameters,
)

_PROMPT = '"\\n".join(m["content"] for m in messages[:-1])'
_COMPLETION = 'messages[-1]["content"]'
_FIELDS_OF_LISTS = {
    "ground_truths": "ground_truth",
    "labels": "label",
    "data_sources": "data_source",
    "extra_infos": "extra_info",
}
"""Parameters of functions that take lists, by the field of a row that they are the list of."""
_DEFAULTS: Mapping[str, Any] = {"extra_info": {}, "info": {}, "task": ""}
"""Fields that verl and verifiers pass even if a row does not have them."""


def with_adapter(source: str, reward: RewardCode) -> str:
    """Return the code of a reward function, followed by a handler that calls it as the library does that it was written
    for.

    Args:
        source: the code.
        reward: a function that is called with lists (TRL, Batch), or once for each completion (Sample).
    """
    function = reward.function
    assert function is not None
    # Conversational data has messages, other data texts. A function for messages reads their content.
    reads_messages = _reads_content(source, reward.scope or function)
    template = _SAMPLES if reward.form == "Sample" else _LISTS
    expressions = _of_sample(reads_messages) if reward.form == "Sample" else _of_lists(reads_messages)
    names = parameter_names(function)
    takes_columns = function.args.kwarg is not None and reward.form == "TRL"
    columns = ("prompts", "completions") if takes_columns else ()
    arguments = {name: text for name, text in expressions.items() if name in names or name in columns}
    fields = {name: name if reward.form == "TRL" else _FIELDS_OF_LISTS.get(name, name) for name in names}
    parameters = [name for name in required_parameters(function) if name not in expressions]
    # A parameter that only belongs to the form, and that the function does not use, needs no field of the row.
    uses = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    defaults: Mapping[str, Any] = {} if reward.form == "TRL" else _DEFAULTS
    needs = [fields[name] for name in parameters if name in uses and fields[name] not in defaults]
    is_async = isinstance(function, ast.AsyncFunctionDef)
    adapter = template.format(
        function=reward.name,
        definition="async def" if is_async else "def",
        wait="await " if is_async else "",
        defaults=repr(defaults),
        answers=repr(_answers([*fields.values(), *_keywords_read(function)])),
        needs=repr(needs),
        required=repr({name: fields[name] for name in parameters}),
        optional=repr(_optional(reward, function, fields, {*parameters, *expressions})),
        others=" | {name: name for row in rows for name in row}" if takes_columns else "",
        computed=_computed(reward, arguments),
    )
    return f"{source.rstrip()}\n\n\n{adapter}"


def comparison(source: str, reward: RewardCode) -> Violation | None:
    """Return where a function that is called with lists takes the least or the largest of one; None if it does not.

    It may compare completions with each other, which needs all completions of a prompt in one call.
    """
    scope = reward.scope if reward.form in ("TRL", "Batch") else None
    for node in ast.walk(scope) if scope is not None else ():
        match node:
            case ast.Call(func=ast.Name(id="min" | "max"), args=[ast.Name()], keywords=[]):
                message = (
                    f"{ast.unparse(node)}: if the function compares completions, set scope: Group in the spec, so that "
                    "it gets all completions of a prompt; without it, batches are split anywhere"
                )
                return Violation(message, text_line=node.lineno)
    return None


def _of_lists(reads_messages: bool) -> dict[str, str]:
    """Return what a function gets in lists, beside fields of the rows."""
    return {
        "prompts": "messages[:-1]" if reads_messages else _PROMPT,
        "completions": "messages[-1:]" if reads_messages else _COMPLETION,
        "solution_strs": _COMPLETION,
        "queries": f"{_PROMPT} + {_COMPLETION}",
    }


def _of_sample(reads_messages: bool) -> dict[str, str]:
    """Return what a function gets that is called for each completion, beside fields of the row."""
    return {
        **dict.fromkeys(TEXTS_OF_COMPLETION, _COMPLETION),
        "completion": "messages[-1:]" if reads_messages else _COMPLETION,
        "prompt": "messages[:-1]" if reads_messages else _PROMPT,
        "messages": "messages",
        "original_messages": "messages[:-1]",
        "metadata": "row",
    }


def _computed(reward: RewardCode, arguments: dict[str, str]) -> str:
    """Return the code that sets arguments to the values of expressions."""
    if reward.form == "Sample":
        return "{" + ", ".join(f'"{name}": {text}' for name, text in arguments.items()) + "}"
    return "\n".join(
        f'        columns["{name}"] = [{text} for messages in (sample["messages"] for sample in samples)]'
        for name, text in arguments.items()
    )


def _optional(reward: RewardCode, function: Definition, fields: dict[str, str], others: set[str]) -> dict[str, str]:
    """Return the parameters that are passed if the row has their fields, with these fields.

    TRL passes every column. Others pass certain fields only: one that is called like an option of the function, such as
    score, must not change the option.
    """
    if reward.form == "TRL":
        return {name: field for name, field in fields.items() if name not in others}
    usual = {*ANSWERS, *_DEFAULTS, "data_source"}
    parameters = {name: field for name, field in fields.items() if name not in others and field in usual}
    further = ("answer", "ground_truth", "data_source", *_DEFAULTS) if function.args.kwarg is not None else ()
    return {**parameters, **{name: name for name in further if name not in fields}}


def _answers(names: Sequence[str]) -> list[str]:
    """Return the names, among some, by which a function reads the answer that the data has as `reference_answer`."""
    return [name for name in dict.fromkeys(names) if name in ANSWERS]


def _keywords_read(function: Definition) -> Iterator[str]:
    """Yield the names that a function reads of its further keyword arguments, as kwargs["answer"] or
    kwargs.get("answer")."""
    keywords = function.args.kwarg.arg if function.args.kwarg is not None else ""
    for node in ast.walk(function):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if name == keywords:
                yield key
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name)), args=[ast.Constant(value=str(key)), *_]) if (
                name == keywords
            ):
                yield key


def _reads_content(source: str, scope: ast.AST) -> bool:
    """Return whether code, or a function or class of its module that it uses, reads the content of messages."""
    parts = {node.name: node for node in ast.parse(source).body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    seen: set[str] = set()
    scopes: list[ast.AST] = [scope]
    while scopes:
        for node in ast.walk(scopes.pop()):
            if isinstance(node, ast.Constant) and node.value == "content":
                return True
            if isinstance(node, ast.Name) and node.id in parts and node.id not in seen:
                seen.add(node.id)
                scopes.append(parts[node.id])
    return False


_COMMON = """\
def _rft_data_row(sample):
    answer = sample.get("reference_answer")
    row = {{**{defaults}, **({{}} if answer is None else dict.fromkeys({answers}, answer))}}
    row |= {{name: value for name, value in (sample.get("metadata") or {{}}).items() if value is not None}}
    return {{**row, "reference_answer": answer}}


def _rft_absent(row):
    return [name for name in {needs} if row.get(name) is None]


def _rft_scored(sample, reward):
    metrics = []
    if isinstance(reward, tuple):  # the score, and what else is known
        reward, *_ = reward
    if isinstance(reward, dict):
        name = "score" if "score" in reward else "reward"
        others = {{key: value for key, value in reward.items() if key != name and isinstance(value, (int, float))}}
        metrics = [{{"name": str(key), "value": float(value), "type": "Metric"}} for key, value in others.items()]
        reward = reward[name]
    reward = getattr(reward, "score", reward)
    if reward is None:
        return {{"id": sample["id"], "error": "{function} returned None for this completion"}}
    return {{"id": sample["id"], "aggregate_reward_score": float(reward), "metrics_list": metrics}}
"""
_LISTS = (
    """\
# What follows was added by `rft rewards init`. It calls {function} with lists: of completions, and of the values that
# each field of the data rows has. With `scope: Group` these are the lists of one prompt.
_reward_function = {function}


{definition} lambda_handler(event, context):
    results, groups = [], {{}}
    for sample in event:
        row = _rft_data_row(sample)
        if _rft_absent(row):
            results.append({{"id": sample["id"], "error": "the data row has no " + ", ".join(_rft_absent(row))}})
        else:
            groups.setdefault(sample.get("group"), []).append((sample, row))
    for members in groups.values():
        samples, rows = zip(*members)
        # Fields that no row has are left out, so that parameters keep their defaults.
        fields = {{name: field for name, field in {optional}.items() if any(field in row for row in rows)}}
        fields |= {required}{others}
        columns = {{name: [row.get(field) for row in rows] for name, field in fields.items()}}
{computed}
        rewards = {wait}_reward_function(**columns)
        if isinstance(rewards, dict):
            rewards = rewards["rewards"]
        results += [_rft_scored(sample, reward) for sample, reward in zip(samples, rewards, strict=True)]
    return results


"""
    + _COMMON
)
_SAMPLES = (
    """\
# What follows was added by `rft rewards init`. It calls {function} for each completion.
_reward_function = {function}


{definition} lambda_handler(event, context):
    results = []
    for sample in event:
        row, messages = _rft_data_row(sample), sample["messages"]
        if _rft_absent(row):
            results.append({{"id": sample["id"], "error": "the data row has no " + ", ".join(_rft_absent(row))}})
            continue
        arguments = {{name: row[field] for name, field in {optional}.items() if field in row}}
        arguments |= {{name: row.get(field) for name, field in {required}.items()}}
        arguments |= {computed}
        results.append(_rft_scored(sample, {wait}_reward_function(**arguments)))
    return results


"""
    + _COMMON
)
