"""The builtin Math: 1 when the completion's final answer equals the ground truth, else 0."""

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

# Its warnings say that its own time limits are off: the worker has better ones.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_PLAIN = re.compile(r"([-+]?)(\d+(?:\.\d*)?|\.\d+)(?:[eE]([-+]?\d{1,3}))?")
_FRACTION = re.compile(r"([-+]?)(?:(\d+)\s+)?(\d+)/(\d+)")
_LATEX_FRACTION = re.compile(r"([-+]?)\s*(\d*)\s*\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+\b)?(?:\s*/\s*\d+)?%?"
    r"(?!\d|[A-Za-z]\b)"  # no part of a longer number, no coefficient
)
_UNIT = re.compile(r"(?<=[\d\s%])(?:\\(?:text|mathrm)\s*\{[^{}]*\}|\s(?!pi\b)[A-Za-z]{2,}(?:\s[A-Za-z]+)*)$")
# Thousands separated by spaces, apostrophes or points. One point alone is a decimal point, whatever follows it, unless
# a decimal comma comes after it; a comma alone separates thousands, or the members of a list.
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
"""Units that are told apart: an answer in metres is not one in kilometres."""
_ANSWER_IS = re.compile(r"answer(?:\s+is|\s*:|\s*=)\s*:?\s*([^\n]+)", re.IGNORECASE)
_LONGEST_ANSWER = 1000


def build(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.MathReward`."""
    tolerance = Fraction(options["relativeTolerance"])

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        expected = _explicit_answer(expected_text(sample, options.get("answerKey")))
        answer = final_answer(completion_text(sample))
        score = float(answer is not None and equal(answer, expected, tolerance))
        return score, [("correct", score, "Reward"), ("answer_found", float(answer is not None), "Metric")]

    return grade


def final_answer(completion: str) -> str | None:
    """The last \\boxed{}, else what follows ####, else what follows `answer is`, else the last number."""
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
    if re.search(r"[\\^=+_({]", sentence):  # an expression; of an equation, its right side
        return sentence.rpartition("=")[2]
    numbers = _NUMBER.findall(sentence)
    return numbers[0] if numbers else sentence  # `therefore 12 apples in total`


def equal(answer: str, expected: str, tolerance: Fraction) -> bool:
    """Whether two answers are the same number, within the tolerance, or the same expression, or the same text."""
    answer, expected = _clean(answer), _clean(expected)
    if answer == expected and answer:
        return True
    units = unit(answer), unit(expected)
    if None not in units and units[0] != units[1]:
        return False
    given, wanted = number(answer), number(expected)
    if given is not None and wanted is not None:
        # A percent sign on one side only leaves open which was meant: 50 % is 50 and 0.5.
        readings = [given] if answer.endswith("%") == expected.endswith("%") else [given, _rescaled(given, answer)]
        return any(abs(reading - wanted) <= tolerance * abs(wanted) for reading in readings)
    if max(len(answer), len(expected)) > _LONGEST_ANSWER:
        return False
    if answer.casefold() == expected.casefold():
        return True
    return _equal_expressions(answer, expected, tolerance)


def unit(text: str) -> str | None:
    """The known unit that follows a number, as its short name; None without one."""
    match = _MEASURED.search(text)
    if match is None:
        return None
    name = match[1].casefold()
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))


def number(text: str) -> Fraction | None:
    """The number that a cleaned text is, exactly: 1,234.5  3/4  1 1/2  2e3  50%  7 apples  \\frac{3}{4}; else None."""
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


def _rescaled(given: Fraction, answer: str) -> Fraction:
    return given / 100 if answer.endswith("%") else given * 100


def _clean(text: str) -> str:
    text = text.strip()
    for wrapped in (r"\$(.*)\$", r"\\\((.*)\\\)", r"\\\[(.*)\\\]", r"\*\*(.*)\*\*"):
        if match := re.fullmatch(wrapped, text, re.DOTALL):
            text = match[1].strip()
    if match := re.fullmatch(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", text):
        text = match[1]
    text = re.sub(r"\\[!,;: ]|\{,\}", lambda found: "," if found[0] == "{,}" else "", text)
    text = re.sub(r"\\?[$]|[€£¥₩₹]", "", text).replace("\\%", "%").replace("−", "-")
    text = re.sub(r"\s*/\s*", "/", text.strip().rstrip(".").strip())
    return re.sub(r"\s+%$", "%", text)


def _explicit_answer(reference: str) -> str:
    """The ground truth; of a worked solution, what it marks as the answer."""
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
    given, wanted = _expressions(answer), _expressions(expected)
    if not given or not wanted:
        return False
    try:
        if verify(wanted, given, timeout_seconds=None, raise_on_error=True):
            return True
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy cannot compare, say, a set with a number: then they are not equal
        return False
    if not tolerance:
        return False
    try:
        difference = abs(float(given[0]) - float(wanted[0]))
        return difference <= float(tolerance) * abs(float(wanted[0]))
    except (TypeError, ValueError, OverflowError, AttributeError):  # not numbers
        return False


def _expressions(text: str) -> list[Any]:
    # No `parsing_timeout`: it would replace the alarm that bounds this sample.
    found = parse_expression(
        f"${text}$",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,
    )
    return [expression for expression in found if not isinstance(expression, str)]
