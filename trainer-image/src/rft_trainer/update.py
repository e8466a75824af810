"""The update of the policy: computes TRL's loss over token trees, in passes of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import nanstd, pad

from rft_trainer.distributed import gather
from rft_trainer.frozen_states import FrozenStates
from rft_trainer.inference import without_dropout
from rft_trainer.logprobs import completion_logprobs, shares_tokens
from rft_trainer.micro_batches import select, sequences_of, split_by_tokens


class PackedGRPOTrainer(GRPOTrainer):
    """TRL's GRPO trainer with an update that computes shared prefixes of completions once.

    With `tokens_per_micro_batch`, TRL gets the process's whole share of a step as one micro-batch. It is split into
    passes here, so that the completions of a prompt stay together and none is padded to the longest one of the step.
    Without it, TRL splits the completions at random into micro-batches of equal number, and each is one pass.
    """

    tokens_per_micro_batch: int | None
    """Upper bound of the tokens in a pass; tokens of a shared prefix count once."""

    learns_nothing = False
    """Whether no completion of the step counts in the loss, so that no weight may change."""

    _tokens: tuple[Sequence[list[int]], Sequence[list[int]]] = ((), ())
    _passes = 1
    _early_pass: _EarlyPass | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frozen_states = FrozenStates(self.model)

    def plan_passes(self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> None:
        """Store the prompts and completions of a step, and decide how many passes compute them.

        All processes call it before they compute anything from them. They make equally many passes, because under
        ZeRO-3 they gather the weights for each pass together.
        """
        self._tokens = prompt_ids, completion_ids
        if self._is_split_by_tokens:
            sequences = [
                [*prompt, *(completion if self._is_learnt(completion) else [])]
                for prompt, completion in zip(*self._tokens, strict=True)
            ]
            self._passes = max(gather(len(split_by_tokens(sequences, self.tokens_per_micro_batch or 0))))

    def compute_ahead(self) -> None:
        """Run the forward pass of the step's first part, which needs no rewards, while the servers compute them."""
        inputs = self._pad(*self._tokens)
        if self._is_split_by_tokens:
            part = select(inputs, self._split(sequences_of(inputs))[0])
        else:
            # TRL will shuffle the completions with the next random numbers, and take the first ones; choose the same
            # ones.
            with torch.random.fork_rng(devices=[]):
                first = torch.randperm(len(inputs["prompt_ids"]))[: self.args.per_device_train_batch_size]
            part = {name: value[first] for name, value in inputs.items()}
        input_ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
        attention_mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
        with self.compute_loss_context_manager(), torch.random.fork_rng(devices=[]):
            # Dropout must neither take the random numbers with which TRL will shuffle, nor the same ones.
            torch.default_generator.manual_seed(int(torch.randint(1 << 62, ())))
            result = self._get_per_token_logps_and_entropies(
                self.model_wrapped,
                input_ids,
                attention_mask,
                part["completion_ids"].shape[1],
                compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )
        self._early_pass = _EarlyPass(input_ids, attention_mask, result)

    def record_equal_rewards(self, rewards: torch.Tensor) -> None:
        """Record the share of groups whose rewards are equal; TRL compares those of the whole batch if it scales by it.

        Args:
            rewards: those of all processes [B, 1], NaN for completions that could not be scored.
        """
        deviations = nanstd(rewards.view(-1, self.num_generations), dim=1)
        share = torch.isclose(deviations, torch.zeros_like(deviations)).float().mean().item()
        self._metrics["train"]["frac_reward_zero_std"][-1] = share

    def _is_learnt(self, completion: Sequence[int]) -> bool:
        """Return whether a completion counts in the loss, as TRL decides it."""
        if not self.mask_truncated_completions:
            return True
        return completion[-1] in self.eos_token_ids or completion[-1] == self.processing_class.pad_token_id

    @property
    def _is_split_by_tokens(self) -> bool:
        # The auxiliary loss of a router is a mean over a pass, so that the losses of parts cannot be weighted and
        # added.
        return self.tokens_per_micro_batch is not None and not self.aux_loss_enabled

    def _split(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        return split_by_tokens(sequences, self.tokens_per_micro_batch or 0, self._passes)

    def _pad(self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Return prompts and completions padded as TRL pads them."""
        device, padding = self.accelerator.device, self.processing_class.pad_token_id
        prompts = [torch.tensor(ids, dtype=torch.long) for ids in prompt_ids]
        completions = [torch.tensor(ids, dtype=torch.long) for ids in completion_ids]
        return {
            "prompt_ids": pad(prompts, padding_value=padding, padding_side="left").to(device),
            "prompt_mask": pad([torch.ones_like(ids) for ids in prompts], 0, "left").to(device),
            "completion_ids": pad(completions, padding_value=padding, padding_side="right").to(device),
            "completion_mask": pad(
                [torch.full_like(ids, self._is_learnt(ids.tolist())) for ids in completions], 0, "right"
            ).to(device),
        }

    def _drop_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Remove gradients of 0 where nothing is learnt, because AdamW's momentum and decay would change weights."""
        if self.learns_nothing:
            optimizer.zero_grad(set_to_none=True)

    # The methods below override those of TRL and transformers.

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the optimizer, which does nothing in a step from which nothing is learnt."""
        # transformers also calls this method when the optimizer exists already.
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.mask_truncated_completions:
            optimizer.register_step_pre_hook(self._drop_gradients)
        return optimizer

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the loss of the batch, and accumulate the gradients of all its parts but the last one.

        The value of the loss is that of the whole batch. Its gradient is that of the last part, because transformers
        accumulates the gradient of the loss that it gets.
        """
        if not self._is_split_by_tokens:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        sequences = sequences_of(inputs)
        parts = self._split(sequences)
        tokens = [int(inputs["completion_mask"][part].sum()) for part in parts]
        total = torch.zeros((), device=self.accelerator.device)
        entropy_coefficient: float = self.args.entropy_coef
        for number, part in enumerate(parts):
            of_tokens = tokens[number] / max(1, sum(tokens))
            weight = self._weight(len(part) / len(sequences), of_tokens)
            # TRL subtracts the mean entropy of the part's tokens, so of the whole batch it is a mean over tokens,
            # whatever the weight of the rest of the loss.
            self.entropy_coef = entropy_coefficient * of_tokens / weight if weight else 0.0
            loss = super().compute_loss(model, select(inputs, part)) * weight
            if number < len(parts) - 1:
                self._accumulate(loss)
            total = total + loss.detach()
        self.entropy_coef = entropy_coefficient
        if len(parts) > 1:
            self._average_metrics(tokens)
        return loss + (total - loss.detach())

    def _weight(self, of_sequences: float, of_tokens: float) -> float:
        """Return the factor of a part's loss with which the parts' losses add up to TRL's loss of the whole batch."""
        match self.loss_type:
            case "grpo" | "dr_grpo" | "sapo" | "luspo":  # means over sequences
                return of_sequences
            case "bnpo":  # a mean over tokens
                return of_tokens
            case "dapo" | "cispo" | "vespo":  # sums, divided by the tokens of all processes
                return 1.0
        raise AssertionError(f"loss type {self.loss_type} is of no known form")

    def _accumulate(self, loss: torch.Tensor) -> None:
        """Accumulate the gradients of a part, without a step of the optimizer, because more parts follow."""
        self.accelerator.gradient_state._set_sync_gradients(False)
        # As in transformers: with DeepSpeed, the loss is already divided by the number of accumulated batches.
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        self.accelerator.gradient_state._set_sync_gradients(True)

    def _average_metrics(self, tokens: Sequence[int]) -> None:
        """Combine TRL's metrics of the parts into one mean, weighted by the tokens of all processes in each part."""
        weights = torch.tensor(gather(list(tokens)), dtype=torch.float64).sum(0)
        for name in ("entropy", "kl"):
            values = self._metrics["train"].get(name)
            if values:
                means = torch.tensor(values[-len(tokens) :], dtype=torch.float64)
                values[-len(tokens) :] = [float((means * weights).sum() / weights.sum())]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute shared prefixes once, or return the result of the early pass if it was run for these inputs.

        TRL passes the whole batch when it needs no gradients: for the reference model, and for the policy when vLLM has
        sampled the completions. These are computed without dropout, as completions are sampled.
        """
        if torch.is_grad_enabled():
            early_pass, self._early_pass = self._early_pass, None
            if early_pass is not None and early_pass.matches(input_ids, attention_mask):
                return early_pass.result
        with nullcontext() if torch.is_grad_enabled() else without_dropout(model):
            return self._compute_logps(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    def _compute_logps(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        if args or kwargs.get("compute_aux_loss"):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        batch = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
        }
        if self.accelerator.device.type != "cpu" and not shares_tokens(model, sequences_of(batch)):
            # On GPUs, TRL's fused kernel is faster for completions that share few tokens.
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        entropy = bool(kwargs.get("compute_entropy"))
        if torch.is_grad_enabled() or not self._is_split_by_tokens:
            return *self._logprobs(model, batch, entropy), None
        logps = torch.zeros(batch["completion_ids"].shape, device=input_ids.device)
        entropies = torch.zeros_like(logps) if entropy else None
        for part in self._split(sequences_of(batch)):
            rows = select(batch, part)
            part_logps, part_entropies = self._logprobs(model, rows, entropy)
            logps[part, : part_logps.shape[1]] = part_logps
            if entropies is not None and part_entropies is not None:
                entropies[part, : part_logps.shape[1]] = part_entropies
        return logps, entropies, None

    def _logprobs(
        self, model: Any, batch: dict[str, torch.Tensor], entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return completion_logprobs(
            model, **batch, temperature=self.temperature, entropy=entropy, frozen_states=self.frozen_states
        )


@dataclass(frozen=True)
class _EarlyPass:
    """A forward pass that was run before TRL asked for it, with log-probabilities and entropies as its result."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    result: Any

    def matches(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> bool:
        """Return whether it was the pass of these inputs; tokens that are masked do not matter."""
        own, other = self.input_ids * self.attention_mask, input_ids * attention_mask
        return torch.equal(self.attention_mask, attention_mask) and torch.equal(own, other)
