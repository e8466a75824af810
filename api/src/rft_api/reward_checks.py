"""Checks of a RewardFunction that its types cannot make: whether its code is Python that can import what it names.

It also checks whether the options of builtins, such as JSON Schemas, are valid.

The command line and the reward server make them whenever they read manifests. The operator does not, because it never
compiles code of users. Its conditions report what the reward server has refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

from rft_api.builtin_table import options_key
from rft_api.model import Location, Violation
from rft_api.openai_grader import PythonScript, grader_parts
from rft_api.python_source import call_problem, imported_modules, source_problem, syntax_problem, text_constants
from rft_api.requirements import distribution_of, missing_modules
from rft_api.reward_function import Grader, PythonReward, RewardFunction

_NETWORK_PACKAGES = {"aiohttp", "boto3", "botocore", "httpx", "openai", "requests", "urllib3"}
"""Modules of packages whose purpose is to connect to other machines."""
_NETWORK_LIBRARY = {"ftplib", "http.client", "smtplib", "socket", "urllib.request"}
"""Modules of Python's library with this purpose."""

Document = tuple[str, str]
"""Kind and name of the document that has a problem: the function, or a ConfigMap that holds its code."""


def reward_problems(
    function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Document, Violation]]:
    """Yield the problems of a function, and of the code that it reads from those ConfigMaps that are given."""
    document = ("RewardFunction", function.metadata.name)
    for violation in _clashing_files(function):
        yield document, violation
    for location, grader in function.spec.graders():
        if grader.python is not None:
            yield from _python_problems(document, location, grader.python, config_maps)
        for violation in _grader_problems(grader):
            yield document, replace(violation, location=(*location, *violation.location))


def _clashing_files(function: RewardFunction) -> Iterator[Violation]:
    """Yield the files of several terms with the same name and different texts; the code of all terms finds them in one
    folder."""
    texts: dict[str, str] = {}
    for location, grader in function.spec.graders():
        for name, text in ((grader.python and grader.python.files) or {}).items():
            if texts.setdefault(name, text) != text:
                message = "another term has a different file of this name: rename one of them"
                yield Violation(message, (*location, "python", "files", name))


def _python_problems(
    document: Document, location: Location, python: PythonReward, config_maps: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Document, Violation]]:
    source, place, function_document = python.source, (*location, "python", "source"), document
    if python.source_from is not None:
        reference = python.source_from.config_map
        if reference is None:
            return  # the command line has put the code of a file in its place
        source = config_maps.get(reference.name, {}).get(reference.key)
        document, place = ("ConfigMap", reference.name), ("data", reference.key)
    # A missing ConfigMap is reported by those who need the code.
    problem = (
        _function_problem(source, python.function, "event, context", "; set handler to one of them") if source else None
    )
    if problem is not None:
        yield document, replace(problem, location=place)
    files = python.files or {}
    modules = {name: text for name, text in files.items() if name.endswith(".py")}
    sources = [(document, place, source or "")]
    sources += [(function_document, (*location, "python", "files", name), text) for name, text in modules.items()]
    own = {name.partition("/")[0].removesuffix(".py") for name in modules}
    for origin, field, text in sources:
        for violation in _import_problems(text, own, python.requirements or []):
            yield origin, replace(violation, location=field)
    for name, text in modules.items():
        syntax = syntax_problem(text)
        if syntax is not None:
            yield function_document, replace(syntax, location=(*location, "python", "files", name))


def _function_problem(source: str, function: str, arguments: str, advice: str = "") -> Violation | None:
    """Return the first problem of code that defines a function which scores."""
    return source_problem(source, function, advice) or call_problem(source, function, arguments)


