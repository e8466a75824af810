"""The graders of OpenAI that need no model: string_check, text_similarity, python, and multi over these."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from rft_reward.graders.openai_formula import compute
from rft_reward.graders.openai_values import NotInCompletion, Values
from rft_reward.graders.per_sample import Component, over_samples
from rft_reward.graders.term import Grade, TimeLimit, Unscorable

Part = Callable[[Values], float]
"""A function that returns the score of one grader for the values of a sample."""


class CodeError(Unscorable):
    """The code of a python grader raised an exception, or returned something else than a number."""


def prepare(plan: dict[str, Any]) -> Callable[[], Grade]:
    """Import what the graders of a plan (`rft_reward.openai_plan`) need, and return the function that loads them."""
    ready = [(key, part, _prepare(part, f"grader_{key}")) for key, part in plan["graders"]]

    def load() -> Grade:
        parts = [(key, part.get("threshold"), start()) for key, part, start in ready]

        def grade(sample: dict[str, Any]) -> tuple[float, list[Component], *tuple[str, ...]]:
            values = Values(sample)
            scores: dict[str, float] = {}
            components: list[Component] = []
            errors: list[str] = []
            for key, threshold, part in parts:
                try:
                    scores[key] = part(values)
                except NotInCompletion:
                    scores[key] = 0.0
                except CodeError as error:
                    if not plan["zeroOnError"]:
                        raise Unscorable(f"grader {key}: {error}") from None
                    errors.append(f"grader {key}: {error}")
                    scores[key] = 0.0
                except Unscorable as error:
                    raise Unscorable(f"grader {key}: {error}") from None
                components.append((key, scores[key], "Reward"))
                if threshold is not None:
                    components.append((f"{key}/passed", float(scores[key] >= threshold), "Metric"))
            # Without a formula here, the server evaluates it, because some of its graders ask a model.
            score = 0.0 if plan["formula"] is None else compute(plan["formula"], scores)
            if plan["passed"] is not None and plan["formula"] is not None:
                name, threshold = plan["passed"]
                components.append((name, float(score >= threshold), "Metric"))
            return score, components, *errors

        return over_samples(grade)

    return load


def _prepare(part: dict[str, Any], module: str) -> Callable[[], Part]:
    match part["type"]:
        case "string_check":
            return lambda: _string_check(part)
        case "text_similarity":
            measure = _measure(part["metric"])
            return lambda: lambda values: measure(*values.render(part["input"], part["reference"]))
        case "python":
            from rft_reward.graders import python_code

            return lambda: _python(*python_code.import_function(part["source"], "grade", module))
    raise Unscorable(f"there is no grader of type {part['type']}")


def _string_check(part: dict[str, Any]) -> Part:
    def check(values: Values) -> float:
        text, reference = values.render(part["input"], part["reference"])
        match part["operation"]:
            case "eq":
                return float(text == reference)
            case "ne" | "neq":
                return float(text != reference)
            case "like":
                return float(reference in text)
        return float(reference.casefold() in text.casefold())

    return check


def _measure(metric: str) -> Callable[[str, str], float]:
    from rft_reward.graders import text_overlap

    if metric == "fuzzy_match":
        from rapidfuzz import fuzz, utils

        # OpenAI only names the library. The ratio and the preprocessing are those of the example in its guide.
        return lambda text, reference: fuzz.WRatio(text, reference, processor=utils.default_process) / 100
    if metric == "bleu":
        return text_overlap.bleu("13a")
    if metric == "gleu":
        return text_overlap.gleu
    variant = metric.removeprefix("rouge_").upper()
    return lambda text, reference: text_overlap.rouge(text, reference, variant)[2]


def _python(function: Callable[..., Any], file: str) -> Part:
    from rft_reward.graders import python_code

    def run(values: Values) -> float:
        try:
            score = function(values.sample, values.item)
        except (MemoryError, TimeLimit):
            raise
        except BaseException as error:
            raise CodeError(f"the code raised {python_code.describe(error, file)}") from None
        number = _number(score)
        if number is None:
            problem = f"grade must return a finite number, not {_shown(score)}"
            if isinstance(score, int) and type(score) is not int:
                # What looks like a number is a fault of the code for every sample: a 0 with a warning would hide it.
                raise Unscorable(f"{problem}; convert it by float()")
            raise CodeError(problem)
        return number

    return run


def _number(score: object) -> float | None:
    """Return the value of a score that is a float or an int, as OpenAI demands; None for anything else, booleans too.

    NumPy's float64 is a float. What a class of the user says that it is worth, `__float__`, is not asked for.
    """
    if type(score) is int:
        return float(score) if abs(score) <= sys.float_info.max else None
    number = float.__float__(score) if isinstance(score, float) else math.nan
    return number if math.isfinite(number) else None


def _shown(score: object) -> str:
    try:
        return f"{score!r:.100}"
    except (MemoryError, TimeLimit):
        raise
    except BaseException:  # classes of the user may raise anything, and long integers have no text
        return f"a value of type {type(score).__name__:.100}"
