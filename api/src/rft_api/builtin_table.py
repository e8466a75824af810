"""The table of the verifiable rewards that come with the reward server: options, one line about each, an example.

How each is computed stands in the table `rft_reward.graders.builtin`; a test holds that both have the same names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.json_schema import schema_problems
from rft_api.languages import LANGUAGES
from rft_api.model import Json, Model, Rule, Violation, camel
from rft_api.quantities import AtLeast, Between, Boolean, DecimalString, Duration, Integer, duration_seconds
from rft_api.resource import FreeForm


def _check_pattern(pattern: str) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PydanticCustomError("pattern", "is not a regular expression: {error}", {"error": str(error)}) from None
    return pattern


def _check_language(code: str) -> str:
    if code not in LANGUAGES:
        known = ", ".join(sorted(LANGUAGES))
        raise PydanticCustomError(
            "language", "{code} cannot be told; known are {known}", {"code": code, "known": known}
        )
    return code


AnswerKey = Annotated[str, Field(min_length=1, max_length=128)]
Pattern = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_pattern)]
Language = Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$"), AfterValidator(_check_language)]
Count = Annotated[Integer, Field(ge=0)]
Texts = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)]


class BuiltinOptions(Model):
    """A builtin's entry in the table: its options are the fields."""

    summary: ClassVar[str]
    """What it scores, in one line."""
    example: ClassVar[str]
    """The spec of a manifest to start from, as YAML with comments, with tests that pass."""
    options_required: ClassVar[bool] = False
    """Whether it means nothing without options."""

    def problems(self) -> Iterator[Violation]:
        """What is wrong with the options beyond their types, found by what takes time or imports to find out."""
        yield from ()

    def for_grader(self) -> Json:
        """The options as the grader takes them: JSON with every default filled in."""
        return self.to_json_object()


class MathReward(BuiltinOptions):
    """Options of the builtin Math."""

    summary: ClassVar[str] = "whether the final answer equals the ground truth: numbers, fractions, units, LaTeX"
    example: ClassVar[str] = """
    builtin:
      name: Math
      # math: {relativeTolerance: "0.01", answerKey: final_answer}
    tests:
    - prompt: What is 6 times 7?
      completion: "6 * 7 = 42, so\\n#### 42"
      referenceAnswer: "42"
      expect: {minimum: "1"}
    - prompt: What is 6 times 7?
      completion: "#### 41"
      referenceAnswer: "42"
      expect: {maximum: "0"}
    """

    relative_tolerance: Annotated[DecimalString, Between("0", "1")] = "0"
    """Difference from the ground truth, relative to it, that still counts as right."""
    answer_key: AnswerKey | None = None
    """Field that holds the ground truth when the reference answer is an object."""


