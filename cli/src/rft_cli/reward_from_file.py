"""`rft rewards init --from-file`: write the manifest of a reward whose code is in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.python_source import imported_modules, syntax_problem
from rft_api.requirements import distribution_of, missing_modules
from rft_api.resource import API_VERSION
from rft_api.reward_checks import network_imports
from rft_cli.new_file import new_files
from rft_cli.reward_shapes import USUAL_HANDLER, RewardCode, find_reward, with_trl_adapter
from rft_cli.rewards import manifest_name


def init_from_files(files: Sequence[Path], handler: str, manifest: Path, console: Console) -> None:
    """Write a manifest with the code of files.

    Args:
        files: the file with the function that scores, and further files that it imports or reads.
        handler: the name of the function; empty when it is to be found in the code. It may have the form of a reward
            Lambda, of TRL, or of OpenAI's python grader.
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
    reward = find_reward(main, source, handler)
    requirements = _packages(files, are_optional=False)
    document = {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": manifest_name(main.stem)},
        "spec": _spec(main, source, reward, requirements, others),
    }
    with new_files([manifest]) as (target,):
        target.write(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode())
    if reward.form == "TRL":
        say = f"{reward.name} is a reward function of TRL: the manifest calls it from a handler after your code"
        console.print(say, highlight=False, soft_wrap=True)
    if requirements:
        console.print(f"It needs packages: {', '.join(requirements)}", highlight=False, soft_wrap=True)
    optional = [name for name in _packages(files, are_optional=True) if name not in requirements]
    if optional:
        text = f"It also uses these, but only if you add them to requirements: {', '.join(optional)}"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    for file in files:
        for problem in network_imports(_read(file), requirements):
            remark = Text(f"{file}:{problem.text_line}: {problem.message}", style="yellow")
            console.print(remark, soft_wrap=True)
    console.print(f"Wrote {manifest}. Next: rft score {manifest} COMPLETIONS.jsonl", highlight=False, soft_wrap=True)


def _spec(
    main: Path, source: str, reward: RewardCode, requirements: Sequence[str], others: Sequence[Path]
) -> dict[str, Any]:
    """The spec of a function, with the fields in the order in which they are written."""
    packages = {"requirements": list(requirements)} if requirements else {}
    if reward.form == "OpenAI":
        if others:
            message = f"{main}: a python grader of OpenAI is one file, without {', '.join(map(str, others))}"
            raise RunError(ExitCode.CONFIGURATION_INVALID, message)
        return {"openai": {**packages, "grader": {"type": "python", "source": _Block(source)}}}
    handler = {} if reward.form == "TRL" or reward.name == USUAL_HANDLER else {"handler": reward.name}
    files = {"files": {file.name: _Block(_read(file)) for file in others}} if others else {}
    code = with_trl_adapter(source, reward) if reward.form == "TRL" else source
    return {"python": {**handler, **packages, **files, "source": _Block(code)}}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{file}: is not UTF-8 text") from None


def _packages(files: Sequence[Path], *, are_optional: bool) -> list[str]:
    """The packages that files import, each once: those that they need, or those that they can do without."""
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
