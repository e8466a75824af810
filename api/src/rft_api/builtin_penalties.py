"""The builtin rewards that punish long and repetitive completions: their options."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.builtin_options import AnswerKey, BuiltinOptions
from rft_api.model import Rule
from rft_api.quantities import Integer, SignedDecimalString


class LengthPenaltyReward(BuiltinOptions):
    """Options of the builtin LengthPenalty: the score depends on the length of the completion."""

    summary: ClassVar[str] = "the length: a soft limit (DAPO), or a cosine by length and correctness"
    example: ClassVar[str] = """
    builtin:                                 # a term of `combine`, beside a reward for the content
      name: LengthPenalty
      lengthPenalty: {shape: SoftLimit, maximum: 1024, buffer: 256}    # or shape: Cosine
    tests:                                   # in training, tokens come from the trainer
    - prompt: "6 * 7?"
      completion: "#### 42"
      referenceAnswer: "42"
      metadata: {rft: {tokens: 700}}
      expect: {minimum: "0"}
    - prompt: "6 * 7?"
      completion: "#### 42"
      referenceAnswer: "42"
      metadata: {rft: {tokens: 896}}
      expect: {minimum: "-0.5", maximum: "-0.5"}
    """
    options_required: ClassVar[bool] = True
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.shape != 'SoftLimit' || (has(self.buffer) && self.buffer <= self.maximum)",
            message="shape SoftLimit needs buffer: the part of maximum in which the penalty grows",
            holds=lambda o: o.shape != "SoftLimit" or (o.buffer is not None and o.buffer <= o.maximum),
        ),
    )

    shape: Literal["SoftLimit", "Cosine"]
    """SoftLimit: 0 up to maximum - buffer, then linearly down to -1 at maximum, and -1 beyond, as in DAPO. Cosine: a
    right answer earns more the shorter it is, and a wrong one more the longer it is, as in Open-R1. Whether an answer
    is right is decided as by the builtin Math."""
    maximum: Annotated[Integer, Field(ge=1)]
    """Length from which on the score does not change any more."""
    buffer: Annotated[Integer, Field(ge=1)] | None = None
    """Length of the part before maximum in which the penalty of SoftLimit grows."""
    unit: Literal["Tokens", "Characters", "Words"] = "Tokens"
    """What is counted. Tokens are those of the trainer, in metadata.rft.tokens; without them a sample has an error."""
    right_short: SignedDecimalString = "1"
    """Score of Cosine for a right answer of length 0."""
    right_long: SignedDecimalString = "0.5"
    """Score of Cosine for a right answer of length maximum."""
    wrong_short: SignedDecimalString = "-1"
    """Score of Cosine for a wrong answer of length 0."""
    wrong_long: SignedDecimalString = "-0.5"
    """Score of Cosine for a wrong answer of length maximum."""
    answer_key: AnswerKey | None = None
    """Name of the field with the ground truth, for shape Cosine and reference answers that are objects. By default it
    is final_answer, answer, value or text."""


class RepetitionReward(BuiltinOptions):
    """Options of the builtin Repetition: the score is minus the share of the completion's n-grams that are repeated."""

    summary: ClassVar[str] = "repeated sequences of words: from 0 (none) to -1"
    example: ClassVar[str] = """
    builtin:                                 # a term of `combine`, beside a reward for the content
      name: Repetition
      repetition: {size: 2}
    tests:
    - prompt: "6 * 7?"
      completion: "it is 42"
      referenceAnswer: "42"
      expect: {minimum: "0"}
    - prompt: "6 * 7?"
      completion: "42 42 42 42 42"
      referenceAnswer: "42"
      expect: {maximum: "-0.7"}
    """

    size: Annotated[Integer, Field(ge=1, le=64)] = 3
    """Number of words, or characters, of a sequence (the n of n-gram)."""
    unit: Literal["Words", "Characters"] = "Words"
    """What sequences consist of: words, without regard to case, or characters, where words have no spaces."""