class ExactMatchReward(BuiltinOptions):
    """Options of the builtin ExactMatch."""

    summary: ClassVar[str] = "whether the answer is the expected text"
    example: ClassVar[str] = """
    builtin:
      name: ExactMatch
      exactMatch:
        squad: true                          # without case, punctuation, and a, an, the
        pattern: "<answer>(.*?)</answer>"    # where the answer stands; the whole completion when absent
    tests:
    - prompt: Capital of France?
      completion: "<answer>paris.</answer>"
      referenceAnswer: Paris
      expect: {minimum: "1"}
    - prompt: Capital of France?
      completion: "<answer>Rome</answer>"
      referenceAnswer: Paris
      expect: {maximum: "0"}
    """

    ignore_case: Boolean = False
    """Whether upper and lower case are the same."""
    ignore_whitespace: Boolean = False
    """Whether runs of white space count as one space; white space around the answer never counts."""
    ignore_punctuation: Boolean = False
    """Whether punctuation is removed before comparing."""
    squad: Boolean = False
    """Whether texts are compared as SQuAD does: without case, ASCII punctuation, runs of white space, a, an, the."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""
    pattern: Pattern | None = None
    """Regular expression: the first group of its last match, or the whole match, is the answer; no match scores 0."""


class F1Reward(BuiltinOptions):
    """Options of the builtin F1."""

    summary: ClassVar[str] = "F1 over labels, or over the words of a text"
    example: ClassVar[str] = """
    builtin:
      name: F1
      f1: {compare: Labels}                  # or Tokens, as SQuAD compares texts
    tests:
    - prompt: Which topics?
      completion: "billing, refund"
      referenceAnswer: "refund, billing"
      expect: {minimum: "1"}
    - prompt: Which topics?
      completion: billing
      referenceAnswer: "refund, billing"
      expect: {maximum: "0.7"}
    """

    compare: Literal["Labels", "Tokens"] = "Labels"
    """Labels compares sets of labels (a JSON list, or separated by commas or lines). Tokens compares words as SQuAD
    does, each as often as it occurs."""
    ignore_case: Boolean = True
    """Whether upper and lower case of labels are the same; those of tokens always are."""
    answer_key: AnswerKey | None = None
    """Field that holds the labels or the text when the reference answer is an object."""
    pattern: Pattern | None = None
    """Regular expression: the first group of its last match, or the whole match, is the answer; no match scores 0."""


class JsonReward(BuiltinOptions):
    """Options of the builtin Json."""

    summary: ClassVar[str] = "F1 over the fields of the completion's JSON, under a schema"
    example: ClassVar[str] = """
    builtin:
      name: Json
      json:
        jsonSchema: {type: object, required: [category]}
    tests:
    - prompt: Sort it.
      completion: "{\\"category\\": \\"billing\\"}"
      referenceAnswer: {category: billing}
      expect: {minimum: "1"}
    - prompt: Sort it.
      completion: billing
      referenceAnswer: {category: billing}
      expect: {maximum: "0"}
    """

    json_schema: FreeForm | None = None
    """JSON Schema (draft 2020-12): a completion that breaks it scores 0. Other documents are never fetched."""
    compare_values: Boolean = True
    """Whether fields are compared with the reference answer's (F1 over fields). If not, valid JSON that keeps the
    schema scores 1, without a reference answer."""
    allow_code_fence: Boolean = True
    """Whether the whole completion may be one Markdown code fence around the JSON."""

    def problems(self) -> Iterator[Violation]:
        """What makes jsonSchema unusable."""
        if self.json_schema is not None:
            for message in schema_problems(self.json_schema):
                yield Violation(message, ("jsonSchema",))


_BOUNDS = tuple(
    f"{end}_{unit}" for unit in ("characters", "words", "sentences", "lines") for end in ("minimum", "maximum")
)
_SCALARS = ("pattern", *_BOUNDS, "language")


class FormatReward(BuiltinOptions):
    """Options of the builtin Format: the share of the stated constraints that hold."""

    summary: ClassVar[str] = "the share of constraints that hold: pattern, lengths, texts, language"
    example: ClassVar[str] = """
    builtin:
      name: Format
      format:
        pattern: "<think>.*</think>.*"
        maximumWords: 200
        excludes: ["As an AI"]
        language: en
    tests:
    - prompt: Hello
      completion: "<think>They greet me.</think>Hello, how are you today?"
      expect: {minimum: "1"}
    - prompt: Hello
      completion: As an AI I cannot greet you.
      expect: {maximum: "0.5"}
    """
    options_required: ClassVar[bool] = True

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=" || ".join(f"has(self.{camel(name)})" for name in _SCALARS)
            + " || (has(self.contains) && size(self.contains) > 0) || (has(self.excludes) && size(self.excludes) > 0)",
            message="state a constraint: pattern, language, contains, excludes, or a minimum or maximum of characters, "
            "words, sentences or lines",
            holds=lambda options: bool(
                options.contains or options.excludes or any(getattr(options, name) is not None for name in _SCALARS)
            ),
        ),
    )

    pattern: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_check_pattern)] | None = None
    """Regular expression that the whole completion must match (dots match new lines)."""
    minimum_characters: Count | None = None
    """Fewest characters."""
    maximum_characters: Count | None = None
    """Most characters."""
    minimum_words: Count | None = None
    """Fewest words: runs of characters without white space."""
    maximum_words: Count | None = None
    """Most words."""
    minimum_sentences: Count | None = None
    """Fewest sentences: ended by . ! ? or … before white space, or by 。 ！ or ？."""
    maximum_sentences: Count | None = None
    """Most sentences."""
    minimum_lines: Count | None = None
    """Fewest lines that are not blank."""
    maximum_lines: Count | None = None
    """Most lines that are not blank."""
    contains: Texts = []
    """Texts that must occur, each a constraint of its own."""
    excludes: Texts = []
    """Texts that must not occur, each a constraint of its own."""
    language: Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$"), AfterValidator(_check_language)] | None = (
        None
    )
    """Language that the completion must be in, as its ISO 639-1 code, such as en; guessed from its characters."""


class CodeReward(BuiltinOptions):
    """Options of the builtin Code: the share of the data row's tests that the completion's Python code passes."""

    summary: ClassVar[str] = "the share of the data row's tests that the completion's Python code passes"
    example: ClassVar[str] = """
    builtin:
      name: Code
      code:
        testsKey: tests                      # field of the data row: asserts, or a list of {input, output}
        timeout: 3s
    tests:
    - prompt: "Write add(a, b)."
      completion: |
        ```python
        def add(a, b):
            return a + b
        ```
      metadata: {tests: "assert add(1, 2) == 3\\nassert add(-1, 1) == 0"}
      expect: {minimum: "1"}
    - prompt: "Read a number and print its double."
      completion: "print(int(input()) + 2)"
      metadata: {tests: [{input: "2", output: "4"}, {input: "3", output: "6"}]}
      expect: {minimum: "0.5", maximum: "0.5"}
    """

    tests_key: AnswerKey = "tests"
    """Field with the tests: of the reference answer when that is an object, else of the row."""
    require_all: Boolean = False
    """Whether code that fails a test scores 0; otherwise the score is the share of passed tests."""
    timeout: Annotated[Duration, AtLeast("1s")] = "3s"
    """Time for all tests of one completion, at most a tenth of spec.timeout; tests not passed by then fail."""

    def for_grader(self) -> Json:
        """The options with the timeout in seconds."""
        return {**super().for_grader(), "seconds": duration_seconds(self.timeout)}


class RougeReward(BuiltinOptions):
    """Options of the builtin Rouge: F1 of what a text has in common with the reference answer."""

    summary: ClassVar[str] = "ROUGE: words, pairs or sequences of words in common with the reference"
    example: ClassVar[str] = """
    builtin:
      name: Rouge
      rouge: {variant: RougeL}               # or Rouge1, Rouge2
    tests:
    - prompt: Sum it up.
      completion: the cat sat
      referenceAnswer: The cat sat.
      expect: {minimum: "1"}
    - prompt: Sum it up.
      completion: a dog
      referenceAnswer: The cat sat.
      expect: {maximum: "0"}
    """

    variant: Literal["Rouge1", "Rouge2", "RougeL"] = "RougeL"
    """Whether words, pairs of words, or the longest common subsequence of words are compared."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


