"""The shape of a language model: its layers and their sizes, read from its config.json alone.

It covers decoders of the families in `FAMILIES`, dense or with experts. The numbers of weights are those that
transformers creates for the same config.json; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft_api.foreign.text import one_line

STORED_BYTES: Mapping[str | None, int] = {"bfloat16": 2, "float16": 2, "float32": 4, None: 4}
"""Bytes of a weight in each dtype that config.json may name; without one, transformers loads float32."""
_LARGEST = 1 << 32
"""No size of a model is larger; such a number in config.json is a mistake."""


class UnknownShape(ValueError):
    """Raised if the shape of a model cannot be read from its config.json, or has no layers of some names.

    The message is a sentence for users.
    """


@dataclass(frozen=True)
class _Family:
    """What the layers of a family have that config.json does not say."""

    query_bias: bool | None = None
    """Whether the projections of queries, keys and values have a bias; None when `attention_bias` says it."""
    output_bias: bool | None = None
    """Whether the projection of the attention's output has a bias; None when `attention_bias` says it."""
    head_norms: bool = False
    """Whether queries and keys are normalized, head by head."""
    fused: bool = False
    """Whether one layer projects queries, keys and values, and one layer gates and values of the MLP."""
    experts: bool = False
    """Whether the layers have experts."""


FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(),
    "granite": _Family(),
    "mistral": _Family(query_bias=False, output_bias=False),
    "phi3": _Family(query_bias=False, output_bias=False, fused=True),
    "qwen2": _Family(query_bias=True, output_bias=False),
    "qwen3": _Family(head_norms=True),
    "smollm3": _Family(),
    "mixtral": _Family(query_bias=False, output_bias=False, experts=True),
    "qwen3_moe": _Family(head_norms=True, experts=True),
}
"""The families of models whose shape is known, by the `model_type` of config.json (transformers, `modeling_*.py`)."""


@dataclass(frozen=True)
class LinearShape:
    """A linear layer."""

    name: str
    """Last part of its name."""
    inputs: int
    """Number of inputs."""
    outputs: int
    """Number of outputs."""
    bias: bool = False
    """Whether it has a bias."""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)

    def adapter(self, rank: int) -> int:
        """Return the number of weights of a LoRA adapter: two matrices, [rank, inputs] and [outputs, rank]
        (arXiv:2106.09685)."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class ModelShape:
    """The layers of a decoder and their sizes. All numbers count weights or elements, not bytes."""

    family: str
    """The `model_type` of config.json."""
    layers: int
    """Number of layers."""
    hidden: int
    """Width of the stream between layers."""
    vocabulary: int
    """Number of tokens that the model has embeddings of."""
    heads: int
    """Number of heads of queries."""
    key_value_heads: int
    """Number of heads of keys and values (grouped-query attention)."""
    head_width: int
    """Width of a head."""
    intermediate: int
    """Width of the MLP, or of one expert."""
    tied: bool
    """Whether the output layer has the weights of the embedding."""
    stored_bytes: int
    """Bytes of a weight in the model's files."""
    linears: tuple[LinearShape, ...]
    """The linear layers of one layer that an adapter trains: all but experts and their router."""
    head_norms: bool = False
    """Whether queries and keys are normalized, head by head."""
    experts: int = 0
    """Number of experts of each layer; 0 for a dense model."""
    experts_per_token: int = 0
    """Number of experts that each token uses."""

    @property
    def query_width(self) -> int:
        """Width of all heads of queries together."""
        return self.heads * self.head_width

    @property
    def key_value_width(self) -> int:
        """Width of all heads of keys together, which is that of the values."""
        return self.key_value_heads * self.head_width

    @property
    def weights_by_kind(self) -> dict[str, int]:
        """Number of weights by kind of layer."""
        attention = sum(item.weights for item in self.linears if item.name in _ATTENTION)
        dense = sum(item.weights for item in self.linears if item.name not in _ATTENTION)
        norms = 2 * self.hidden + (2 * self.head_width if self.head_norms else 0)
        kinds = {
            "embedding": self.vocabulary * self.hidden,
            "attention": self.layers * attention,
            "MLP": self.layers * dense,
            "experts": self.layers * self.experts * 3 * self.hidden * self.intermediate,
            "routers": self.layers * self.experts * self.hidden,
            "norms": self.layers * norms + self.hidden,
            "output layer": 0 if self.tied else self.vocabulary * self.hidden,
        }
        return {kind: count for kind, count in kinds.items() if count}

    @property
    def weights(self) -> int:
        """Number of all weights."""
        return sum(self.weights_by_kind.values())

    @property
    def largest_module(self) -> int:
        """Number of weights of the largest module; all experts of a layer are one (transformers, `*Experts`)."""
        experts = self.experts * 3 * self.hidden * self.intermediate
        return max(self.vocabulary * self.hidden, experts, *(item.weights for item in self.linears))

    def adapted_linears(self, names: Sequence[str] | None) -> tuple[LinearShape, ...]:
        """Return the linear layers of one layer that get an adapter: those with the names, or all without names.

        Raises:
            UnknownShape: when there is none with one of the names.
        """
        if names is None:
            return self.linears
        present = [item.name for item in self.linears]
        missing = [name for name in names if name not in present]
        if missing:
            raise UnknownShape(
                f"it has no linear layers called {', '.join(missing)} (tuning.targetModules); those that an adapter "
                f"can train are {', '.join(present)}"
            )
        return tuple(item for item in self.linears if item.name in names)

    def adapter_weights(self, rank: int, last_layers: int | None = None, names: Sequence[str] | None = None) -> int:
        """Return the number of weights of a LoRA adapter on linear layers of all layers, or of the last ones.

        Raises:
            UnknownShape: as `adapted_linears`.
        """
        return self.adapted_layers(last_layers) * sum(item.adapter(rank) for item in self.adapted_linears(names))

    def adapted_layers(self, last_layers: int | None) -> int:
        """Return the number of layers that get an adapter."""
        return self.layers if last_layers is None else min(self.layers, last_layers)


_ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"}


def read_shape(configuration: Any) -> ModelShape:
    """Return the shape that a model's config.json describes.

    Raises:
        UnknownShape: when the family is not known, the weights are quantized, or a size is missing or impossible.
    """
    if not isinstance(configuration, dict):
        raise UnknownShape("config.json holds no JSON object")
    name = configuration.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None or not isinstance(name, str):
        raise UnknownShape(
            f"models of type {one_line(str(name), 100)} are not among those whose memory can be planned: "
            f"{', '.join(FAMILIES)}"
        )
    if configuration.get("quantization_config"):
        raise UnknownShape("the memory of models with quantized weights cannot be planned")
    if configuration.get("mlp_only_layers") or configuration.get("decoder_sparse_step", 1) != 1:
        raise UnknownShape("the memory of models in which only some layers have experts cannot be planned")
    dtype = configuration.get("dtype", configuration.get("torch_dtype"))
    if not isinstance(dtype, str | None) or dtype not in STORED_BYTES:
        raise UnknownShape(f"config.json names dtype {one_line(str(dtype), 100)}, which cannot be trained")
    hidden, heads = _size(configuration, "hidden_size"), _size(configuration, "num_attention_heads")
    head_width = _optional(configuration, "head_dim") or hidden // heads
    key_value_heads = _optional(configuration, "num_key_value_heads") or heads
    intermediate = _size(configuration, "moe_intermediate_size" if name == "qwen3_moe" else "intermediate_size")
    bias = bool(configuration.get("attention_bias", False))
    query_bias = bias if family.query_bias is None else family.query_bias
    output_bias = bias if family.output_bias is None else family.output_bias
    query, key = heads * head_width, key_value_heads * head_width
    return ModelShape(
        family=name,
        layers=_size(configuration, "num_hidden_layers"),
        hidden=hidden,
        vocabulary=_size(configuration, "vocab_size"),
        heads=heads,
        key_value_heads=key_value_heads,
        head_width=head_width,
        intermediate=intermediate,
        tied=_tied(configuration, name),
        stored_bytes=STORED_BYTES[dtype],
        linears=(
            *_attention(hidden, query, key, query_bias, output_bias, family.fused),
            *(() if family.experts else _mlp(hidden, intermediate, bool(configuration.get("mlp_bias")), family.fused)),
        ),
        head_norms=family.head_norms,
        experts=_experts(configuration) if family.experts else 0,
        experts_per_token=_size(configuration, "num_experts_per_tok") if family.experts else 0,
    )


def _attention(
    hidden: int, query: int, key: int, query_bias: bool, output_bias: bool, fused: bool
) -> tuple[LinearShape, ...]:
    output = LinearShape("o_proj", query, hidden, output_bias)
    if fused:
        return LinearShape("qkv_proj", hidden, query + 2 * key, query_bias), output
    return (
        LinearShape("q_proj", hidden, query, query_bias),
        LinearShape("k_proj", hidden, key, query_bias),
        LinearShape("v_proj", hidden, key, query_bias),
        output,
    )


def _mlp(hidden: int, intermediate: int, bias: bool, fused: bool) -> tuple[LinearShape, ...]:
    down = LinearShape("down_proj", intermediate, hidden, bias)
    if fused:
        return LinearShape("gate_up_proj", hidden, 2 * intermediate, bias), down
    return (
        LinearShape("gate_proj", hidden, intermediate, bias),
        LinearShape("up_proj", hidden, intermediate, bias),
        down,
    )


def _tied(configuration: Mapping[str, Any], family: str) -> bool:
    """Return whether the output layer has the embedding's weights; the default is that of the family in
    transformers."""
    value = configuration.get("tie_word_embeddings", family == "smollm3")
    if not isinstance(value, bool):
        raise UnknownShape(f"config.json: tie_word_embeddings is {one_line(str(value), 100)}, not true or false")
    return value


def _experts(configuration: Mapping[str, Any]) -> int:
    """Return the number of experts, which transformers writes under another name than the files of older models
    have."""
    return _optional(configuration, "num_local_experts") or _size(configuration, "num_experts")


def _optional(configuration: Mapping[str, Any], name: str) -> int | None:
    return None if configuration.get(name) is None else _size(configuration, name)


def _size(configuration: Mapping[str, Any], name: str) -> int:
    value = configuration.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
        state = "is missing" if value is None else f"is {one_line(str(value), 100)}, not a positive number"
        raise UnknownShape(f"config.json: {name} {state}")
    return value
