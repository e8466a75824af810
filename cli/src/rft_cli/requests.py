"""Says how the completions of a run were asked for, and how its tuned model has to be asked."""

from __future__ import annotations

import json

from rft_api.foreign.text import printable
from rft_api.quantities import decimal_text
from rft_api.sampling import EvaluationSettings, Sampling
from rft_cli.texts import shorten


def describe_completions(evaluation: EvaluationSettings) -> str:
    """Return a sentence about the completions that were compared."""
    if not evaluation.temperature:
        return "Greedy completions."
    samples = evaluation.samples_per_prompt
    kind = f"Means of {samples} completions of each prompt, sampled" if samples > 1 else "Completions sampled"
    return f"{kind} at temperature {decimal_text(evaluation.temperature)}."


def describe_request(sampling: Sampling) -> str | None:
    """Return how the tuned model has to be asked; None when it needs nothing but its chat template."""
    parts = []
    if sampling.system_prompt is not None:
        parts.append(f"the system message {json.dumps(shorten(sampling.system_prompt, 80), ensure_ascii=False)}")
    if sampling.chat_template_arguments:
        arguments = json.dumps(sampling.chat_template_arguments, ensure_ascii=False)
        parts.append(f"chat_template_kwargs {arguments}")
    if sampling.stop_strings:
        parts.append(f"stop {json.dumps(sampling.stop_strings, ensure_ascii=False)}")
    return printable(f"Ask the tuned model with {', '.join(parts)}.") if parts else None
