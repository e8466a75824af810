"""The forms in which users have reward functions: of a reward Lambda, of TRL, or of OpenAI's python grader."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_api.exit_codes import ExitCode, RunError

USUAL_HANDLER = "lambda_handler"
_OF_TRAINER = {"completion_ids", "prompt_ids", "trainer_state", "environments", "log_extra", "log_metric"}
"""Arguments of TRL's trainer that are not in the contract."""
_OF_CONTRACT = {"prompts", "completions"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Form = Literal["Lambda", "TRL", "OpenAI"]


@dataclass(frozen=True)
class RewardCode:
    """A function that scores, in the code of a user."""

    name: str
    """Name of the function."""
    form: Form
    """How it is called: (event, context), TRL's (completions, **columns), or OpenAI's (sample, item)."""
    function: ast.FunctionDef | ast.AsyncFunctionDef | None
    """Its definition; None if it is not defined by `def` at the top level of the code."""


def find_reward(file: Path, source: str, name: str) -> RewardCode:
    """Find the function that scores.

    Args:
        file: the file, for messages.
        source: its code, which is valid Python.
        name: the name of the function; empty when it is to be found: the usual name of a Lambda's handler, or the only
            function whose parameters are those of one of the forms.

    Raises:
        RunError: CONFIGURATION_INVALID when no function, or more than one, could be meant; or when the function needs
            arguments of TRL's trainer that the contract does not have.
    """
    functions = [node for node in ast.parse(source).body if isinstance(node, _FUNCTIONS)]
    rewards = [RewardCode(function.name, form, function) for function in functions if (form := _form(function))]
    if name:
        reward = next((reward for reward in rewards if reward.name == name), None)
        function = next((function for function in functions if function.name == name), None)
        reward = reward or RewardCode(name, "Lambda", function)
    elif USUAL_HANDLER in (function.name for function in functions):
        return RewardCode(USUAL_HANDLER, "Lambda", None)
    elif len(rewards) == 1:
        reward = rewards[0]
    else:
        choices = ", ".join(item.name for item in rewards or functions) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"{file}: which function scores? It must take (event, context) as a reward Lambda does, (completions, ...) "
            "as reward functions of TRL do, or be OpenAI's grade(sample, item). Name it with --handler. The file "
            f"defines: {choices}",
        )
    if reward.form == "TRL" and reward.function is not None:
        unavailable = [parameter for parameter in _required(reward.function) if parameter in _OF_TRAINER]
        if unavailable:
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                f"{file}:{reward.function.lineno}: {reward.name} needs {', '.join(unavailable)}, which only TRL's "
                "trainer has. The number of tokens is in metadata.rft.tokens, and LengthPenalty and Repetition are "
                "builtin rewards",
            )
    return reward


def with_trl_adapter(source: str, reward: RewardCode) -> str:
    """The code of a reward function of TRL, followed by a handler that calls it as TRL does."""
    function = reward.function
    assert function is not None
    named = [name for name in _names(function) if name not in _OF_CONTRACT | _OF_TRAINER]
    # Conversational data in TRL has messages, other data texts. A function for messages reads their content.
    reads_messages = _reads_content(source, reward.name)
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
        call=f"await {reward.name}" if is_async else reward.name,
        required=[name for name in _required(function) if name not in _OF_CONTRACT],
        columns="{name for row in fields for name in row}" if function.args.kwarg else named,
        arguments="\n".join(arguments),
    )
    return f"{source.rstrip()}\n\n\n{adapter}"


def _reads_content(source: str, name: str) -> bool:
    """Whether a function, or one of the functions of its module that it uses, reads the content of messages."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, _FUNCTIONS)}
    seen: set[str] = set()
    names = [name]
    while names:
        current = names.pop()
        if current in seen or current not in functions:
            continue
        seen.add(current)
        for node in ast.walk(functions[current]):
            if isinstance(node, ast.Constant) and node.value == "content":
                return True
            if isinstance(node, ast.Name):
                names.append(node.id)
    return False


def _form(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Form | None:
    names = _names(function)
    if function.name.startswith("_"):
        return None
    if "completions" in names:
        return "TRL"
    if function.name == "grade" and names == ["sample", "item"]:
        return "OpenAI"
    is_handler = len(list(_required(function))) <= 2 <= len(names) and not function.args.kwonlyargs
    if is_handler and (names[0] in ("event", "events") or names[1].strip("_") in ("context", "ctx", "")):
        return "Lambda"
    return None


def _names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    parameters = function.args
    return [item.arg for item in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)]


def _required(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The names of the parameters without a default."""
    parameters = function.args
    positional = [*parameters.posonlyargs, *parameters.args]
    yield from (item.arg for item in positional[: len(positional) - len(parameters.defaults)])
    keywords = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
    yield from (item.arg for item, default in keywords if default is None)


_ADAPTER = """\
# What follows was added by `rft rewards init`. It calls {function} as TRL does, with lists: of completions, and of the
# values that each field of the data rows has.
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
    columns = {{name: [row.get(name) for row in fields] for name in {columns}}}
{arguments}
    rewards = {call}(**columns)
    for sample, reward in zip(samples, rewards, strict=True):
        if reward is None:
            rows.append({{"id": sample["id"], "error": "{function} returned None for this completion"}})
        else:
            rows.append({{"id": sample["id"], "aggregate_reward_score": float(reward)}})
    return rows
"""
