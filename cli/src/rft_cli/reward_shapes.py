"""The forms in which users have reward functions: those of a reward Lambda, of OpenAI's grader, of TRL, of verl ..."""

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
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ANSWERS = frozenset(
    ("answer", "answers", "expected_answer", "gold", "ground_truth", "label", "solution", "target", "reference")
)
"""Parameters and fields of rows that are the answer with which a completion is compared."""
TEXTS_OF_COMPLETION = (
    "solution_str", "model_output", "predict_str", "prediction", "generation", "response", "response_str",
)  # fmt: skip
"""Parameters for the text of one completion, in verl, NeMo-RL and slime."""
_BESIDE_A_COMPLETION = {*ANSWERS, "extra_info", "info", "data_source"}
_OF_TRL = {"completion_ids", "prompt_ids", "trainer_state", "environments", "log_extra", "log_metric"}
_OF_OTHERS = {"parser", "state", "reward_router_address", "reward_model_tokenizer"}
_OF_TRAINER = _OF_TRL | _OF_OTHERS
"""Arguments of TRL's trainer, and of verl's and verifiers', that are not in the contract."""
_OF_CONTRACT = {"prompts", "completions"}

Form = Literal["Lambda", "TRL", "Batch", "Sample", "OpenAI", "Unknown"]
_FORMS = (
    "take (event, context) as a reward Lambda does, (completions, ...) as reward functions of TRL do, (solution_str, "
    "ground_truth, ...) as verl's, (completion, answer, ...) as those of verifiers, or be OpenAI's grade(sample, item)"
)


@dataclass(frozen=True)
class RewardCode:
    """A function that scores, in the code of a user."""

    name: str
    """Its name at the top level of the code."""
    form: Form
    """How it is called: Lambda with (event, context); TRL and Batch with lists by name, once for all completions;
    Sample by name, for each completion; OpenAI with (sample, item)."""
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
    rewards = _candidates(functions)
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
    if chosen.form in ("TRL", "Batch", "Sample") and chosen.function is not None:
        unavailable = [parameter for parameter in required_parameters(chosen.function) if parameter in _OF_TRAINER]
        if unavailable:
            of_trl = chosen.form == "TRL" or not _OF_OTHERS & set(unavailable)
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                f"{file}:{chosen.function.lineno}: {chosen.name} needs {', '.join(unavailable)}, which only "
                + (
                    "TRL's trainer has. The number of tokens is in metadata.rft.tokens, and LengthPenalty and "
                    "Repetition are builtin rewards"
                    if of_trl
                    else "its own trainer has"
                ),
            )
    return chosen


def _candidates(functions: Sequence[RewardCode]) -> list[RewardCode]:
    """Return the functions that may be meant if none is named.

    Helpers may look like functions that score one completion, so these count only if there are no others, and only
    those that no other function of them calls; compute_score is the name that verl looks for.
    """
    rewards = [reward for reward in functions if reward.form not in ("Unknown", "Sample")]
    samples = [reward for reward in functions if reward.form == "Sample"]
    usual = [reward for reward in samples if reward.name == "compute_score"]
    if rewards and not (usual and len(rewards) > 1):
        return rewards
    calls = {
        node.id
        for reward in samples
        for node in ast.walk(reward.scope or ast.Module([], []))
        if isinstance(node, ast.Name) and node.id != reward.name
    }
    return usual or [reward for reward in samples if reward.name not in calls] or samples


