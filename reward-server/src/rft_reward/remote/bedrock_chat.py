"""Chat models on Amazon Bedrock, through its Converse API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rft_reward.remote import aws
from rft_reward.remote.chat import Completion, Message, Refused, count
from rft_reward.remote.errors import TransientError, shortened

_INFERENCE_NAMES = {"max_completion_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}


class BedrockChat:
    """A model on Bedrock.

    Args:
        model_id: its id, or the ARN of an inference profile.
        region: AWS region; that of the environment when absent.
        concurrency: requests at the same time.
        seconds: longest time that one request may take.
    """

    def __init__(self, model_id: str, region: str | None, concurrency: int, seconds: float):
        self._model_id = model_id
        self._aws = aws.Aws("bedrock-runtime", region, concurrency, seconds)

    async def ask(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, sampling: Mapping[str, Any], seconds: float
    ) -> Completion:
        """One try; see `chat.Backend`."""
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
        """Lets requests in flight end by themselves."""
        self._aws.close()