class BleuReward(BuiltinOptions):
    """Options of the builtin Bleu: the sentence's BLEU from 0 to 1."""

    summary: ClassVar[str] = "BLEU of the sentence, as SacreBLEU computes it"
    example: ClassVar[str] = """
    builtin:
      name: Bleu
      # bleu: {tokenizer: zh}                # where words are not separated by spaces: zh or char
    tests:
    - prompt: Translate.
      completion: The cat sat on it.
      referenceAnswer: The cat sat on it.
      expect: {minimum: "1"}
    - prompt: Translate.
      completion: Hello
      referenceAnswer: The cat sat on it.
      expect: {maximum: "0.1"}
    """

    tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"
    """SacreBLEU's tokenizer; zh or char where words are not separated by spaces."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


class ChrFReward(BuiltinOptions):
    """Options of the builtin ChrF: F-score of common character sequences from 0 to 1."""

    summary: ClassVar[str] = "chrF: sequences of characters in common with the reference"
    example: ClassVar[str] = """
    builtin:
      name: ChrF
      chrF: {wordOrder: 2}                   # 2 makes it chrF++
    tests:
    - prompt: Translate.
      completion: The cat sat on it.
      referenceAnswer: The cat sat on it.
      expect: {minimum: "1"}
    - prompt: Translate.
      completion: Hello
      referenceAnswer: The cat sat on it.
      expect: {maximum: "0.2"}
    """

    word_order: Annotated[Integer, Field(ge=0, le=2)] = 0
    """Longest sequences of words that count besides characters; 2 makes it chrF++."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


BUILTINS: Mapping[str, type[BuiltinOptions]] = {
    "Math": MathReward,
    "ExactMatch": ExactMatchReward,
    "F1": F1Reward,
    "Json": JsonReward,
    "Format": FormatReward,
    "Code": CodeReward,
    "Rouge": RougeReward,
    "Bleu": BleuReward,
    "ChrF": ChrFReward,
}
"""Every builtin by its name, in the order in which they are listed."""


def options_key(name: str) -> str:
    """The field of a builtin's options in manifests: `exactMatch` for ExactMatch."""
    return name[0].lower() + name[1:]