def _named(file: Path, source: str, tree: ast.Module, functions: Sequence[RewardCode], name: str) -> RewardCode:
    """Return the function that --handler names.

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
    makers = {node.name: node for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    maker = makers.get(last)
    if isinstance(maker, ast.ClassDef) or (isinstance(maker, FUNCTIONS) and _makes(maker, makers)):
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{file}:{maker.lineno}: {last} makes a reward function and is none itself: add the line "
            f"`reward = {last}(...)` with your options at the end of the file, and name --handler reward",
        )
    if reward is not None and reward.function is not None:
        names, function = parameter_names(reward.function), reward.function
        if names[:1] == ["messages"]:
            return replace(reward, form="Sample")
        if (_OF_CONTRACT | _OF_TRL) & set(names) or (function.args.kwarg and len(names) < 2):
            return replace(reward, form="TRL")  # all its arguments are passed by name
        if not takes_two_arguments(function) or ANSWERS & set(names[:2]):  # it would be called with (event, context)
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
    makers = {node.name: node for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    for node in tree.body:
        if isinstance(node, FUNCTIONS):
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
    """Return the function that a call returns, without parameters that are set already, and the code that defines
    it."""
    if ast.unparse(call.func) in ("partial", "functools.partial") and call.args and isinstance(call.args[0], ast.Name):
        function = makers.get(call.args[0].id)
        if not isinstance(function, FUNCTIONS):
            return None
        bound = {*parameter_names(function)[: len(call.args) - 1], *(keyword.arg for keyword in call.keywords)}
        return _without(function, bound), function
    maker = makers.get(call.func.id) if isinstance(call.func, ast.Name) else None
    if isinstance(maker, FUNCTIONS) and isinstance(result := _result(maker), ast.Call):
        name = result.func.id if isinstance(result.func, ast.Name) else ""
        maker = makers.get(name)  # a function that returns an instance of a class
    if isinstance(maker, ast.ClassDef):
        methods = (node for node in maker.body if isinstance(node, FUNCTIONS) and node.name == "__call__")
        method = next(methods, None)
        return None if method is None else (_without(method, set(parameter_names(method)[:1])), maker)
    inner = None if maker is None else _inner(maker)
    return None if inner is None or maker is None else (inner, maker)


def _inner(maker: Definition) -> Definition | None:
    """Return the function that a function defines and returns; None if it returns anything else."""
    inner = {node.name: node for node in maker.body if isinstance(node, FUNCTIONS)}
    result = _result(maker)
    return inner.get(result.id) if isinstance(result, ast.Name) else None


def _makes(maker: Definition, makers: Mapping[str, Definition | ast.ClassDef]) -> bool:
    """Return whether a function returns a function that it defines, or an instance of a class of the code."""
    call = ast.Call(func=ast.Name(id=maker.name), args=[], keywords=[])
    return _made(call, makers) is not None


def _result(maker: Definition) -> ast.expr | None:
    """Return what the last return at the top level of a function returns."""
    results = [node.value for node in maker.body if isinstance(node, ast.Return)]
    return results[-1] if results else None


def _without(function: Definition, names: Set[str | None]) -> Definition:
    """Return a definition without some of its parameters, which are set already; those with a default follow the
    others."""
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


def _form(function: Definition) -> Form:
    names = parameter_names(function)
    if {"completions", "completion_ids"} & set(names):
        return "TRL"
    if "solution_strs" in names or {"queries", "prompts"} <= set(names):
        return "Batch"  # of verl and OpenRLHF
    if function.name == "grade" and names == ["sample", "item"]:
        return "OpenAI"
    is_handler = len(list(required_parameters(function))) <= 2 <= len(names) and not function.args.kwonlyargs
    if is_handler and (names[0] in ("event", "events") or names[1].strip("_") in ("context", "ctx", "")):
        return "Lambda"
    is_rated = "completion" in names and (function.args.kwarg is not None or "prompt" in names)
    if is_rated or ({*TEXTS_OF_COMPLETION, "completion"} & set(names) and _BESIDE_A_COMPLETION & set(names)):
        return "Sample"
    if names[:1] == ["messages"] and any("reward_function" in ast.unparse(item) for item in function.decorator_list):
        return "Sample"  # of eval-protocol and reward-kit
    return "Unknown"


def parameter_names(function: Definition) -> list[str]:
    """Return the names of all parameters."""
    parameters = function.args
    return [item.arg for item in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)]


def required_parameters(function: Definition) -> Iterator[str]:
    """Yield the names of the parameters without a default."""
    parameters = function.args
    positional = [*parameters.posonlyargs, *parameters.args]
    yield from (item.arg for item in positional[: len(positional) - len(parameters.defaults)])
    keywords = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
    yield from (item.arg for item, default in keywords if default is None)
