"""The forms in which users have reward functions: of a reward Lambda, of TRL, or of OpenAI's python grader."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rft_api.exit_codes import ExitCode, RunError
from rft_api.python_source import Definition, call_problem, source_problem, takes_two_arguments

USUAL_HANDLER = "lambda_handler"
_OF_TRAINER = {"completion_ids", "prompt_ids", "trainer_state", "environments", "log_extra", "log_metric"}
"""Arguments of TRL's trainer that are not in the contract."""
_OF_CONTRACT = {"prompts", "completions"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Form = Literal["Lambda", "TRL", "OpenAI", "Unknown"]
_FORMS = (
    "take (event, context) as a reward Lambda does, (completions, ...) as reward functions of TRL do, or be OpenAI's "
    "grade(sample, item)"
)


@dataclass(frozen=True)
class RewardCode:
    """A function that scores, in the code of a user."""

    name: str
    """Its name at the top level of the code."""
    form: Form
    """How it is called: (event, context), TRL's (completions, **columns), or OpenAI's (sample, item)."""
    function: Definition | None
    """Its definition, with the parameters that its caller sets; None if the code does not show it."""
    scope: ast.AST | None = None
    """The part of the code that defines it: the function, or the function or class that makes it."""


def find_reward(file: Path, source: str, name: str) -> RewardCode:
    """Find the function that scores.

    Args:
        file: the file, for messages.
        source: its code, which is valid Python.
        name: the name of the function, also behind that of a module; empty when it is to be found: the usual name of a
            Lambda's handler, or the only function whose parameters are those of one of the forms.

    Raises:
        RunError: CONFIGURATION_INVALID when no function, or more than one, could be meant; when the named one is not
            there, or is called in another way; or when it needs arguments of TRL's trainer that the contract does not
            have.
    """
    tree = ast.parse(source)
    functions = list(_callables(tree))
    rewards = [reward for reward in functions if reward.form != "Unknown"]
    if name:
        chosen = _named(file, source, tree, functions, name)
    elif USUAL_HANDLER in (function.name for function in functions):
        problem = call_problem(source, USUAL_HANDLER, "event, context")
        if problem is not None:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}:{problem.text_line}: {problem.message}")
        return RewardCode(USUAL_HANDLER, "Lambda", None)
    elif len(rewards) == 1:
        chosen = rewards[0]
    else:
        choices = ", ".join(item.name for item in rewards or functions) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{file}: which function scores? It must {_FORMS}. Name it with --handler. The file defines: {choices}",
        )
    if chosen.form == "TRL" and chosen.function is not None:
        unavailable = [parameter for parameter in _required(chosen.function) if parameter in _OF_TRAINER]
        if unavailable:
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                f"{file}:{chosen.function.lineno}: {chosen.name} needs {', '.join(unavailable)}, which only TRL's "
                "trainer has. The number of tokens is in metadata.rft.tokens, and LengthPenalty and Repetition are "
                "builtin rewards",
            )
    return chosen


def _named(file: Path, source: str, tree: ast.Module, functions: Sequence[RewardCode], name: str) -> RewardCode:
    """The function that --handler names.

    Raises:
        RunError: CONFIGURATION_INVALID when it is not there, or cannot be called with (event, context).
    """
    last = name.rpartition(".")[2]
    reward = next((function for function in reversed(functions) if function.name == last), None)
    if reward is not None and reward.form != "Unknown":
        return reward if reward.form != "Lambda" else replace(reward, name=name)
    problem = source_problem(source, last, "; name one of them with --handler")
    if problem is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {problem.message}")
    makers = {node.name: node for node in tree.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef))}
    maker = makers.get(last)
    if isinstance(maker, ast.ClassDef) or (isinstance(maker, _FUNCTIONS) and _inner(maker) is not None):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{file}:{maker.lineno}: {last} makes a reward function and is none itself: add the line "
            f"`reward = {last}(...)` with your options at the end of the file, and name --handler reward",
        )
    if reward is not None and reward.function is not None:
        names, function = _names(reward.function), reward.function
        if (_OF_CONTRACT | _OF_TRAINER) & set(names) or (function.args.kwarg and len(names) < 2):
            return replace(reward, form="TRL")  # all its arguments are passed by name
        if not takes_two_arguments(function):
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                f"{file}:{function.lineno}: {last} takes ({', '.join(names)}), but a function that scores must "
                f"{_FORMS}. Add one that calls {last}, and name that",
            )
    return RewardCode(name, "Lambda", None if reward is None else reward.function)


