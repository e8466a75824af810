"""`rft rewards init --from-file`: write the manifest of a reward whose code is in files."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rft_api.exit_codes import ExitCode, RunError
from rft_api.python_source import imported_modules, syntax_problem
from rft_api.requirements import distribution_of, missing_modules
from rft_api.resource import API_VERSION
from rft_cli.new_file import new_files
from rft_cli.rewards import manifest_name

USUAL_HANDLER = "lambda_handler"


def init_from_files(files: Sequence[Path], handler: str, manifest: Path, console: Console) -> None:
    """Write a manifest with the code of files.

    Args:
        files: the file with the function that scores, and further files that it imports or reads.
        handler: the name of the function; empty when it is to be found in the code.
        manifest: the file to write.
        console: where to print what comes next.

    Raises:
        RunError: CONFIGURATION_INVALID when a file cannot be read, is no Python, or defines no function that scores;
            OUTPUT_INVALID when the manifest exists already.
    """
    main, *others = files
    source = _read(main)
    problem = syntax_problem(source)
    if problem is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{main}:{problem.text_line}: {problem.message}")
    python: dict[str, Any] = {"handler": handler or _find_handler(main, source)}
    if python["handler"] == USUAL_HANDLER:
        del python["handler"]
    modules = [name for file in files if file.suffix == ".py" for name in _foreign_modules(file, files)]
    if modules:
        python["requirements"] = [distribution_of(module) for module in dict.fromkeys(modules)]
    if others:
        python["files"] = {file.name: _Block(_read(file)) for file in others}
    python["source"] = _Block(source)
    document = {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": manifest_name(main.stem)},
        "spec": {"python": python},
    }
    with new_files([manifest]) as (target,):
        target.write(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode())
    if modules:
        console.print(f"It needs packages: {', '.join(python['requirements'])}", highlight=False, soft_wrap=True)
    console.print(f"Wrote {manifest}. Next: rft score {manifest} COMPLETIONS.jsonl", highlight=False, soft_wrap=True)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: is not UTF-8 text") from None


def _foreign_modules(file: Path, files: Sequence[Path]) -> list[str]:
    """The modules of packages that a file needs."""
    own = {other.stem for other in files}
    names = [i.module.partition(".")[0] for i in imported_modules(_read(file)) if not i.level and not i.is_optional]
    return missing_modules([name for name in names if name not in own], [])


def _find_handler(file: Path, source: str) -> str:
    """Find the function that scores: the usual name, or the only function with two parameters."""
    functions = [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    names = [function.name for function in functions]
    if USUAL_HANDLER in names:
        return USUAL_HANDLER
    candidates = [function.name for function in functions if _takes_event_and_context(function)]
    if len(candidates) == 1:
        return candidates[0]
    choices = ", ".join(candidates or names) or "none"
    raise RunError(
        ExitCode.CONFIGURATION_INVALID,
        f"{file}: which function scores? It must take (event, context), as a reward Lambda does. Name it with "
        f"--handler. The file defines: {choices}",
    )


def _takes_event_and_context(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    parameters = function.args
    positional = [*parameters.posonlyargs, *parameters.args]
    required = len(positional) - len(parameters.defaults)
    return required <= 2 <= len(positional) and not parameters.kwonlyargs and not function.name.startswith("_")


class _Block(str):
    """A text that is written as a block of lines."""


class _Dumper(yaml.SafeDumper):
    """Writes blocks of lines."""


def _write_block(dumper: yaml.SafeDumper, text: _Block) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")


_Dumper.add_representer(_Block, _write_block)
