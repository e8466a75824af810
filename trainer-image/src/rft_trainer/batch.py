"""A batch of completions: sends them to the reward servers as they end, and adds the scores to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rft_trainer.data import Prompt
from rft_trainer.reward_transport import Group, Rollout
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import ScoredCompletion, add_shadows, scored
from rft_trainer.stop_strings import StopStrings


def decode(tokenizer: PreTrainedTokenizerBase, completion_ids: Sequence[list[int]]) -> list[str]:
    """Return the texts of completions, without special tokens."""
    # batch_decode returns one empty text for an empty list.
    return tokenizer.batch_decode(completion_ids, skip_special_tokens=True) if completion_ids else []


class Batch:
    """A batch of completions and their scores.

    Args:
        prompts: the prompt of each completion, in the order of the batch.
        client: the reward servers.
        tokenizer: turns token ids into texts.
        end_ids: the EOS tokens.
        with_shadows: whether the shadow rewards score them, too.
        samples_per_prompt: completions of each prompt, which follow one another and are compared with one another.
        stops: the stop strings; None when there are none.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        client: RewardClient,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        with_shadows: bool = True,
        samples_per_prompt: int = 1,
        stops: StopStrings | None = None,
    ):
        self.rows: list[ScoredCompletion] = []
        """The scored completions, once `wait` has returned."""
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._end_ids = set(end_ids)
        self._samples_per_prompt = samples_per_prompt
        self._stops = stops
        self._scoring = client.begin(with_shadows)

    def send_finished(self, completions: Mapping[int, list[int]]) -> None:
        """Request rewards for completions that have ended, by index, while others are still being sampled."""
        texts = decode(self._tokenizer, list(completions.values()))
        self._scoring.send_early(
            {
                place: self._rollout(place, text, ids)
                for (place, ids), text in zip(completions.items(), texts, strict=True)
            }
        )

    def send(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> None:
        """Request rewards for the whole batch, except for completions that `send_finished` has sent already."""
        pairs = zip(texts, completion_ids, strict=True)
        self._scoring.send([self._rollout(place, text, ids) for place, (text, ids) in enumerate(pairs)])

    def wait(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[ScoredCompletion]:
        """Wait for the rewards; return the scored completions in the order of the batch.

        Raises:
            RunError: as `Scoring.wait`.
        """
        scores = self._scoring.wait()
        self.rows = [
            scored(prompt, text, len(ids), self._is_clipped(ids), score)
            for prompt, text, ids, score in zip(self._prompts, texts, completion_ids, scores, strict=True)
        ]
        return self.rows

    def add_shadows(self) -> None:
        """Wait for the scores of the shadows, and add them to the scored completions."""
        add_shadows(self.rows, self._scoring.wait_for_shadows())

    def _rollout(self, place: int, text: str, ids: Sequence[int]) -> Rollout:
        prompt, number = self._prompts[place], place // self._samples_per_prompt
        group = Group(f"{prompt.id}/{number}", self._samples_per_prompt)
        return Rollout(prompt, text, len(ids), "length" if self._is_clipped(ids) else "stop", group)

    def _is_clipped(self, ids: Sequence[int]) -> bool:
        """Return whether a completion was cut off at the token limit."""
        if ids and ids[-1] in self._end_ids:
            return False
        return self._stops is None or self._stops.end(ids) is None
