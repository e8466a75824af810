"""Chat models on Amazon Bedrock, by its Converse API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rft_reward.remote import aws
from rft_reward.remote.chat import Completion, Message, Refused, count
from rft_reward.remote.errors import TransientError, shortened

_INFERENCE_NAMES = {"max_completion_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}


class BedrockChat:
    """A model on Amazon Bedrock.

    Args:
        model_id: id of the model, or ARN of an inference profile.
        region: AWS region; None takes the region of the environment.
        concurrency: maximum number of requests at the same time.
        seconds: time limit of one request.
    """

    def __init__(self, model_id: str, region: str | None, concurrency: int, seconds: float):
        self._model_id = model_id
        self._aws = aws.Aws("bedrock-runtime", region, concurrency, seconds)

    async def ask(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, sampling: Mapping[str, Any], seconds: float
    ) -> Completion:
        """See `chat.Backend`."""
        request: dict[str, Any] = {
            "modelId": self._model_id,
            "messages": [
                {"role": message["role"], "content": [{"text": message["content"]}]}
                for message in messages
                if message["role"] in ("user", "assistant")
            ],
            "inferenceConfig": {_INFERENCE_NAMES[k]: v for k, v in sampling.items() if k in _INFERENCE_NAMES},
        }
        system = [{"text": message["content"]} for message in messages if message["role"] in ("system", "developer")]
        if system:
            request["system"] = system
        if schema is not None:
            structure = {"jsonSchema": {"name": "answer", "schema": json.dumps(schema)}}
            request["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
        try:
            answer = await self._aws.call(lambda client: client.converse(**request), seconds)
        except aws.Refused as refusal:
            if refusal.code == "ValidationException":
                raise Refused(str(refusal)) from None
            raise
        try:
            content = answer["output"]["message"]["content"]
            text = "".join(part.get("text", "") for part in content)
        except (KeyError, TypeError, AttributeError):
            raise TransientError(f"{self._model_id} answered without a message: {shortened(str(answer))}") from None
        usage = answer.get("usage") or {}
        return Completion(
            text,
            count(usage.get("inputTokens")),
            count(usage.get("outputTokens")),
            cut=answer.get("stopReason") == "max_tokens",
        )

    async def close(self) -> None:
        """Close the threads. Requests in progress end by themselves."""
        self._aws.close()
