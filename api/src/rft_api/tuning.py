"""Which weights of a model an RFTJob trains: those of a LoRA adapter, or all of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.model import Model, Rule
from rft_api.quantities import Between, Boolean, Decimal, Integer

DEFAULT_LORA_RANK = 16

_ADAPTER_FIELDS = ("rank", "alpha", "last_layers", "target_modules", "dropout", "rank_stabilized")

LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=64)]
"""The last part of the name of a linear layer, such as q_proj."""


class Tuning(Model):
    """Which weights are trained."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type == 'LoRA' || (!has(self.rank) && !has(self.alpha) && !has(self.lastLayers) && "
            "!has(self.targetModules) && !has(self.dropout) && !has(self.rankStabilized))",
            message="rank, alpha, lastLayers, targetModules, dropout and rankStabilized belong to type LoRA; remove "
            "them or set type: LoRA",
            holds=lambda tuning: (
                tuning.type == "LoRA" or all(getattr(tuning, field) is None for field in _ADAPTER_FIELDS)
            ),
        ),
        Rule(
            cel="self.all(a, self.exists_one(b, b == a))",
            message="targetModules: every name may appear only once",
            holds=lambda tuning: len(set(tuning.target_modules or ())) == len(tuning.target_modules or ()),
            field="targetModules",
        ),
    )

    type: Literal["LoRA", "Full"] = "LoRA"
    """Which weights are trained. LoRA trains a small adapter on linear layers, and Full trains all weights. Neither
    trains the parts of a model that read images or sound. In a mixture-of-experts model, LoRA trains neither the
    experts nor their routers."""
    rank: Annotated[Integer, Field(ge=1, le=512)] | None = None
    """Rank of the adapter. The default is 16."""
    alpha: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Scale of the adapter, whose output is multiplied by alpha / rank. The default is twice the rank."""
    last_layers: Annotated[Integer, Field(ge=1, le=1000)] | None = None
    """Number of layers, counted from the last one, that get an adapter. Fewer layers make the backward pass shorter. By
    default all layers get one."""
    target_modules: Annotated[list[LayerName], Field(min_length=1, max_length=32)] | None = None
    """Names of the linear layers that get an adapter, such as q_proj and v_proj: the last parts of their full names. By
    default all linear layers get one. A name that the model does not have is refused."""
    dropout: Annotated[Decimal, Between("0", "1", high_included=False)] | None = None
    """Probability with which an input of the adapter is set to 0 in a pass of the update. The default is 0. Dropout is
    used in the update only. Completions are sampled without it, so the probabilities in the update differ slightly from
    those with which the completions were sampled. Nothing corrects this difference."""
    rank_stabilized: Boolean | None = None
    """Whether the output of the adapter is multiplied by alpha / sqrt(rank) instead of alpha / rank (rsLoRA). With
    true, an adapter with a high rank learns as fast as one with a low rank. The default is false. The default of alpha
    is too large for true, so set alpha as well."""

    @property
    def effective_rank(self) -> int:
        """Rank of the adapter, or its default."""
        return self.rank or DEFAULT_LORA_RANK

    @property
    def effective_alpha(self) -> int:
        """Scale of the adapter, or its default."""
        return self.alpha or 2 * self.effective_rank

    @property
    def effective_dropout(self) -> float:
        """Share of the adapter's inputs that are set to 0, or its default."""
        return self.dropout or 0.0
