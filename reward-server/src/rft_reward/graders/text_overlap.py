"""The builtins Rouge, Bleu and ChrF: how much a text has in common with the reference answer, from 0 to 1."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rft_reward.graders.f1 import overlap
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text

# Words of any script, where the original has ASCII only; those that are written without spaces, sign by sign.
_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|(?:(?![぀-ヿ㐀-鿿豈-﫿])[^\W_])+")

Measure = Callable[[str, str], float]
"""From the text and the reference to a score from 0 to 1."""


def build_rouge(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.RougeReward`."""
    variant = options["variant"].removeprefix("Rouge")

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        reference = expected_text(sample, options.get("answerKey"))
        precision, recall, score = rouge(completion_text(sample), reference, variant)
        return score, [("rouge", score, "Reward"), ("precision", precision, "Metric"), ("recall", recall, "Metric")]

    return grade


def build_bleu(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.BleuReward`."""
    return _measured("bleu", bleu(options["tokenizer"]), options.get("answerKey"))


def build_chrf(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.ChrFReward`."""
    return _measured("chrf", chrf(options["wordOrder"]), options.get("answerKey"))


def _measured(component: str, measure: Measure, answer_key: str | None) -> GradeSample:
    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        score = measure(completion_text(sample), expected_text(sample, answer_key))
        return score, [(component, score, "Reward")]

    return grade


def rouge(text: str, reference: str, variant: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of n-grams of words (`variant` is n), or of their longest common subsequence (`L`)."""
    given, wanted = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    if variant != "L":
        return _share(ngrams(given, int(variant)), ngrams(wanted, int(variant)))
    if not given or not wanted:
        return 0.0, 0.0, 0.0
    from rapidfuzz.distance import LCSseq

    common = int(LCSseq.similarity(given, wanted))
    return common / len(given), common / len(wanted), 2 * common / (len(given) + len(wanted))


def bleu(tokenizer: str) -> Measure:
    """Sentence BLEU as SacreBLEU computes it: up to 4-grams, of those that the text has; smoothed exponentially."""
    _single_thread()
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer, effective_order=True)
    return lambda text, reference: _unit(metric.sentence_score(text, [reference]).score / 100)


def chrf(word_order: int) -> Measure:
    """chrF as SacreBLEU computes it: sequences of up to 6 characters, and of up to `word_order` words."""
    _single_thread()
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(word_order=word_order)
    return lambda text, reference: _unit(metric.sentence_score(text, [reference]).score / 100)


def gleu(text: str, reference: str) -> float:
    """Google's sentence BLEU: the lesser of precision and recall over all 1- to 4-grams of words."""
    given, wanted = text.split(), reference.split()
    counts = [sum((ngrams(words, n) for n in range(1, 5)), Counter()) for words in (given, wanted)]
    common = (counts[0] & counts[1]).total()
    most = max(counts[0].total(), counts[1].total())
    return common / most if most else 0.0


def ngrams(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    """How often each sequence of `length` words occurs."""
    return Counter(zip(*(words[start:] for start in range(length)), strict=False))


def _share(given: Counter[tuple[str, ...]], wanted: Counter[tuple[str, ...]]) -> tuple[float, float, float]:
    return overlap(given, wanted) if given and wanted else (0.0, 0.0, 0.0)


def _single_thread() -> None:
    # NumPy's threads would count against the worker's processes and reserve its address space.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))  # 100.00000000000004 % is 1
