"""The builtin Math: the score is 1 if the final answer of the completion equals the ground truth, and 0 otherwise."""

from __future__ import annotations

import logging
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, verify
from math_verify import parse as parse_expression

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text

# Its warnings say that its own time limits are off. The time limits of the worker apply instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_PLAIN = re.compile(r"([-+]?)(\d+(?:\.\d*)?|\.\d+)(?:[eE]([-+]?\d{1,3}))?")
_FRACTION = re.compile(r"([-+]?)(?:(\d+)\s+)?(\d+)/(\d+)")
_LATEX_FRACTION = re.compile(r"([-+]?)\s*(\d*)\s*\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+\b)?(?:\s*/\s*\d+)?%?"
    r"(?!\d|[A-Za-z]\b)"  # not a part of a longer number, and not a coefficient
)
_UNIT = re.compile(r"(?<=[\d\s%])(?:\\(?:text|mathrm)\s*\{[^{}]*\}|\s(?!pi\b)[A-Za-z]{2,}(?:\s[A-Za-z]+)*)$")
# Groups of thousands, separated by spaces, apostrophes or points. A single point is a decimal point unless a decimal
# comma follows it. A single comma separates thousands, or the elements of a list.
_GROUPED = re.compile(r"([-+]?)(\d{1,3}(?:[ \u00a0\u202f'’]\d{3})+)(?:[.,](\d+))?")
_POINT_GROUPED = re.compile(r"([-+]?)(\d{1,3}(?:\.\d{3})+),(\d+)|([-+]?)(\d{1,3}(?:\.\d{3}){2,})")
_MEASURED = re.compile(r"\d\s*(?:\\(?:text|mathrm)\s*\{\s*)?([A-Za-zµ]+)[\s}]*$")
_UNITS = {
    name: names[0]
    for names in (
        ("km", "kilometer", "kilometre"), ("m", "meter", "metre"), ("cm", "centimeter", "centimetre"),
        ("mm", "millimeter", "millimetre"), ("mi", "mile"), ("ft", "foot", "feet"), ("in", "inch", "inches"),
        ("yd", "yard"), ("kg", "kilogram"), ("g", "gram"), ("mg", "milligram"), ("lb", "pound"), ("oz", "ounce"),
        ("l", "liter", "litre"), ("ml", "milliliter", "millilitre"), ("h", "hr", "hour"), ("min", "minute"),
        ("s", "sec", "second"), ("ms", "millisecond"), ("day",), ("week",), ("month",), ("year",),
        ("dollar", "usd"), ("cent",), ("euro", "eur"),
    )
    for name in names
}  # fmt: skip
"""The names of units that are distinguished, and the short name of each: metres are not kilometres."""
_ANSWER_IS = re.compile(r"answer(?:\s+is|\s*:|\s*=)\s*:?\s*([^\n]+)", re.IGNORECASE)
_LONGEST_ANSWER = 1000


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.MathReward`."""
    tolerance = Fraction(options["relativeTolerance"])

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        expected = expected_answer(sample, options.get("answerKey"))
        answer = final_answer(completion_text(sample))
        score = float(answer is not None and equal(answer, expected, tolerance))
        return score, [("correct", score, "Reward"), ("answer_found", float(answer is not None), "Metric")]

    return grade


def is_right(sample: dict[str, Any], answer_key: str | None, tolerance: Fraction) -> bool:
    """Return whether the final answer of the completion equals the ground truth.

    Raises:
        Unscorable: there is no ground truth.
    """
    expected = expected_answer(sample, answer_key)
    answer = final_answer(completion_text(sample))
    return answer is not None and equal(answer, expected, tolerance)


def expected_answer(sample: dict[str, Any], answer_key: str | None) -> str:
    """Return the ground truth of a sample.

    Raises:
        Unscorable: there is none.
    """
    return _explicit_answer(expected_text(sample, answer_key))


def final_answer(completion: str) -> str | None:
    """Return the content of the last \\boxed{}, or else what follows ####, or what follows `answer is`, or the last
    number.

    What the model thought, between <think> and </think>, is no answer.
    """
    completion = completion.rpartition("</think>")[2]
    if "<think>" in completion:  # it was cut off before it answered
        return None
    boxed = _last_boxed(completion)
    if boxed is not None:
        return boxed
    if "####" in completion:
        after = completion.rpartition("####")[2].strip()
        return after.splitlines()[0] if after else None
    stated = _ANSWER_IS.findall(completion)
    if not stated:
        return next(reversed(_NUMBER.findall(completion)), None)
    sentence: str = re.split(r"[.;](?:\s|$)", stated[-1].strip(), maxsplit=1)[0].strip()
    if re.search(r"[\\^=+_({]", sentence):  # an expression, or the right side of an equation
        return sentence.rpartition("=")[2]
    numbers = _NUMBER.findall(sentence)
    return numbers[0] if numbers else sentence  # such as `therefore 12 apples in total`


def equal(answer: str, expected: str, tolerance: Fraction) -> bool:
    """Return whether two answers are the same number within the tolerance, the same expression, or the same text."""
    answer, expected = _clean(answer), _clean(expected)
    if answer == expected and answer:
        return True
    units = unit(answer), unit(expected)
    if None not in units and units[0] != units[1]:
        return False
    value, target = number(answer), number(expected)
    if value is not None and target is not None:
        # A percent sign on only one side is ambiguous: 50 % can be 50 or 0.5.
        readings = [value] if answer.endswith("%") == expected.endswith("%") else [value, _rescaled(value, answer)]
        return any(abs(reading - target) <= tolerance * abs(target) for reading in readings)
    if max(len(answer), len(expected)) > _LONGEST_ANSWER:
        return False
    if answer.casefold() == expected.casefold():
        return True
    if "\\" in expected and "".join(answer.split()) == "".join(expected.split()):  # white space means nothing in LaTeX
        return True
    return _equal_expressions(answer, expected, tolerance)


def unit(text: str) -> str | None:
    """Return the short name of the unit after a number; None if there is no known unit."""
    match = _MEASURED.search(text)
    if match is None:
        return None
    name = match[1].casefold()
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))


def number(text: str) -> Fraction | None:
    """Return the exact number of a text, such as 1,234.5  3/4  1 1/2  2e3  50%  7 apples  \\frac{3}{4}; None if it is
    none."""
    text = _UNIT.sub("", text).strip().removesuffix("%").strip()
    if len(text) > _LONGEST_ANSWER:
        return None
    if match := _GROUPED.fullmatch(text):
        text = match[1] + re.sub(r"\D", "", match[2]) + (f".{match[3]}" if match[3] else "")
    elif match := _POINT_GROUPED.fullmatch(text):
        text = (match[1] or match[4] or "") + (match[2] or match[5]).replace(".", "")
        text += f".{match[3]}" if match[3] else ""
    elif "," in text:
        if not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", text):
            return None
        text = text.replace(",", "")
    if match := _PLAIN.fullmatch(text):
        try:
            return Fraction(Decimal(match[0]))
        except (InvalidOperation, ValueError):
            return None
    if match := _FRACTION.fullmatch(text):
        whole, numerator, denominator = int(match[2] or 0), int(match[3]), int(match[4])
    elif match := _LATEX_FRACTION.fullmatch(text):
        whole, numerator, denominator = int(match[2] or 0), int(match[3] or match[4]), int(match[5] or match[6])
    else:
        return None
    if denominator == 0:
        return None
    value = whole + Fraction(numerator, denominator)
    return -value if match[1] == "-" else value


def _rescaled(value: Fraction, answer: str) -> Fraction:
    return value / 100 if answer.endswith("%") else value * 100


def _clean(text: str) -> str:
    text = text.strip()
    for wrapped in (r"\$(.*)\$", r"\\\((.*)\\\)", r"\\\[(.*)\\\]", r"\*\*(.*)\*\*"):
        if match := re.fullmatch(wrapped, text, re.DOTALL):
            text = match[1].strip()
    if match := re.fullmatch(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", text):
        text = match[1]
    text = re.sub(r"(?<!\\)\\[!,;: ]|\{,\}", lambda match: "," if match[0] == "{,}" else "", text)
    text = re.sub(r"\\?[$]|[€£¥₩₹]", "", text).replace("\\%", "%").replace("−", "-")
    text = re.sub(r"\s*/\s*", "/", text.strip().rstrip(".").strip())
    return re.sub(r"\s+%$", "%", text)


def _explicit_answer(reference: str) -> str:
    """Return the ground truth. Of a worked solution, it is what the solution marks as the answer."""
    boxed = _last_boxed(reference)
    return boxed if boxed is not None else reference.rpartition("####")[2]


def _last_boxed(text: str) -> str | None:
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position]
    return None


def _equal_expressions(answer: str, expected: str, tolerance: Fraction) -> bool:
    values, targets = _expressions(answer), _expressions(expected)
    if not values or not targets:
        return False
    try:
        if verify(targets, values, timeout_seconds=None, raise_on_error=True):
            return True
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy cannot compare some kinds, such as a set and a number; they are not equal
        return False
    if not tolerance:
        return False
    try:
        difference = abs(float(values[0]) - float(targets[0]))
        return difference <= float(tolerance) * abs(float(targets[0]))
    except (TypeError, ValueError, OverflowError, AttributeError):  # they are not numbers
        return False


def _expressions(text: str) -> list[Any]:
    # A `parsing_timeout` would replace the alarm that limits the time of this sample.
    expressions = parse_expression(
        f"${text}$",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,
    )
    return [expression for expression in expressions if not isinstance(expression, str)]
