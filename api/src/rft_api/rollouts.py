"""Where completions come from, and what is corrected about them: fields of an RFTJob."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import Between, Decimal, Integer

RolloutEngine = Literal["vLLM", "InProcess"]


class Rollouts(Model):
    """How completions are generated, for training and for every evaluation."""

    engine: RolloutEngine | None = None
    """What generates the completions. vLLM starts vLLM servers beside the trainer, and asks them over HTTP; InProcess
    samples with the model in the trainer. The default is vLLM with GPUs and InProcess on CPUs."""
    placement: Literal["Shared", "Dedicated"] = "Shared"
    """Where vLLM servers run. Shared puts them on the GPUs of the trainer; Dedicated gives them GPUs of their own,
    which each pod gets beside gpusPerNode."""
    servers: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of vLLM servers of each pod, with placement Dedicated or on CPUs. The default is 1. With placement Shared,
    servers cover the GPUs of the trainer."""
    gpus_per_server: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of GPUs of each vLLM server, which divides every weight among them (tensor parallelism). The default is
    1."""
    memory_share: Annotated[Decimal, Between("0.01", "0.98")] | None = None
    """Share of a GPU's memory that a vLLM server takes for weights and cache. By default, with placement Shared, what
    the trainer leaves by the plan of the job's memory; with placement Dedicated 0.92."""
    overlap: Annotated[Integer, Field(ge=0, le=1)] = 0
    """Number of steps whose completions are sampled ahead. With 1, vLLM servers sample those of the next step while the
    trainer learns from those of this one, so that neither waits for the other. They come from the policy before this
    step; importanceSampling corrects the loss. Nothing is sampled ahead across a validation."""

    @property
    def effective_servers(self) -> int:
        """Number of servers with placement Dedicated or on CPUs, or its default."""
        return self.servers or 1

    @property
    def effective_gpus_per_server(self) -> int:
        """Number of GPUs of each server, or its default."""
        return self.gpus_per_server or 1

    @property
    def states_servers(self) -> bool:
        """Whether a field is stated that describes vLLM servers."""
        stated = (self.servers, self.gpus_per_server, self.memory_share)
        return self.placement != "Shared" or any(value is not None for value in stated)


class ImportanceSampling(Model):
    """How the update corrects that vLLM computes slightly other probabilities than the trainer.

    A token's importance ratio is its probability in the trainer, divided by that with which vLLM has sampled it. It
    multiplies the token's loss.
    """

    mode: Literal["TokenTruncate", "TokenMask", "SequenceTruncate", "SequenceMask"] = "TokenTruncate"
    """What has a ratio, and what becomes of one above the cap. Token modes have one for each token, Sequence modes the
    product of a completion's. Truncate lowers it to the cap; Mask sets it to 0, which leaves the token or completion
    out."""
    cap: Annotated[Decimal, Between("1", "1000000")] = 2.0
    """Largest ratio."""
