"""The builtins Rouge, Bleu and ChrF: the score is the overlap of a text with the reference answer, from 0 to 1."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rft_reward.graders.f1 import overlap
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text

# Words of any script (rouge-score has only ASCII). In scripts without spaces, each character is a word.
_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|(?:(?![぀-ヿ㐀-鿿豈-﫿])[^\W_])+")

Measure = Callable[[str, str], float]
"""A function that returns the score of a text and its reference, from 0 to 1."""


def build_rouge(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.RougeReward`."""
    variant = options["variant"].removeprefix("Rouge")

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        reference = expected_text(sample, options.get("answerKey"))
        precision, recall, score = rouge(completion_text(sample), reference, variant)
        return score, [("rouge", score, "Reward"), ("precision", precision, "Metric"), ("recall", recall, "Metric")]

    return grade


def build_bleu(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.BleuReward`."""
    return _measured("bleu", bleu(options["tokenizer"]), options.get("answerKey"))


def build_chrf(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.ChrFReward`."""
    return _measured("chrf", chrf(options["wordOrder"]), options.get("answerKey"))


def _measured(component: str, measure: Measure, answer_key: str | None) -> GradeSample:
    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        score = measure(completion_text(sample), expected_text(sample, answer_key))
        return score, [(component, score, "Reward")]

    return grade


def rouge(text: str, reference: str, variant: str) -> tuple[float, float, float]:
    """Return precision, recall and F1 of n-grams of words (`variant` is n), or of the longest common subsequence
    (`L`)."""
    words, expected = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    if variant != "L":
        return _share(ngrams(words, int(variant)), ngrams(expected, int(variant)))
    if not words or not expected:
        return 0.0, 0.0, 0.0
    from rapidfuzz.distance import LCSseq

    common = int(LCSseq.similarity(words, expected))
    return common / len(words), common / len(expected), 2 * common / (len(words) + len(expected))


def bleu(tokenizer: str) -> Measure:
    """Return the sentence BLEU of SacreBLEU: n-grams up to 4, as far as the text has them, with exponential
    smoothing."""
    _single_thread()
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer, effective_order=True)
    return lambda text, reference: _unit(metric.sentence_score(text, [reference]).score / 100)


def chrf(word_order: int) -> Measure:
    """Return chrF of SacreBLEU: sequences of up to 6 characters, and of up to `word_order` words."""
    _single_thread()
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(word_order=word_order)
    return lambda text, reference: _unit(metric.sentence_score(text, [reference]).score / 100)


def gleu(text: str, reference: str) -> float:
    """Return the sentence GLEU of Google: the minimum of precision and recall over all n-grams of words with n from 1
    to 4."""
    sides = text.split(), reference.split()
    counts = [sum((ngrams(words, n) for n in range(1, 5)), Counter()) for words in sides]
    common = (counts[0] & counts[1]).total()
    most = max(counts[0].total(), counts[1].total())
    return common / most if most else 0.0


def ngrams(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    """Return the sequences of `length` words, with their number of occurrences."""
    return Counter(zip(*(words[start:] for start in range(length)), strict=False))


def _share(actual: Counter[tuple[str, ...]], expected: Counter[tuple[str, ...]]) -> tuple[float, float, float]:
    return overlap(actual, expected) if actual and expected else (0.0, 0.0, 0.0)


def _single_thread() -> None:
    # Threads of NumPy would count against the worker's limits of processes and address space.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))  # rounding can give 100.00000000000004 %
