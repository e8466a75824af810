"""The table of the builtin rewards: the options, a summary and an example of each.

The graders that compute them are in the table of `rft_reward.graders.builtin`. A test ensures that both tables have the
same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.builtin_options import AnswerKey, BuiltinOptions, Pattern, check_pattern
from rft_api.builtin_penalties import LengthPenaltyReward, RepetitionReward
from rft_api.json_schema import schema_problems
from rft_api.languages import LANGUAGES
from rft_api.model import Json, Rule, Violation, camel
from rft_api.quantities import AtLeast, Between, Boolean, DecimalString, Duration, Integer, duration_seconds
from rft_api.resource import FreeForm


def _check_language(code: str) -> str:
    if code not in LANGUAGES:
        message = "{code} is not a language that can be detected; use one of {codes}"
        raise PydanticCustomError("language", message, {"code": code, "codes": ", ".join(sorted(LANGUAGES))})
    return code


Language = Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$"), AfterValidator(_check_language)]
Count = Annotated[Integer, Field(ge=0)]
Texts = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)]


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
    """Largest relative difference from the ground truth at which an answer still counts as right."""
    answer_key: AnswerKey | None = None
    """Name of the field with the ground truth, for reference answers that are objects. By default it is final_answer,
    answer, value or text."""


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
    """Whether upper case and lower case count as the same."""
    ignore_whitespace: Boolean = False
    """Whether several characters of white space in a row count as one space. White space before and after the answer
    never counts."""
    ignore_punctuation: Boolean = False
    """Whether punctuation is removed before texts are compared."""
    squad: Boolean = False
    """Whether texts are compared as in SQuAD: without case, ASCII punctuation, runs of white space, a, an and the."""
    answer_key: AnswerKey | None = None
    """Name of the field with the expected text, for reference answers that are objects. By default it is final_answer,
    answer, value or text."""
    pattern: Pattern | None = None
    """Regular expression that finds the answer: the first group of its last match, or the whole match if there is no
    group. A completion without a match scores 0. By default the whole completion is the answer."""


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
    """Labels compares sets of labels, from a JSON list or separated by commas or line breaks. Tokens compares words as
    in SQuAD, each as often as it occurs."""
    ignore_case: Boolean = True
    """Whether upper case and lower case count as the same in labels. When tokens are compared, they always count as the
    same."""
    answer_key: AnswerKey | None = None
    """Name of the field with the labels or the text, for reference answers that are objects. By default it is
    final_answer, answer, value or text."""
    pattern: Pattern | None = None
    """Regular expression that finds the answer, as in the builtin ExactMatch."""


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
    """JSON Schema (draft 2020-12) that the completion must satisfy. Otherwise it scores 0. Other documents are never
    fetched."""
    compare_values: Boolean = True
    """Whether the fields are compared with those of the reference answer, by F1. If not, valid JSON that satisfies the
    schema scores 1, and no reference answer is needed."""
    allow_code_fence: Boolean = True
    """Whether the JSON may be in a Markdown code fence that is the whole completion."""

    def problems(self) -> Iterator[Violation]:
        """Yield what makes jsonSchema unusable."""
        if self.json_schema is not None:
            for message in schema_problems(self.json_schema):
                yield Violation(message, ("jsonSchema",))


_BOUNDS = tuple((f"minimum_{unit}", f"maximum_{unit}") for unit in ("characters", "words", "sentences", "lines"))
_SCALARS = ("pattern", *(name for bounds in _BOUNDS for name in bounds), "language")


def _ordered(minimum: str, maximum: str) -> Rule:
    """Return the rule that a minimum is not above its maximum, because then no completion could satisfy both."""
    low, high = camel(minimum), camel(maximum)

    def holds(options: FormatReward) -> bool:
        least, most = getattr(options, minimum), getattr(options, maximum)
        return least is None or most is None or least <= most

    return Rule(
        cel=f"!has(self.{low}) || !has(self.{high}) || self.{low} <= self.{high}",
        message=f"{low} must not be above {high}",
        holds=holds,
    )


class FormatReward(BuiltinOptions):
    """Options of the builtin Format: the constraints. The score is the share of the constraints that hold."""

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
            + " || size(self.contains) > 0 || size(self.excludes) > 0",
            message="state a constraint: pattern, language, contains, excludes, or a minimum or maximum of characters, "
            "words, sentences or lines",
            holds=lambda options: bool(
                options.contains or options.excludes or any(getattr(options, name) is not None for name in _SCALARS)
            ),
        ),
        *(_ordered(minimum, maximum) for minimum, maximum in _BOUNDS),
    )

    pattern: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(check_pattern)] | None = None
    """Regular expression that the whole completion must match. A dot also matches a line break."""
    minimum_characters: Count | None = None
    """Minimum number of characters."""
    maximum_characters: Count | None = None
    """Maximum number of characters."""
    minimum_words: Count | None = None
    """Minimum number of words, which are runs of characters without white space."""
    maximum_words: Count | None = None
    """Maximum number of words."""
    minimum_sentences: Count | None = None
    """Minimum number of sentences. A sentence ends with . ! ? or … before white space, or with 。 ！ or ？."""
    maximum_sentences: Count | None = None
    """Maximum number of sentences."""
    minimum_lines: Count | None = None
    """Minimum number of lines that are not blank."""
    maximum_lines: Count | None = None
    """Maximum number of lines that are not blank."""
    contains: Texts = []
    """Texts that must occur. Each of them is a constraint."""
    excludes: Texts = []
    """Texts that must not occur. Each of them is a constraint."""
    language: Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$"), AfterValidator(_check_language)] | None = (
        None
    )
    """ISO 639 code, such as en, of the language in which most of the completion must be. The language is guessed from
    the characters of the completion."""


class CodeReward(BuiltinOptions):
    """Options of the builtin Code: the score is the share of the data row's tests that the completion's code passes."""

    summary: ClassVar[str] = "the share of the data row's tests that the completion's Python code passes"
    example: ClassVar[str] = """
    builtin:
      name: Code
      code:
        testsKey: tests                      # field of the data row: asserts, or a list of {input, output}
        timeout: 3s
    tests:
    - prompt: "Write add(a, b)."
      completion: |                          # code, or a text with the code in a code fence
        def add(a, b):
            return a + b
      metadata: {tests: "assert add(1, 2) == 3\\nassert add(-1, 1) == 0"}
      expect: {minimum: "1"}
    - prompt: "Read a number and print its double."
      completion: "print(int(input()) + 2)"
      metadata: {tests: [{input: "2", output: "4"}, {input: "3", output: "6"}]}
      expect: {minimum: "0.5", maximum: "0.5"}
    """

    tests_key: AnswerKey = "tests"
    """Field of the tests, in the reference answer if that is an object, and otherwise in the data row."""
    require_all: Boolean = False
    """Whether code that fails any test scores 0. Otherwise the score is the share of the tests that it passes."""
    timeout: Annotated[Duration, AtLeast("1s")] = "3s"
    """Maximum time for all tests of one completion, at most a tenth of spec.timeout. Tests that have not passed by then
    fail."""

    def for_grader(self) -> Json:
        """Return the options, with the timeout in seconds as well."""
        return {**super().for_grader(), "seconds": duration_seconds(self.timeout)}


class RougeReward(BuiltinOptions):
    """Options of the builtin Rouge: the score is the F1 of the words that a text shares with the reference answer."""

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
    """What is compared: words (Rouge1), pairs of words (Rouge2), or the longest common subsequence (RougeL)."""
    answer_key: AnswerKey | None = None
    """Name of the field with the expected text, for reference answers that are objects. By default it is final_answer,
    answer, value or text."""


class BleuReward(BuiltinOptions):
    """Options of the builtin Bleu: the score is the BLEU of the sentence, from 0 to 1."""

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
    """Tokenizer of SacreBLEU: zh or char for languages that do not separate words by spaces."""
    answer_key: AnswerKey | None = None
    """Name of the field with the expected text, for reference answers that are objects. By default it is final_answer,
    answer, value or text."""


class ChrFReward(BuiltinOptions):
    """Options of the builtin ChrF: the score is the F-score of common character sequences, from 0 to 1."""

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
    """Maximum length of the sequences of words that count beside sequences of characters. 2 makes it chrF++."""
    answer_key: AnswerKey | None = None
    """Name of the field with the expected text, for reference answers that are objects. By default it is final_answer,
    answer, value or text."""


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
    "LengthPenalty": LengthPenaltyReward,
    "Repetition": RepetitionReward,
}
"""Every builtin by its name, in the order of lists."""


def options_key(name: str) -> str:
    """Return the field of a builtin's options in manifests: `exactMatch` for ExactMatch."""
    return name[0].lower() + name[1:]
