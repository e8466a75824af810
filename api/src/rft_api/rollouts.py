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
    """Where vLLM servers run. Shared puts them on the GPUs of the trainer. Dedicated gives them GPUs of their own,
    which each pod gets in addition to gpusPerNode."""
    servers: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of vLLM servers of each pod, for placement Dedicated and for CPUs. The default is 1. With placement Shared
    on GPUs this field must not be set, because there are as many servers as the GPUs of the trainer can hold."""
    gpus_per_server: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of GPUs of each vLLM server, which divides every weight among them (tensor parallelism). The default is
    1."""
    memory_share: Annotated[Decimal, Between("0.01", "0.98")] | None = None
    """Share of the memory of a GPU that a vLLM server uses for its weights and its cache. With placement Shared, the
    default is the share that the trainer does not need, according to the plan of the job's memory. With placement
    Dedicated, the default is 0.92."""
    overlap: Annotated[Integer, Field(ge=0, le=1)] = 0
    """Number of steps whose completions are sampled in advance. With 0, the vLLM servers and the trainer take turns.
    With 1, the servers sample the completions of the next step while the trainer learns from those of the current step,
    so that neither waits for the other. These completions come from the policy before the current step, and
    importanceSampling corrects the loss for that. Completions are not sampled in advance when a validation comes
    between the steps."""

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
    """How importance ratios above the cap are handled. The importance ratio of a token is its probability in the
    trainer divided by its probability in vLLM, and it multiplies the loss of the token. TokenTruncate and TokenMask use
    the ratio of each token. SequenceTruncate and SequenceMask use the product of the ratios of a completion for all of
    its tokens. The Truncate modes lower a ratio above the cap to the cap. The Mask modes set it to 0, so that the token
    or the completion does not count."""
    cap: Annotated[Decimal, Between("1", "1000000")] = 2.0
    """Largest importance ratio that is used without a change. The field mode says what happens to larger ratios."""
