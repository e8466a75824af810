"""The packages that reward code needs: how a manifest names them, and which modules they are likely to provide."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.python_source import imported_modules

_VERSION = r"(===|~=|==|!=|<=|>=|<|>) *[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
REQUIREMENT_PATTERN = (
    r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
    r" *(\[ *[A-Za-z0-9._-]+ *(, *[A-Za-z0-9._-]+ *)*\])?"
    rf" *({_VERSION}( *, *{_VERSION})*)?$"
)
"""A name, extras and versions of PEP 508; no path, URL or marker, so that packages come from the index only."""


def _check_requirement(text: str) -> str:
    if re.fullmatch(REQUIREMENT_PATTERN, text):
        return text
    raise PydanticCustomError(
        "requirement",
        "must be the name of a package, with versions if you like, such as numpy==2.*; paths, URLs, options and "
        "markers are not allowed",
    )


Requirement = Annotated[
    str,
    Field(max_length=200, json_schema_extra={"pattern": REQUIREMENT_PATTERN, "minLength": 1}),
    AfterValidator(_check_requirement),
]
"""A package of the index, with extras and versions, such as numpy==2.* or pydantic[email]>=2."""

Requirements = Annotated[list[Requirement], Field(min_length=1, max_length=64)]

# Packages whose modules have their own name.
_SAME_NAME = (
    "aiohttp boto3 httpx jieba jsonschema math_verify nltk numpy openai pandas pydantic rapidfuzz regex requests "
    "sacrebleu scipy sqlglot sympy tiktoken torch transformers"
)
# Packages whose modules have another name.
_DISTRIBUTIONS = {
    **{name: name.replace("_", "-") for name in _SAME_NAME.split()},
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "google": "protobuf",
    "Levenshtein": "levenshtein",
    "latex2sympy2_extended": "latex2sympy2-extended",
    "markdown_it": "markdown-it-py",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "rouge_score": "rouge-score",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def normalized_name(requirement: str) -> str:
    """Return the name of a requirement's package in its normal form: `normalized_name("PyYAML>=6") == "pyyaml"`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).strip("-").lower()


def distribution_of(module: str) -> str:
    """Return the name of the package that most likely provides a top-level module."""
    return _DISTRIBUTIONS.get(module, re.sub(r"[-_.]+", "-", module).lower())


def missing_modules(modules: Iterable[str], requirements: Sequence[str]) -> list[str]:
    """Return the top-level modules that neither Python nor a requirement provides, in their order.

    A package may have a module of any name. So when a requirement provides none of the modules by its name, it may
    provide any module that is not known to belong to another package, and only the installation can tell.

    Args:
        modules: names of top-level modules that code imports.
        requirements: what the code declares.
    """
    names = {normalized_name(requirement) for requirement in requirements}
    foreign = [module for module in dict.fromkeys(modules) if module not in sys.stdlib_module_names]
    unexplained = names - {distribution_of(module) for module in foreign}
    undeclared = [module for module in foreign if distribution_of(module) not in names]
    return [module for module in undeclared if not unexplained or module in _DISTRIBUTIONS]


def imported_packages(sources: Iterable[str]) -> list[str]:
    """Return the packages that codes import, each once, in their order; code that is no Python imports none."""
    modules = [item.module.partition(".")[0] for source in sources for item in imported_modules(source)]
    return list(dict.fromkeys(distribution_of(module) for module in missing_modules(modules, [])))


def requirements_digest(requirements: Sequence[str], interpreter: str) -> str:
    """Return the digest of a list of requirements, by which the folder of its packages is named.

    Args:
        requirements: the list; its order does not matter.
        interpreter: the version of Python and the platform, for which the packages are installed.
    """
    lines = [interpreter, *sorted({requirement.replace(" ", "") for requirement in requirements})]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