def _import_problems(source: str, own: Set[str], requirements: Sequence[str]) -> Iterator[Violation]:
    """Yield the imports of code that cannot succeed.

    Args:
        source: the code.
        own: the modules among the further files of the code.
        requirements: the packages that the code declares.
    """
    imports = [item for item in imported_modules(source) if not item.is_optional]
    for item in imports:
        if item.level:
            message = (
                f"imports .{item.module}, but the code is no package: write `from {item.module} import ...` and put "
                f"{item.module.replace('.', '/')}.py into files"
            )
            yield Violation(message, text_line=item.line)
    lines: dict[str, int] = {}
    for item in imports:
        if not item.level:
            lines.setdefault(item.module.partition(".")[0], item.line)
    for module in missing_modules([name for name in lines if name not in own], requirements):
        advice = f"add {distribution_of(module)} to requirements, or {module}.py to files"
        if module in _NETWORK_PACKAGES:
            advice += ". Reward code has no network: to ask another service, use judge, lambda or http"
        yield Violation(f"imports {module}, which is not in Python's library: {advice}", text_line=lines[module])


def import_remarks(source: str, requirements: Sequence[str]) -> Iterator[Violation]:
    """Yield the imports of modules that connect to other machines or share memory, which code in the sandbox cannot.

    They are no errors, because code may import such a module and work without this.

    Args:
        source: the code.
        requirements: the packages that the code declares. Modules that it does not have are not reported here.
    """
    for item in imported_modules(source):
        package = item.module.partition(".")[0]
        is_declared = package in _NETWORK_PACKAGES and not missing_modules([package], requirements)
        if not item.level and (is_declared or item.module in _NETWORK_LIBRARY):
            yield Violation(
                f"imports {item.module} to connect to other machines, but reward code has no network. If the score "
                "depends on it, deploy the code as an AWS Lambda and name it in `lambda`, serve it yourself and name "
                "it in `http`, or let a model rate the completions with `judge`",
                text_line=item.line,
            )
        if package == "multiprocessing":
            yield Violation(
                f"imports {item.module}, whose pools and queues need shared memory, which reward code does not have: "
                "if the code catches the error, every completion may score the same. Use no pool, or subprocess",
                text_line=item.line,
            )


def nova_role(source: str) -> int | None:
    """Return the line in which code asks for the role nova_assistant; None if it does not, or also knows the usual
    role."""
    texts = text_constants(source)
    return None if "assistant" in texts else texts.get("nova_assistant")


def code_remarks(function: RewardFunction) -> Iterator[Violation]:
    """Yield what the code of a function most likely cannot do, although it is valid: connect, or find its completions.

    Args:
        function: the function, with its code inlined.
    """
    yield from _import_remarks(function)
    for location, grader in function.spec.graders():
        if grader.python is not None and grader.python.assistant_role is None:
            line = nova_role(grader.python.source or "")
            if line is not None:
                message = "looks for the role nova_assistant, which is assistant here: set assistantRole"
                yield Violation(f"{message}: nova_assistant", (*location, "python", "source"), text_line=line)


def _import_remarks(function: RewardFunction) -> Iterator[Violation]:
    """Yield what is to be said about the imports in all code of a function."""
    for location, grader in function.spec.graders():
        if grader.python is not None:
            place = (*location, "python")
            modules = {name: text for name, text in (grader.python.files or {}).items() if name.endswith(".py")}
            sources = [((*place, "source"), grader.python.source or "")]
            sources += [((*place, "files", name), text) for name, text in modules.items()]
            for where, text in sources:
                for violation in import_remarks(text, grader.python.requirements or []):
                    yield replace(violation, location=where)
        if grader.openai is not None:
            for part_location, part in grader_parts(grader.openai.grader):
                if isinstance(part, PythonScript):
                    for violation in import_remarks(part.source, grader.openai.requirements or []):
                        yield replace(violation, location=(*location, "openai", "grader", *part_location, "source"))


def _grader_problems(grader: Grader) -> Iterator[Violation]:
    if grader.builtin is not None:
        key = options_key(grader.builtin.name)
        for violation in grader.builtin.options.problems():
            yield replace(violation, location=("builtin", key, *violation.location))
    if grader.openai is not None:
        for location, part in grader_parts(grader.openai.grader):
            if not isinstance(part, PythonScript):
                continue
            problem = _function_problem(part.source, "grade", "sample, item")
            problems = [problem] if problem is not None else []
            problems += _import_problems(part.source, frozenset(), grader.openai.requirements or [])
            for violation in problems:
                yield replace(violation, location=("openai", "grader", *location, "source"))
