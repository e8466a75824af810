"""The verifiable rewards that come with the reward server, and their options."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.model import Model, Rule, camel
from rft_api.quantities import Between, Boolean, DecimalString, Duration, Integer
from rft_api.resource import FreeForm

AnswerKey = Annotated[str, Field(min_length=1, max_length=128)]
Pattern = Annotated[str, Field(min_length=1, max_length=1024)]
Count = Annotated[Integer, Field(ge=0)]
Texts = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)]


class MathReward(Model):
    """Options of the builtin Math."""

    relative_tolerance: Annotated[DecimalString, Between("0", "1")] = "0"
    """Difference from the ground truth, relative to it, that still counts as right."""
    answer_key: AnswerKey | None = None
    """Field that holds the ground truth when the reference answer is an object."""


class ExactMatchReward(Model):
    """Options of the builtin ExactMatch."""

    ignore_case: Boolean = False
    """Whether upper and lower case are the same."""
    ignore_whitespace: Boolean = False
    """Whether runs of white space count as one space; white space around the answer never counts."""
    ignore_punctuation: Boolean = False
    """Whether punctuation is removed before comparing."""
    squad: Boolean = False
    """Whether texts are compared as SQuAD does: without case, punctuation, runs of white space and a, an, the."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""
    pattern: Pattern | None = None
    """Regular expression whose first group (or whole match), last found in the completion, is the answer."""


class F1Reward(Model):
    """Options of the builtin F1."""

    compare: Literal["Labels", "Tokens"] = "Labels"
    """Labels compares sets of labels (a JSON list, or separated by commas or lines); Tokens compares words as SQuAD."""
    ignore_case: Boolean = True
    """Whether upper and lower case of labels are the same; those of tokens always are."""
    answer_key: AnswerKey | None = None
    """Field that holds the labels or the text when the reference answer is an object."""
    pattern: Pattern | None = None
    """Regular expression whose first group (or whole match), last found in the completion, is the answer."""


class JsonReward(Model):
    """Options of the builtin Json."""

    json_schema: FreeForm | None = None
    """JSON Schema that the completion must satisfy; otherwise the score is 0."""
    compare_values: Boolean = True
    """Whether fields are compared with the reference answer's (F1 over fields); otherwise being valid scores 1."""
    allow_code_fence: Boolean = True
    """Whether the JSON may stand in a Markdown code fence."""


_BOUNDS = tuple(
    f"{end}_{unit}" for unit in ("characters", "words", "sentences", "lines") for end in ("minimum", "maximum")
)
_SCALARS = ("pattern", *_BOUNDS, "language")


class FormatReward(Model):
    """Options of the builtin Format: the share of the stated constraints that hold."""

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

    pattern: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
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
    """Fewest sentences, told by their final punctuation."""
    maximum_sentences: Count | None = None
    """Most sentences."""
    minimum_lines: Count | None = None
    """Fewest lines that are not blank."""
    maximum_lines: Count | None = None
    """Most lines that are not blank."""
    contains: Texts = []
    """Texts that must occur."""
    excludes: Texts = []
    """Texts that must not occur."""
    language: Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$")] | None = None
    """Language that the completion must be in, as its ISO 639-1 code, such as en; guessed from its characters."""


class CodeReward(Model):
    """Options of the builtin Code: the share of the data row's tests that the completion's Python code passes."""

    tests_key: AnswerKey = "tests"
    """Field with the tests: of the reference answer when that is an object, else of the row."""
    require_all: Boolean = False
    """Whether code that fails a test scores 0; otherwise the score is the share of passed tests."""
    timeout: Duration = "3s"
    """Time for all tests of one completion; those that have not passed by then fail."""


class RougeReward(Model):
    """Options of the builtin Rouge: F1 of what a text has in common with the reference answer."""

    variant: Literal["Rouge1", "Rouge2", "RougeL"] = "RougeL"
    """Whether words, pairs of words, or the longest common subsequence of words are compared."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


class BleuReward(Model):
    """Options of the builtin Bleu: the sentence's BLEU from 0 to 1."""

    tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"
    """SacreBLEU's tokenizer; zh or char where words are not separated by spaces."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


class ChrFReward(Model):
    """Options of the builtin ChrF: F-score of common character sequences from 0 to 1."""

    word_order: Annotated[Integer, Field(ge=0, le=2)] = 0
    """Longest sequences of words that count besides characters; 2 makes it chrF++."""
    answer_key: AnswerKey | None = None
    """Field that holds the expected text when the reference answer is an object."""


_OPTIONS = {
    "Math": "math",
    "ExactMatch": "exact_match",
    "F1": "f1",
    "Json": "json_",
    "Format": "format",
    "Code": "code",
    "Rouge": "rouge",
    "Bleu": "bleu",
    "ChrF": "chr_f",
}
"""Each builtin's field for its options."""


def _key(field: str) -> str:
    return camel(field).rstrip("_")


class BuiltinReward(Model):
    """A verifiable reward that comes with the reward server."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=" && ".join(f"(!has(self.{_key(field)}) || self.name == '{name}')" for name, field in _OPTIONS.items()),
            message="options must be those of the builtin that name selects ("
            f"{', '.join(_key(field) for field in _OPTIONS.values())})",
            holds=lambda builtin: all(
                getattr(builtin, field) is None for name, field in _OPTIONS.items() if name != builtin.name
            ),
        ),
        Rule(
            cel="self.name != 'Format' || has(self.format)",
            message="builtin Format needs its constraints in format",
            holds=lambda builtin: builtin.name != "Format" or builtin.format is not None,
        ),
    )

    name: Literal["Math", "ExactMatch", "F1", "Json", "Format", "Code", "Rouge", "Bleu", "ChrF"]
    """Which one."""
    math: MathReward | None = None
    """Options of Math."""
    exact_match: ExactMatchReward | None = None
    """Options of ExactMatch."""
    f1: F1Reward | None = None
    """Options of F1."""
    json_: Annotated[JsonReward | None, Field(alias="json")] = None
    """Options of Json."""
    format: FormatReward | None = None
    """Options of Format."""
    code: CodeReward | None = None
    """Options of Code."""
    rouge: RougeReward | None = None
    """Options of Rouge."""
    bleu: BleuReward | None = None
    """Options of Bleu."""
    chr_f: ChrFReward | None = None
    """Options of ChrF."""
