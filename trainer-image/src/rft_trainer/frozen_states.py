"""Keeps what frozen layers compute while completions are sampled, so that the update does not compute it again.

With `lastLayers`, the layers below the first trained one have no adapter. In the update they compute for each token
what they have computed when it was sampled, with the same weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rft_trainer.inference import evaluating
from rft_trainer.model_access import language_model
from rft_trainer.partitions import is_divided
from rft_trainer.token_tree import TokenTrees, sees_trees

TRIAL_TOKENS = 64
"""Tokens of the trial that tells whether a model's frozen layers can be left out: enough for any dropout to show."""


class FrozenStates:
    """The output of the last frozen layer, for each token of the completions that were sampled last.

    The states depend on tokens and frozen weights alone, so that no update makes them wrong. They are found by the
    tokens; where they are not known, nothing changes.

    Memory: one element of the stream between layers for each token, prompts once, see `rft_api.memory_plan`.

    Args:
        model: the policy on its device, possibly with an adapter, before DeepSpeed or DDP wraps it.
    """

    def __init__(self, model: torch.nn.Module):
        self._layers = _removable_layers(model)
        self._prompts: dict[tuple[int, ...], torch.Tensor] = {}  # [tokens of the prompt, H]
        self._completions: dict[tuple[int, ...], torch.Tensor] = {}  # by the whole sequence [tokens but the last, H]

    @property
    def layers(self) -> int:
        """Return the number of layers that are left out; 0 where the model does not allow it."""
        return len(self._layers)

    @contextmanager
    def recorded(self, count: int, tokens: int) -> Iterator["Recording | None"]:
        """Record the completions that are sampled inside the context, in place of those that were recorded before.

        Args:
            count: number of completions.
            tokens: largest number of tokens of a completion that the model reads.
        """
        self._prompts, self._completions = {}, {}
        if not self._layers:
            yield None
            return
        recording = Recording(count, tokens)
        handle = self._layers[-1].register_forward_hook(recording.listen)
        try:
            yield recording
        finally:
            handle.remove()
        self._prompts, self._completions = recording.prompts, recording.completions

    @contextmanager
    def reused(
        self, trees: TokenTrees, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[bool]:
        """Leave the frozen layers out of the forward pass inside the context if the states of all tokens are known.

        Args:
            trees: the input of the pass: each prompt with its completion, but for the last token of both.
            prompts: the token ids of each prompt.
            completions: the token ids of each completion; it may be empty.

        Yields:
            Whether the layers are left out.
        """
        states = self._lay_out(trees, prompts, completions)
        if states is None:
            yield False
            return
        with _replaced(self._layers, states):
            yield True

    def _lay_out(
        self, trees: TokenTrees, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> torch.Tensor | None:
        """Return the states in the columns of the tokens [R, S, H]; None if those of a sequence are not known."""
        result: torch.Tensor | None = None
        for row, columns, prompt, completion in zip(
            trees.rows.tolist(), trees.columns, prompts, completions, strict=True
        ):
            of_prompt = self._prompts.get(tuple(prompt))
            of_completion = self._completions.get((*prompt, *completion)) if completion else None
            if of_prompt is None or (completion and of_completion is None):
                return None
            if result is None:
                result = of_prompt.new_zeros(*trees.ids.shape, of_prompt.shape[-1])
            # Without a completion, the last token of the prompt is no input.
            result[row, columns[: len(prompt)]] = of_prompt[: len(columns)]
            if of_completion is not None:
                result[row, columns[len(prompt) :]] = of_completion
        return result


class Recording:
    """Collects the states of completions while they are sampled."""

    def __init__(self, count: int, tokens: int):
        self.prompts: dict[tuple[int, ...], torch.Tensor] = {}
        self.completions: dict[tuple[int, ...], torch.Tensor] = {}
        self._output = torch.empty(0)
        self._shape = count, tokens
        self._states = torch.empty(0)  # [completions, tokens, H]

    def listen(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Keep the output of the last forward pass; a forward hook of torch."""
        self._output = output

    def keep_prompts(self, prompts: Sequence[tuple[int, ...]], trees: TokenTrees) -> None:
        """Keep the states of the prompts that the last forward pass has read as these trees."""
        for prompt, row, columns in zip(prompts, trees.rows.tolist(), trees.columns, strict=True):
            self.prompts[prompt] = self._output[row, columns]
        self._states = self._output.new_empty(*self._shape, self._output.shape[-1])

    def keep_tokens(self, number: int, places: torch.Tensor, leaf: torch.Tensor) -> None:
        """Keep the states of one token of each completion, which the last forward pass has read.

        Args:
            number: how many tokens of the completions have been read before.
            places: the indices of the completions [n].
            leaf: the row of each in the forward pass [n].
        """
        self._states[places, number] = self._output[leaf, 0]

    def keep_completions(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> None:
        """Keep the states of all completions by their tokens, when they have ended."""
        for states, prompt, completion in zip(self._states, prompts, completions, strict=True):
            self.completions[*prompt, *completion] = states[: len(completion) - 1]


def _removable_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers below the first trained one if the rest of the model needs only the output of the last of them.

    Empty on GPUs, where another sampler is used; with gradient checkpointing, which runs layers again later; and under
    ZeRO-3, which fetches the weights of layers in the order in which it has seen them run.
    """
    base = language_model(model)
    layers = getattr(base.get_decoder(), "layers", None)
    if (
        not isinstance(layers, torch.nn.ModuleList)
        or base.device.type != "cpu"
        or base.is_gradient_checkpointing
        or any(map(is_divided, model.parameters()))
        or not sees_trees(base)
    ):
        return []
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    above = set(trained)
    frozen = []
    for layer in layers:
        own = {id(parameter) for parameter in layer.parameters()}
        if own & trained:
            break
        frozen.append(layer)
    for layer in list(layers)[len(frozen) :]:
        above -= {id(parameter) for parameter in layer.parameters()}
    return frozen if frozen and not above and _can_be_left_out(model, frozen) else []


def _can_be_left_out(model: torch.nn.Module, layers: Sequence[torch.nn.Module]) -> bool:
    """Return whether a model computes exactly the same when layers only return what they have returned before.

    It does not where later layers read more than the output of the last of them. Nor where layers compute at random
    while they are trained, as with dropout.
    """
    ids = torch.arange(TRIAL_TOKENS)[None] % language_model(model).config.get_text_config().vocab_size
    outputs: list[Any] = []

    def logits() -> torch.Tensor:
        result: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return result

    handle = layers[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(model):
            expected = logits()
            if not isinstance(outputs[0], torch.Tensor):
                return False
            model.train()
            logits()
            model.eval()
            with _replaced(layers, outputs[0]):
                return torch.equal(outputs[0], outputs[1]) and torch.equal(logits(), expected)
    finally:
        handle.remove()


@contextmanager
def _replaced(layers: Sequence[torch.nn.Module], states: torch.Tensor) -> Iterator[None]:
    """Make the layers return the states without computing anything inside the context."""
    for layer in layers:
        vars(layer)["forward"] = lambda *args, **kwargs: states
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
