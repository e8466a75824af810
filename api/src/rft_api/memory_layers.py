"""How many bytes a model's layers, logits and cache take on one device, by formulas with their sources.

Sizes are in bytes, widths in elements. A layer's formula counts the tensors that autograd keeps for the backward pass
of transformers' decoder layers (`modeling_llama.py` and its kin) with torch's scaled_dot_product_attention. Tests
compare it with what torch really allocates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rft_api.model_shape import LinearShape, ModelShape

BLOCK = 32
"""Tokens of a block of the cache of rollout servers: the smallest that vLLM has kernels for on CPUs. A sequence takes
whole blocks, and prompts share whole blocks."""
CHUNK = 1 << 21
"""Elements of float32 intermediates of logits that the trainer computes at a time: 8 MB, which fit into a processor's
cache."""
_READ_COMPUTED = {"o_proj", "down_proj"}
"""Linear layers that read what the layer itself has computed; all others read the normalized stream."""
_READ_MLP_STREAM = {"gate_proj", "up_proj", "gate_up_proj"}
"""Linear layers that read the stream as it is normalized for the MLP."""


@dataclass(frozen=True)
class Precision:
    """Bytes of an element of each kind of tensor, as the trainer chooses the dtypes."""

    weights: int
    """Weights of the model. With tuning type LoRA they are frozen."""
    adapter: int
    """Weights of the adapter; peft keeps them in float32 beside a model in 16 bits, until DeepSpeed casts them."""
    gradients: int
    """Gradients of what is trained."""
    master: int
    """Copies of what is trained that the optimizer updates in place of the weights; 0 where there are none."""
    activations: int
    """Outputs of linear layers."""
    autocast: bool
    """Whether torch casts the inputs of linear layers to 16 bits, and accelerate the logits to float32."""

    @property
    def stream(self) -> int:
        """Bytes of an element of the stream between layers, which has the dtype of the embedding."""
        return self.weights


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of one layer."""

    rank: int
    """Its rank."""
    linears: tuple[LinearShape, ...]
    """The linear layers that have it."""
    mask: int = 0
    """Bytes of each element of the masks of dropout; 0 without dropout."""


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass of the update."""

    tokens: int
    """Number of positions that are computed, padding included."""
    width: int
    """Number of positions of each row of the input."""
    scored: int
    """Number of positions whose logits are computed."""
    shared: bool
    """Whether rows are token trees, whose attention needs a mask for every pair of positions."""


def saved_bytes(shape: ModelShape, precision: Precision, adapter: Adapter | None, masked: bool) -> float:
    """Return the bytes that one layer keeps for its backward pass, for each token.

    RMSNorm keeps a float32 copy of its input, and its result before it is scaled when the scale is trained. A linear
    layer keeps its input when it, or its adapter, is trained. The attention keeps queries, keys, values and its output;
    with a mask, keys and values are repeated for each head of queries (`sdpa_attention_forward`). The MLP keeps the
    outputs of both projections, the activated gate and the product.

    Args:
        shape: the model.
        precision: the dtypes.
        adapter: the adapter; None when all weights are trained.
        masked: whether the attention has a mask.
    """
    full, unit = adapter is None, precision.activations
    hidden, query, key = shape.hidden, shape.query_width, shape.key_value_width
    norms = 2 * hidden * (4 + (precision.stream if full else 0)) + 2 * 4
    if shape.head_norms:
        norms += (query + key) * (4 + (unit if full else 0)) + 4 * (shape.heads + shape.key_value_heads)
    attention = unit * (2 * query + 2 * (query if masked else key)) + 4 * shape.heads
    return norms + attention + _mlp_bytes(shape, unit) + _input_bytes(shape, precision, adapter)


def _mlp_bytes(shape: ModelShape, unit: int) -> float:
    """Return the bytes of gate, activated gate and value, for each token, in each expert that the token uses.

    Beside experts there are their outputs, because the router's weights multiply them, and its scores in float32.
    """
    experts = shape.experts_per_token * shape.hidden * unit + 2 * 4 * shape.experts
    return 3 * unit * shape.intermediate * max(1, shape.experts_per_token) + experts


def _input_bytes(shape: ModelShape, precision: Precision, adapter: Adapter | None) -> float:
    """Return the bytes of the inputs that linear layers keep, and of what adapters keep between their matrices, for
    each token."""
    product = shape.intermediate * max(1, shape.experts_per_token)
    if adapter is None:
        # The attention keeps its output already. Under autocast, each layer that reads the stream makes its own copy.
        stream = [item.inputs for item in shape.linears if item.name not in _READ_COMPUTED]
        readers = stream if precision.autocast else [shape.hidden] * 2
        experts = shape.hidden * shape.experts_per_token if shape.experts else 0
        return precision.activations * (sum(readers) + product + experts)
    inputs = [item.inputs for item in adapter.linears]
    between = adapter.rank * len(inputs)
    if adapter.mask or precision.autocast or precision.adapter != precision.activations:
        # Each adapter makes a copy of its layer's input: in its own dtype, or that of autocast, or after dropout.
        unit = precision.activations if precision.autocast else precision.adapter
        return unit * (sum(inputs) + between) + adapter.mask * sum(inputs)
    names = {item.name for item in adapter.linears}
    # Layers that read the same stream keep it once; the input of `o_proj` is the output of the attention.
    own = shape.hidden * (bool(names - _READ_COMPUTED - _READ_MLP_STREAM) + bool(names & _READ_MLP_STREAM))
    return precision.activations * (own + (product if "down_proj" in names else 0) + between)


def backward_bytes(shape: ModelShape, precision: Precision) -> float:
    """Return the bytes of gradients of activations that exist at once in the backward pass of a layer, for each token.

    The most exist in the MLP: those of the product and of its two factors.
    """
    return precision.activations * 3 * shape.intermediate * max(1, shape.experts_per_token)


def logits_bytes(shape: ModelShape, precision: Precision, positions: int) -> int:
    """Return the bytes of logits when they take most (`rft_trainer.logprobs`).

    In the forward pass there are the logits and three float32 pieces: scores, probabilities and their product. In the
    backward pass there are the logits, their gradient, and a piece, or two where it was converted from 16 bits. Under
    autocast, accelerate converts the logits to float32 (`convert_outputs_to_fp32`).
    """
    size = logits_gradient_bytes(shape, precision, positions)
    piece = 4 * min(CHUNK, positions * shape.vocabulary)
    converted = not precision.autocast and precision.activations == 2
    return max(size + 3 * piece, 2 * size + (2 if converted else 1) * piece)


def logits_gradient_bytes(shape: ModelShape, precision: Precision, positions: int) -> int:
    """Return the bytes of the gradient of logits, which has their dtype."""
    return (4 if precision.autocast else precision.activations) * positions * shape.vocabulary


def mask_bytes(precision: Precision, load: Pass) -> int:
    """Return the bytes of the mask of token trees: which positions each one attends to, as booleans and as numbers to
    add."""
    return load.tokens * load.width * (1 + precision.activations) if load.shared else 0


def cache_bytes_per_token(shape: ModelShape, unit: int) -> int:
    """Return the bytes of the keys and values of one token (vLLM, `FullAttentionSpec.page_size_bytes` over its block
    size)."""
    return 2 * shape.layers * shape.key_value_width * unit


def cache_bytes_per_sequence(shape: ModelShape, unit: int, tokens: int) -> int:
    """Return the bytes of the keys and values of one sequence in whole blocks."""
    return math.ceil(tokens / BLOCK) * BLOCK * cache_bytes_per_token(shape, unit)


def tree_pass(hidden: int, prompt: int, completion: int, samples: int, tokens: int) -> Pass:
    """Return the pass of `tokens` tokens over prompts and completions of the longest lengths, as `token_tree.py` lays
    it out.

    A row holds a prompt and as many of its completions as save operations; where a prompt has several rows, each
    repeats it, and all rows are as wide as the widest.
    """
    best = prompt + math.sqrt(prompt**2 + 6 * hidden * prompt)
    columns = max(1, min(samples, int((best - prompt) // completion)))
    sequences = max(1, (tokens - prompt) // completion) if tokens >= prompt + completion else 1
    rows = (
        math.ceil(sequences / columns)
        if sequences <= samples
        else _rows_of_groups(prompt, completion, samples, columns, tokens)
    )
    width = prompt + min(columns, sequences) * completion
    positions = max(rows * width, tokens)
    return Pass(positions, width, positions, shared=True)


def _rows_of_groups(prompt: int, completion: int, samples: int, columns: int, tokens: int) -> int:
    """Return the rows of a pass with several prompts."""
    groups, rest = divmod(tokens, prompt + samples * completion)
    left = max(0, (rest - prompt) // completion)
    return groups * math.ceil(samples / columns) + math.ceil(left / columns)
