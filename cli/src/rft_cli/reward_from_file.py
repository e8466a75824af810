"""`rft rewards init --from-file`: write the manifest of a reward whose code, or grader, is in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_file
from rft_api.foreign.yaml_text import take_numbers_as_kubectl
from rft_api.python_source import imported_modules, syntax_problem
from rft_api.requirements import distribution_of, missing_modules
from rft_api.resource import API_VERSION
from rft_api.reward_checks import import_remarks, nova_role
from rft_api.reward_function import MAXIMUM_CODE
from rft_cli.new_file import new_files
from rft_cli.reward_adapters import comparison, with_adapter
from rft_cli.reward_from_grader import grader_spec
from rft_cli.reward_shapes import USUAL_HANDLER, RewardCode, find_reward
from rft_cli.rewards import manifest_name

_CALLED_BY_A_HANDLER = {
    "TRL": "is a reward function of TRL",
    "Batch": "scores lists of completions",
    "Sample": "scores one completion at a time",
}
"""The forms of functions that get a handler, each as a message says it."""


def init_from_files(files: Sequence[Path], handler: str, manifest: Path, console: Console) -> None:
    """Write a manifest with the code of files.

    Args:
        files: the file with the function that scores, and further files that it imports or reads; or a single .json
            file with a grader of OpenAI.
        handler: the name of the function; empty when it is to be found in the code. It may have the form of a reward
            Lambda, of OpenAI's python grader, or of TRL, verl, verifiers and others.
        manifest: the file to write.
        console: where to print what comes next.

    Raises:
        RunError: CONFIGURATION_INVALID when a file cannot be read, is no Python, defines no function that scores, or
            imports a module of the user's own that is not among the files; OUTPUT_INVALID when the manifest exists
            already.
    """
    main, *others = files
    source = _read(main)
    if main.suffix == ".json":
        if others or handler:
            message = f"{main}: a grader in JSON has no further files and no --handler"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        _write(manifest, main, grader_spec(main, source))
        console.print(f"Wrote {manifest}. Next: rft validate {manifest}", highlight=False, soft_wrap=True)
        return
    if main.suffix == ".ipynb":
        message = f"{main}: is a notebook: write the cells with the reward to a file of Python code"
        raise RunError(ExitCode.CONFIGURATION_INVALID, message)
    problem = syntax_problem(source)
    if problem is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{main}:{problem.text_line}: {problem.message}")
    reward = find_reward(main, source, handler)
    _require_files_beside(files)
    requirements = _packages(files, are_optional=False)
    _write(manifest, main, _spec(main, source, reward, requirements, others))
    if reward.form in _CALLED_BY_A_HANDLER:
        how = _CALLED_BY_A_HANDLER[reward.form]
        say = f"{reward.name} {how}: the manifest calls it from a handler after your code"
        console.print(say, highlight=False, soft_wrap=True)
    compares = comparison(source, reward)
    if compares is not None:
        remark = Text(f"{main}:{compares.text_line}: {compares.message}", style="yellow")
        console.print(remark, soft_wrap=True)
    if requirements:
        console.print(f"It needs packages: {', '.join(requirements)}", highlight=False, soft_wrap=True)
    optional = [name for name in _packages(files, are_optional=True) if name not in requirements]
    if optional:
        text = f"It also uses these, but only if you add them to requirements: {', '.join(optional)}"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    for file in files:
        for problem in import_remarks(_read(file), requirements):
            remark = Text(f"{file}:{problem.text_line}: {problem.message}", style="yellow")
            console.print(remark, soft_wrap=True)
    console.print(f"Wrote {manifest}. Next: rft score {manifest} COMPLETIONS.jsonl", highlight=False, soft_wrap=True)


def _write(manifest: Path, main: Path, spec: dict[str, Any]) -> None:
    document = {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": manifest_name(main.stem)},
        "spec": _with_blocks(spec),
    }
    with new_files([manifest]) as (target,):
        target.write(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode())


def _with_blocks(value: Any) -> Any:
    """Return a value of a manifest, in which texts of several lines are written as such."""
    if isinstance(value, dict):
        return {key: _with_blocks(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_blocks(item) for item in value]
    return _Block(value) if isinstance(value, str) and "\n" in value else value


def _spec(
    main: Path, source: str, reward: RewardCode, requirements: Sequence[str], others: Sequence[Path]
) -> dict[str, Any]:
    """Return the spec of a function, with the fields in the order in which they are written."""
    packages = {"requirements": list(requirements)} if requirements else {}
    if reward.form == "OpenAI":
        if others:
            message = f"{main}: a python grader of OpenAI is one file, without {', '.join(map(str, others))}"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        return {"openai": {**packages, "grader": {"type": "python", "source": source}}}
    is_adapted = reward.form in _CALLED_BY_A_HANDLER
    handler = {} if is_adapted or reward.name == USUAL_HANDLER else {"handler": reward.name}
    role = {"assistantRole": "nova_assistant"} if reward.form == "Lambda" and nova_role(source) is not None else {}
    files = {"files": {file.name: _read(file) for file in others}} if others else {}
    code = with_adapter(source, reward) if is_adapted else source
    return {"python": {**handler, **packages, **role, **files, "source": code}}


def _read(file: Path) -> str:
    try:
        return read_file(file, 4 * MAXIMUM_CODE).decode("utf-8-sig")
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: is not UTF-8 text") from None
    except ValueError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {error}") from None


def _require_files_beside(files: Sequence[Path]) -> None:
    """Refuse imports of modules that are beside the files, but not among them.

    They would become requirements, and a package of the index that happens to have this name would be installed.
    """
    own = {file.stem for file in files}
    for file in files:
        for item in imported_modules(_read(file)) if file.suffix == ".py" else []:
            module = item.module.partition(".")[0]
            if item.level and not item.is_optional:
                message = (
                    f"{file}:{item.line}: imports {'.' * item.level}{item.module}, but the code of a reward is no "
                    "package: write the import without dots, and name its file with a further --from-file"
                )
                raise RunError(ExitCode.CONFIGURATION_INVALID, message)
            if item.level or module in own or not missing_modules([module], []):
                continue
            place = f"{file}:{item.line}: imports {module}, which is"
            beside = file.with_name(f"{module}.py")
            if beside.is_file():
                message = f"{place} a file of yours: add --from-file {beside}"
                raise RunError(ExitCode.CONFIGURATION_INVALID, message)
            if any(beside.with_suffix("").glob("*.py")):
                message = f"{place} a folder of yours: rewards have files without folders, so put its code into files"
                raise RunError(ExitCode.CONFIGURATION_INVALID, message)


def _packages(files: Sequence[Path], *, are_optional: bool) -> list[str]:
    """Return the packages that files import, each once: those that they need, or those that they can do without."""
    own = {file.stem for file in files}
    imports = [item for file in files if file.suffix == ".py" for item in imported_modules(_read(file))]
    names = [i.module.partition(".")[0] for i in imports if not i.level and i.is_optional == are_optional]
    modules = missing_modules([name for name in names if name not in own], [])
    return list(dict.fromkeys(distribution_of(module) for module in modules))


class _Block(str):
    """A text that is written as a block of lines."""


class _Dumper(yaml.SafeDumper):
    """Writes blocks of lines."""


def _write_block(dumper: yaml.SafeDumper, text: _Block) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")


_Dumper.add_representer(_Block, _write_block)
take_numbers_as_kubectl(_Dumper)
