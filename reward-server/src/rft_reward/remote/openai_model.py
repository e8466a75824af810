"""The graders of OpenAI that ask a model: score_model, label_model and text_similarity with cosine, also in a multi."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from rft_api.model import Json
from rft_api.openai_grader import AnyGrader, LabelModel, SamplingParameters, ScoreModel, TextSimilarity
from rft_api.openai_template import parse_template
from rft_reward import openai_plan
from rft_reward.graders.openai_formula import compute
from rft_reward.graders.openai_values import NotInCompletion, Values
from rft_reward.graders.term import Unscorable
from rft_reward.metrics import Metrics
from rft_reward.pool import Pool
from rft_reward.remote.cache import Cache
from rft_reward.remote.chat import ChatModel
from rft_reward.remote.embeddings import EmbeddingModel
from rft_reward.remote.errors import RemoteError, shortened
from rft_reward.remote.judge_reply import json_objects
from rft_reward.remote.pieces import cut, score_pieces

_REMEMBERED = 20_000
_TRIES = 2
"""Number of requests until a model must have given a valid answer."""

_SCORE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
                "required": ["description", "conclusion"],
                "additionalProperties": False,
            },
        },
        "result": {"type": "number"},
    },
    "required": ["steps", "result"],
    "additionalProperties": False,
}
_SCORE_FORM = (
    'Answer with one JSON object only: {"steps": [{"description": "...", "conclusion": "..."}], "result": NUMBER}, '
    "with your reasoning in steps and the score in result."
)


class OpenAIModelGrader:
    """Scores completions with a grader that has at least one part that asks a model.

    Args:
        grader: the grader.
        model: the model that is asked in place of those that the grader names; None if no part asks for an answer.
        embeddings: the model that is asked for embeddings; None if no part asks for them.
        workers: workers for the other parts, if there are any. This class starts and ends them.
        metrics: metrics of the server.
    """

    def __init__(
        self,
        grader: AnyGrader,
        model: ChatModel | None,
        embeddings: EmbeddingModel | None,
        workers: Pool | None,
        metrics: Metrics,
    ):
        self._parts = [
            (key, _Similarity(part) if isinstance(part, TextSimilarity) else _Question(part))
            for key, part in openai_plan.model_graders(grader)
        ]
        self._formula = openai_plan.formula(grader)
        self._passed = openai_plan.passed(grader)
        self._model = model
        self._embeddings = embeddings
        self._workers = workers
        self._metrics = metrics
        self._cache: Cache[tuple[float, str]] = Cache(_REMEMBERED)
        if workers is not None:
            workers.start()

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """See `RemoteGrader`."""
        computed = {} if self._workers is None else {row["id"]: row for row in await self._workers.score(samples)}

        async def score_one(piece: Sequence[Json]) -> list[Json]:
            return [await self._score(piece[0], computed.get(piece[0]["id"]), deadline)]

        return await score_pieces(cut(samples, 1), score_one, deadline, self._metrics)

    async def _score(self, sample: Json, computed: Json | None, deadline: float) -> Json:
        metrics = [] if computed is None else list(computed["metrics_list"])
        if computed is not None and computed["aggregate_reward_score"] is None:
            return computed
        values, reasons = Values(sample), []
        for key, part in self._parts:
            try:
                score, reason = await self._score_part(key, part, values, deadline)
            except NotInCompletion:
                score, reason = part.lowest, ""
            except Unscorable as error:
                raise RemoteError(f"grader {key}: {error}") from None
            metrics.append({"name": key, "value": score, "type": "Reward"})
            if part.threshold is not None:
                passed = float(score >= part.threshold)
                metrics.append({"name": f"{key}/passed", "value": passed, "type": "Metric"})
            reasons += [f"{key}: {reason}"] if reason else []
        try:
            total = compute(self._formula, {metric["name"]: metric["value"] for metric in metrics})
        except Unscorable as error:
            raise RemoteError(str(error)) from None
        if self._passed is not None:
            name, threshold = self._passed
            metrics.append({"name": name, "value": float(total >= threshold), "type": "Metric"})
        row: Json = {"id": sample["id"], "aggregate_reward_score": total, "metrics_list": metrics}
        if reasons:
            row["explanation"] = "\n".join(reasons)
        if computed is not None and "warnings" in computed:
            row["warnings"] = computed["warnings"]
        return row

    async def _score_part(
        self, key: str, part: _Question | _Similarity, values: Values, deadline: float
    ) -> tuple[float, str]:
        """Return the score of one part, and the reason for it in words."""
        if isinstance(part, _Similarity):
            assert self._embeddings is not None
            return await self._embeddings.similarity(*part.texts(values), deadline), ""
        messages = part.messages(values)
        digest = hashlib.sha256(json.dumps([key, messages]).encode()).digest()
        answer, cached = await self._cache.get(digest, partial(self._ask, part, messages, deadline))
        if cached:
            self._metrics.judge_cache_hits.inc()
        return answer

    async def _ask(self, question: _Question, messages: list[dict[str, str]], deadline: float) -> tuple[float, str]:
        assert self._model is not None
        for _ in range(_TRIES):
            completion = await self._model.complete(messages, question.schema, deadline, question.sampling)
            try:
                return question.read(completion.text)
            except ValueError as error:
                problem = str(error)
            wrong = {"role": "assistant", "content": completion.text or "(nothing)"}
            again = f"That is not the answer that was asked for: {problem}. {question.form}"
            messages = [*messages, wrong, {"role": "user", "content": again}]
        raise RemoteError(f"the model's answer holds no {question.field}: {shortened(completion.text)} ({problem})")

    async def close(self) -> None:
        """Cancel what is in progress, end the workers, and close the connections."""
        self._cache.cancel()
        if self._workers is not None:
            await self._workers.close()
        for model in (self._model, self._embeddings):
            if model is not None:
                await model.close()


class _Similarity:
    """The two texts of a grader whose embeddings are compared."""

    lowest = 0.0

    def __init__(self, grader: TextSimilarity):
        self._input, self._reference = parse_template(grader.input), parse_template(grader.reference)
        self.threshold = grader.pass_threshold

    def texts(self, values: Values) -> tuple[str, str]:
        """Return the texts for a sample."""
        text, reference = values.render(self._input, self._reference)
        return text, reference


class _Question:
    """The question of one grader, and the way to read its answer."""

    def __init__(self, grader: ScoreModel | LabelModel):
        self._templates = [(message.role, parse_template(message.content)) for message in grader.input]
        self.sampling = _sampling(grader.sampling_params)
        self._labels: dict[str, float] = {}
        self.threshold: float | None = None
        self.lowest = 0.0
        if isinstance(grader, LabelModel):
            self._labels = {label: float(label in grader.passing_labels) for label in grader.labels}
            self.field, self.schema = "label", _label_schema(grader.labels)
            self.form = (
                f'Answer with one JSON object only: {{"label": LABEL}}, with one of {json.dumps(grader.labels)}.'
            )
        else:
            self._low, self._high = grader.range
            self.lowest = min(max(0.0, self._low), self._high)
            self.threshold = grader.pass_threshold
            self.field, self.schema, self.form = "result", _SCORE_SCHEMA, _SCORE_FORM

    def messages(self, values: Values) -> list[dict[str, str]]:
        """Return the messages about a sample. They state the form of the answer, for models that do not support
        schemas."""
        texts = values.render(*(parts for _, parts in self._templates))
        messages = [{"role": role, "content": text} for (role, _), text in zip(self._templates, texts, strict=True)]
        return [{"role": "system", "content": self.form}, *messages]

    def read(self, text: str) -> tuple[float, str]:
        """Return the score of an answer, and its reason.

        Raises:
            ValueError: the answer is invalid; with what it has, and what it should have.
        """
        answer = _last_object(text.rpartition("</think>")[2])
        if answer is None:
            raise ValueError("it has no JSON object")
        if self.field not in answer:
            raise ValueError(f"its JSON object has no {self.field}")
        value = answer[self.field]
        if self._labels:
            if not isinstance(value, str) or value not in self._labels:
                raise ValueError(f"label must be one of {json.dumps(list(self._labels))}, and not {_as_written(value)}")
            return self._labels[value], value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
            quotes = " without quotes" if isinstance(value, str) else ""
            raise ValueError(f"result must be a number{quotes}, and not {_as_written(value)}")
        steps = answer.get("steps") if isinstance(answer.get("steps"), list) else []
        conclusions = [str(step.get("conclusion", "")) for step in steps or [] if isinstance(step, dict)]
        return min(max(float(value), self._low), self._high), " ".join(conclusions)[:4000]


def _as_written(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))[:100]


def _sampling(parameters: SamplingParameters) -> dict[str, Any]:
    fields = parameters.model_dump(exclude_none=True)
    for name in ("max_completions_tokens", "max_tokens"):
        if name in fields:  # OpenAI spells this field differently in its chat API
            fields["max_completion_tokens"] = fields.pop(name)
    return fields


def _label_schema(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }


def _last_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that is the text, or at its end, because models put it in a code fence or after words."""
    last = None
    for value in json_objects(text):
        last = value
    return last


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