def _callables(tree: ast.Module) -> Iterator[RewardCode]:
    """Yield what the top level of code defines to be called.

    These are functions, and names that are assigned the result of a function that returns one, an instance of a class
    with `__call__`, or a partial function.
    """
    makers = {node.name: node for node in tree.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef))}
    for node in tree.body:
        if isinstance(node, _FUNCTIONS):
            form = "Unknown" if node.name.startswith("_") else _form(node)
            yield RewardCode(node.name, form, node, node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = _made(node.value, makers)
            for target in targets:
                if made is not None and isinstance(target, ast.Name):
                    function, scope = made
                    yield RewardCode(target.id, _form(function), function, scope)


def _made(call: ast.Call, makers: Mapping[str, Definition | ast.ClassDef]) -> tuple[Definition, ast.AST] | None:
    """The function that a call returns, without parameters that are set already, and the code that defines it."""
    if ast.unparse(call.func) in ("partial", "functools.partial") and call.args and isinstance(call.args[0], ast.Name):
        function = makers.get(call.args[0].id)
        if not isinstance(function, _FUNCTIONS):
            return None
        bound = {*_names(function)[: len(call.args) - 1], *(keyword.arg for keyword in call.keywords)}
        return _without(function, bound), function
    maker = makers.get(call.func.id) if isinstance(call.func, ast.Name) else None
    if isinstance(maker, ast.ClassDef):
        methods = (node for node in maker.body if isinstance(node, _FUNCTIONS) and node.name == "__call__")
        method = next(methods, None)
        return None if method is None else (_without(method, set(_names(method)[:1])), maker)
    inner = None if maker is None else _inner(maker)
    return None if inner is None or maker is None else (inner, maker)


def _inner(maker: Definition) -> Definition | None:
    """The function that a function defines and returns; None if it returns anything else."""
    inner = {node.name: node for node in maker.body if isinstance(node, _FUNCTIONS)}
    returned = [
        node.value.id for node in maker.body if isinstance(node, ast.Return) and isinstance(node.value, ast.Name)
    ]
    return inner.get(returned[-1]) if returned else None


def _without(function: Definition, names: Set[str | None]) -> Definition:
    """A definition without some of its parameters, which are set already; those with a default follow the others."""
    old = function.args
    positional = [*old.posonlyargs, *old.args]
    defaults = dict(zip(reversed([item.arg for item in positional]), reversed(old.defaults), strict=False))
    left = [item for item in positional if item.arg not in names]
    keywords = [
        (item, default) for item, default in zip(old.kwonlyargs, old.kw_defaults, strict=True) if item.arg not in names
    ]
    left.sort(key=lambda item: item.arg in defaults)
    arguments = ast.arguments(
        posonlyargs=[],
        args=left,
        vararg=old.vararg,
        kwonlyargs=[item for item, _ in keywords],
        kw_defaults=[default for _, default in keywords],
        kwarg=old.kwarg,
        defaults=[defaults[item.arg] for item in left if item.arg in defaults],
    )
    derived = copy.copy(function)
    derived.args = arguments
    return derived


def with_trl_adapter(source: str, reward: RewardCode) -> str:
    """The code of a reward function of TRL, followed by a handler that calls it as TRL does."""
    function = reward.function
    assert function is not None
    named = [name for name in _names(function) if name not in _OF_CONTRACT | _OF_TRAINER]
    # Conversational data in TRL has messages, other data texts. A function for messages reads their content.
    reads_messages = _reads_content(source, reward.scope or function)
    contract = {
        "prompts": "messages[:-1]" if reads_messages else '"\\n".join(m["content"] for m in messages[:-1])',
        "completions": "messages[-1:]" if reads_messages else 'messages[-1]["content"]',
    }
    arguments = [
        f'    columns["{name}"] = [{value} for messages in (sample["messages"] for sample in samples)]'
        for name, value in contract.items()
        if function.args.kwarg or name in _names(function)
    ]
    is_async = isinstance(function, ast.AsyncFunctionDef)
    adapter = _ADAPTER.format(
        function=reward.name,
        definition="async def" if is_async else "def",
        wait="await " if is_async else "",
        required=[name for name in _required(function) if name not in _OF_CONTRACT],
        # Fields that no row has are left out, so that parameters keep their defaults.
        chosen="" if function.args.kwarg else f" if name in {named}",
        arguments="\n".join(arguments),
    )
    return f"{source.rstrip()}\n\n\n{adapter}"


def _reads_content(source: str, scope: ast.AST) -> bool:
    """Whether code, or a function or class of its module that it uses, reads the content of messages."""
    parts = {node.name: node for node in ast.parse(source).body if isinstance(node, (*_FUNCTIONS, ast.ClassDef))}
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


def _form(function: Definition) -> Form:
    names = _names(function)
    if "completions" in names:
        return "TRL"
    if function.name == "grade" and names == ["sample", "item"]:
        return "OpenAI"
    is_handler = len(list(_required(function))) <= 2 <= len(names) and not function.args.kwonlyargs
    if is_handler and (names[0] in ("event", "events") or names[1].strip("_") in ("context", "ctx", "")):
        return "Lambda"
    return "Unknown"


def _names(function: Definition) -> list[str]:
    parameters = function.args
    return [item.arg for item in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)]


def _required(function: Definition) -> Iterator[str]:
    """The names of the parameters without a default."""
    parameters = function.args
    positional = [*parameters.posonlyargs, *parameters.args]
    yield from (item.arg for item in positional[: len(positional) - len(parameters.defaults)])
    keywords = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
    yield from (item.arg for item, default in keywords if default is None)


_ADAPTER = """\
# What follows was added by `rft rewards init`. It calls {function} as TRL does, with lists: of completions, and of the
# values that each field of the data rows has.
_reward_function = {function}


{definition} lambda_handler(event, context):
    rows, samples, fields = [], [], []
    for sample in event:
        row = {{**(sample.get("metadata") or {{}}), "reference_answer": sample.get("reference_answer")}}
        absent = [name for name in {required} if row.get(name) is None]
        if absent:
            rows.append({{"id": sample["id"], "error": "the data row has no " + ", ".join(absent)}})
        else:
            samples.append(sample)
            fields.append(row)
    if not samples:
        return rows
    names = {{name for row in fields for name in row{chosen}}}
    columns = {{name: [row.get(name) for row in fields] for name in names}}
{arguments}
    rewards = {wait}_reward_function(**columns)
    for sample, reward in zip(samples, rewards, strict=True):
        if reward is None:
            rows.append({{"id": sample["id"], "error": "{function} returned None for this completion"}})
        else:
            rows.append({{"id": sample["id"], "aggregate_reward_score": float(reward)}})
    return rows
"""
