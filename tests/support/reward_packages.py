"""The packages that the reward server's image brings for the code of users, and a use of each."""

from __future__ import annotations

from collections.abc import Iterable

USES = {
    "jsonschema": "jsonschema.Draft202012Validator({'type': 'integer'}).is_valid(1)",
    "math-verify": r"math_verify.verify(math_verify.parse(r'$\frac{1}{2}$'), math_verify.parse('0.5'))",
    "numpy": "numpy.linalg.norm([3, 4]) == 5",
    "pandas": "pandas.DataFrame({'a': [1, 2]}).a.sum() == 3",
    "pydantic": "pydantic.TypeAdapter(int).validate_python('1') == 1",
    "pyyaml": "yaml.safe_load('a: 1') == {'a': 1}",
    "rapidfuzz": "rapidfuzz.fuzz.ratio('a', 'a') == 100",
    "regex": r"regex.fullmatch(r'\p{Lu}', 'Ä')",
    "scipy": "scipy.stats.spearmanr([1, 2, 3], [1, 2, 3]).statistic > 0.99",
    "sympy": "sympy.simplify('sin(x)**2 + cos(x)**2') == 1",
}
"""An expression for each package that the image brings, which is true if the package works in the sandbox."""
MODULES = {"math-verify": "math_verify", "pyyaml": "yaml", "scipy": "scipy.stats", "rapidfuzz": "rapidfuzz.fuzz"}
"""Modules that do not have the name of their package."""


def using(packages: Iterable[str]) -> str:
    """The code of a reward that is the number of the packages that work, with a metric for each."""
    imports = "".join(f"import {MODULES.get(name, name)}\n" for name in packages)
    works = "".join(f"    works[{name!r}] = bool({USES[name]})\n" for name in packages)
    return (
        f"{imports}def lambda_handler(event, context):\n    works = {{}}\n{works}"
        "    metrics = [{'name': name, 'value': float(value)} for name, value in works.items()]\n"
        "    return [{'id': row['id'], 'aggregate_reward_score': float(sum(works.values())), 'metrics_list': metrics}"
        " for row in event]\n"
    )
