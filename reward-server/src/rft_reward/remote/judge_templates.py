"""The templates of the judges: their tasks, and their rubrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A template."""

    task: str
    """The task, in one sentence."""
    rubric: str
    """What earns each rating. `judge.rubric` replaces it."""


TEMPLATES = {
    "InstructionFollowing": Template(
        "Rate how well the answer does what the conversation asks for.",
        """5: does everything that was asked, explicit constraints (format, length, language, tone) included; \
correct and without padding.
4: does what was asked, with a slight flaw that costs the reader nothing.
3: does the main thing, but misses or breaks one explicit constraint, or has a minor error.
2: does only part of what was asked, or has errors that matter.
1: does not do what was asked: off topic, empty, a needless refusal, or wrong.
Length by itself earns nothing. If there is a reference, it is an example of a good answer, not the only one.""",
    ),
    "Summarization": Template(
        "Rate the answer as a summary of the text in the conversation.",
        """5: every main point, nothing that the text does not say, much shorter than the text, reads well.
4: every main point and nothing invented, but somewhat wordy or clumsy.
3: one main point is missing, or a detail is imprecise.
2: several main points are missing, or something stated is not in the text.
1: contradicts the text, is mostly copied or invented, or is no summary.
If there is a reference, it shows which points are main points.""",
    ),
    "Reasoning": Template(
        "Rate the answer's reasoning and its result.",
        """5: the result is right, and every step is correct, needed and follows from those before.
4: the result is right; a step is left out or loosely put, but none is wrong.
3: the result is right but a step is wrong, or the approach is right and a slip makes the result wrong.
2: the approach has a correct part, but the result is wrong because of it.
1: wrong throughout, or no reasoning and no right result.
If there is a reference, it is the right result: an answer that ends in another one earns at most 3.""",
    ),
    "Faithfulness": Template(
        "Rate whether the answer says only what the context supports.",
        """5: every claim is supported by the context, and the question is answered as far as the context allows.
4: every claim is supported, but something that the context has to say on the question is missing.
3: one minor claim is not supported by the context.
2: an important claim is not supported by the context.
1: contradicts the context, or is mostly unsupported.
What is true in the world but not in the context counts as unsupported. Saying that the context does not hold the
answer earns 5 where that is so.""",
    ),
}
