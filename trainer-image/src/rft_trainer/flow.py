"""Runs the stages of a run in their order: data, baseline, preflight, GRPO, export, evaluation, summary.

Every stage first checks the output folder and does only the missing work. So a run that was stopped at any point
resumes there when it is started again.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.foreign.files import read_document
from rft_api.model import Model
from rft_api.progress import Phase, Unit
from rft_api.run_folder import CheckpointInfo, RunFolder, Stage
from rft_api.summary import Summary
from rft_api.trainer_config import TrainerConfig
from rft_api.warmup import Warmup
from rft_trainer import checkpoints, own_disks
from rft_trainer.arguments import planned_steps
from rft_trainer.base_model import BaseModel, fetch_base_model, local_base_model
from rft_trainer.component_limit import ComponentLimit, recorded_names
from rft_trainer.conversations import conversation_check, token_counter
from rft_trainer.data import Dataset, Message, Prompt, WarmupData, load_dataset, load_warmup, mix
from rft_trainer.distributed import any_rank, gather, local_rank, rank, wait_for_all
from rft_trainer.engines import VLLM, Engine, InProcess, Policy, start_engine
from rft_trainer.evaluation import repeat
from rft_trainer.evaluator import Evaluator
from rft_trainer.failures import memory_for
from rft_trainer.grpo import RFTTrainer
from rft_trainer.memory_check import check_memory
from rft_trainer.metrics_log import read_validations
from rft_trainer.modeling import (
    add_adapter,
    check_base_model,
    export_adapter,
    export_model,
    forget_zero_3,
    load_adapter,
    load_model,
    load_tokenizer,
    model_dtype,
    stated_end_token_ids,
)
from rft_trainer.output_state import prepare_output
from rft_trainer.preflight import judge
from rft_trainer.progress import REPORTED_ROWS, ProgressReporter
from rft_trainer.provenance import build_provenance, warn_of_other_precision
from rft_trainer.random_numbers import own_random_numbers
from rft_trainer.rewards import RewardClient
from rft_trainer.rollout_servers.command import BASE
from rft_trainer.rollouts import write_rollouts
from rft_trainer.same_data import check_same_data
from rft_trainer.stop_strings import stop_strings
from rft_trainer.summary import build_summary
from rft_trainer.timings import StageClock
from rft_trainer.validator import stop_early
from rft_trainer.warmup import run_warmup

log = logging.getLogger(__name__)

_SPREADING = "copying files of the run to the other machines"


class Run:
    """One start of a run, as one of its ranks executes it.

    Args:
        config: the run's configuration.
        commit: on rank 0, the commit of a base model on the hub; None for a folder, and on other ranks.
        rows: number of rows in the data, for the progress.
        reporter: where progress is published.
        should_stop: whether the run has been told to stop.
    """

    def __init__(
        self,
        config: TrainerConfig,
        commit: str | None,
        rows: int,
        reporter: ProgressReporter,
        should_stop: Callable[[], bool],
    ):
        self._config = config
        self._commit = commit
        self._rows = rows
        self._folder = RunFolder(config.output)
        self._reporter = reporter
        self._should_stop = should_stop
        self._clock = StageClock(self._folder)
        self._device = torch.device("cuda", torch.cuda.current_device()) if config.compute.on_gpus else "cpu"

    def warm_up(self) -> None:
        """Run the supervised stage, if the configuration has one.

        Raises:
            RunError: when the data or the model is invalid, or the run must stop.
        """
        warmup = self._config.warmup
        if warmup is None:
            return
        base = self._fetch_base_model()
        tokenizer = self._load_tokenizer(base)
        conversations = self._conversations(base, tokenizer, warmup).conversations
        self._dataset(base, tokenizer)
        # Before anything is computed from the model, because a later start must use the same model.
        self._record_provenance(base)
        self._phase("WarmUp", f"imitating {len(conversations)} conversations", unit="steps")
        run_warmup(self._config, base, warmup, conversations, self._reporter, self._should_stop)
        self._phase("Data", "")

    def train(self) -> Summary | None:
        """Run all stages after the warm-up; write the summary to the output folder, and return it on rank 0.

        Raises:
            RunError: for every fault that a user can correct; INTERRUPTED when the run must stop.
        """
        if any_rank(self._folder.summary.exists()):
            return self._earlier_summary()
        base = self._fetch_base_model()
        tokenizer = self._load_tokenizer(base)
        dataset = self._dataset(base, tokenizer)
        training = self._config.hyperparameters
        prompts = mix(dataset.train, dataset.weights, training.epochs, training.seed)
        planned_steps(self._config, len(prompts))
        resume = self._prepare_output(base)
        client = RewardClient(self._config.rewards, self._should_stop, shadows=self._config.shadows)
        held_out = dataset.test or dataset.validation
        with closing(start_engine(self._config, base, tokenizer, self._should_stop)) as engine:
            evaluator = Evaluator(
                engine, tokenizer, stated_end_token_ids(base.folder, tokenizer), client,
                training.max_completion_tokens, self._config.sampling, self._report_completed,
            )  # fmt: skip
            start = self._evaluate_start(base, held_out, evaluator)
            self._check_learnable(start, prompts, evaluator)
            trainer_steps, stopped_early = self._reinforce(
                start.load(), tokenizer, prompts, dataset.validation, client, engine, resume
            )
            del start
            gc.collect()
            forget_zero_3()
            self._export(base)
            self._evaluate_tuned(base, held_out, evaluator)
        client.close()
        return self._finish(
            lambda seconds: build_summary(self._config, dataset, base, trainer_steps, stopped_early, seconds)
        )

    def _earlier_summary(self) -> Summary | None:
        """Return the summary of a run that has already ended, on rank 0."""
        self._phase("Done", "the run has already ended; there is nothing left to do")
        return read_document(self._folder.summary, Summary) if rank() == 0 else None

    def _finish(self, build: Callable[[dict[str, float]], Summary]) -> Summary | None:
        """Write the summary, which `build` makes with the seconds of the stages, and return it on rank 0."""
        wait_for_all()
        self._phase("Done", "")
        if rank() > 0:
            return None
        summary = build(self._clock.read())
        _write(self._folder.summary, summary)
        return summary

    def _fetch_base_model(self) -> BaseModel:
        """Return the base model; fetch one of the hub once on each machine, at the same commit on all machines."""
        commit = gather(self._commit)[0]
        if self._config.compute.on_gpus:
            self._reporter.update(memory=check_memory(self._config, commit))
        if commit is not None:
            self._phase("Fetching", f"{self._config.model} at commit {commit}", unit="MB")
            if local_rank() == 0:
                fetch_base_model(self._config, commit, self._report_bytes)
            wait_for_all()
        base = local_base_model(self._config, commit)
        check_base_model(self._config, base)
        return base

    def _report_bytes(self, completed: int, total: int) -> None:
        self._reporter.update(done=completed // 10**6, planned=total // 10**6)

    def _record_provenance(self, base: BaseModel) -> None:
        """Record what the run is made from, at its first start; later starts have been compared with that."""
        if rank() > 0:
            return
        if self._folder.provenance.exists():
            warn_of_other_precision(self._config, base)
            return
        self._phase("Data", "computing digests of model and data", unit="MB")
        _write(self._folder.provenance, build_provenance(self._config, base, self._report_bytes))

    def _prepare_output(self, base: BaseModel) -> CheckpointInfo | None:
        """Record what the run is made from, and clean up what an earlier start has left; see `prepare_output`."""
        self._record_provenance(base)
        report = self._reporter.report_bytes(_SPREADING)
        return prepare_output(self._folder, self._config.is_reinforced, report)

    def _phase(self, phase: Phase, message: str, planned: int = 0, unit: Unit = "samples") -> None:
        self._reporter.update(phase=phase, message=message, done=0, planned=planned, unit=unit, eta_seconds=None)
        if rank() == 0:
            # Training is timed step by step, in the metrics.
            self._clock.enter(None if phase in ("Training", "Done") else phase)
        if rank() == 0 and message:
            log.info("%s: %s", phase, message)

    def _load_tokenizer(self, base: BaseModel) -> PreTrainedTokenizerBase:
        """Return the tokenizer; refuse one that cannot do what the run asks for before anything is computed."""
        tokenizer = load_tokenizer(base.folder, self._config.sampling.chat_template_arguments)
        stop_strings(tokenizer, self._config.sampling)
        return tokenizer

    def _dataset(self, base: BaseModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        self._phase("Data", "checking data", planned=self._rows, unit="rows")
        config, sampling = self._config, self._config.sampling
        count_tokens = token_counter(base.folder, tokenizer, sampling.chat_template_arguments)
        rows_read = 0

        def count(messages: list[Message]) -> int:
            nonlocal rows_read
            rows_read += 1
            if rows_read % REPORTED_ROWS == 0:
                self._reporter.update(done=rows_read)
            return count_tokens(messages)

        dataset = load_dataset(config.data, config.hyperparameters.max_prompt_tokens, count, sampling.system_prompt)
        check_same_data([*chain(*dataset.train.values()), *dataset.validation, *dataset.test])
        for source, report in dataset.invocation_logs.items() if rank() == 0 else ():
            log.info("%s: %s", source, report)
        return dataset

    def _conversations(self, base: BaseModel, tokenizer: PreTrainedTokenizerBase, warmup: Warmup) -> WarmupData:
        """Read the conversations of the supervised stage."""
        self._phase("Data", "reading conversations")
        sampling = self._config.sampling
        check = conversation_check(base.folder, tokenizer, sampling.chat_template_arguments)
        read = load_warmup(warmup, check, sampling.system_prompt, not self._config.is_reinforced)
        check_same_data([*read.conversations, *read.validation])
        return read

    def _wait_for_servers(self, engine: Engine) -> None:
        """While it starts, vLLM measures how much memory of a GPU is free. The trainer must not take any meanwhile."""
        if isinstance(engine, VLLM):
            self._phase("Baseline", "waiting for vLLM")
            engine.wait_until_ready()
            wait_for_all()

    def _evaluate_start(self, base: BaseModel, held_out: Sequence[Prompt], evaluator: Evaluator) -> Policy:
        """Evaluate the base model and the warm-up; return the policy that reinforcement learning starts from."""
        self._wait_for_servers(evaluator.engine)
        self._phase("Baseline", "loading the model")
        config = self._config
        model = self._load(base, base.folder)
        self._evaluate(
            "base", Policy(BASE, None, lambda: model), held_out, evaluator, "Baseline", "scoring the base model"
        )
        if config.warmup is None:
            if config.tuning.type == "LoRA":
                # A new adapter changes nothing: completions of the base model are those of the policy.
                model = add_adapter(model, config.tuning, config.hyperparameters.seed)
            return Policy(BASE, None, lambda: model)
        if config.tuning.type == "Full":
            del model
            gc.collect()
            model = self._load(base, str(self._folder.warmup))
        else:
            model = load_adapter(model, self._folder.warmup, trainable=True)
        warmup = Policy("warmup", self._folder.warmup, lambda: model)
        self._evaluate("warmup", warmup, held_out, evaluator, "Baseline", "scoring the model after the warm-up")
        return warmup

    def _evaluate_tuned(self, base: BaseModel, held_out: Sequence[Prompt], evaluator: Evaluator) -> None:
        """Evaluate the exported model or adapter, read from the files that will be served."""
        if self._folder.evaluation("tuned").exists():
            return
        self._phase("Evaluating", "loading the tuned model")

        @functools.cache
        def load() -> Any:
            if self._config.tuning.type == "Full":
                return self._load(base, str(self._folder.best))
            return load_adapter(self._load(base, base.folder), self._folder.best, trainable=False).to(self._device)

        tuned = Policy("tuned", self._folder.best, load)
        self._evaluate("tuned", tuned, held_out, evaluator, "Evaluating", "scoring the tuned model")

    def _load(self, base: BaseModel, model: str) -> Any:
        """Load a model onto this process's device, or its part of it at ZeRO stage 3."""
        with memory_for("loading"):
            return load_model(model, model_dtype(self._config, base), self._config.compute).to(self._device)

    def _evaluate(
        self, stage: Stage, policy: Policy, prompts: Sequence[Prompt], evaluator: Evaluator, phase: Phase, message: str
    ) -> None:
        """Complete the held-out prompts, and write the scored completions, unless the file exists already."""
        if self._folder.evaluation(stage).exists():
            return
        config, samples = self._config.evaluation, self._config.evaluation.samples_per_prompt
        repeated = repeat(prompts, samples)
        self._phase(phase, message, planned=len(repeated))
        with own_random_numbers(self._config.hyperparameters.seed, "evaluation", stage, rank()):
            rows = evaluator.evaluate(policy, repeated, config.temperature, samples_per_prompt=samples)
        if rank() == 0:
            ComponentLimit(recorded_names(self._folder)).apply(rows)
            write_rollouts(self._folder.evaluation(stage), rows)
        wait_for_all()

    def _report_completed(self, completed: int) -> None:
        """Publish the progress of an evaluation, or stop it; completions by vLLM are left by all ranks together."""
        self._reporter.update(done=completed)
        if self._config.compute.rollout_engine == "InProcess" and self._should_stop():
            raise RunError(ExitCode.INTERRUPTED, "stopped; start again to go on")

    def _check_learnable(self, policy: Policy, prompts: Sequence[Prompt], evaluator: Evaluator) -> None:
        """Sample and score groups of completions, and act on the preflight's verdict, unless there is one already."""
        config = self._config
        if config.preflight.action == "Skip" or self._folder.preflight.exists():
            return
        distinct = list({prompt.id: prompt for prompt in prompts}.values())[: config.preflight.prompts]
        samples, temperature = config.hyperparameters.samples_per_prompt, config.hyperparameters.temperature
        repeated = repeat(distinct, samples)
        self._phase("Preflight", f"sampling {samples} completions of {len(distinct)} prompts", planned=len(repeated))
        # Every rank samples its own share, with a seed of its own, so that ranks do not draw the same random numbers.
        torch.manual_seed(config.hyperparameters.seed + rank())
        together = samples if any(target.scope == "Group" for target in config.rewards.values()) else 1
        rows = evaluator.evaluate(policy, repeated, temperature, with_shadows=False, samples_per_prompt=together)
        verdict = judge([rows[start : start + samples] for start in range(0, len(rows), samples)], samples)
        unfit = verdict.verdict != "Fine"
        if unfit and config.preflight.action == "Fail":
            raise RunError(
                ExitCode.NOT_LEARNABLE,
                f"{verdict.verdict}: {verdict.message}. (to train anyway, set spec.preflight.action: Warn)",
            )
        if rank() == 0:
            log.log(logging.WARNING if unfit else logging.INFO, "preflight: %s: %s", verdict.verdict, verdict.message)
            _write(self._folder.preflight, verdict)
        wait_for_all()

    def _reinforce(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        validation: Sequence[Prompt],
        client: RewardClient,
        engine: InProcess | VLLM,
        resume: CheckpointInfo | None,
    ) -> tuple[int, bool]:
        """Train to the end, from a checkpoint if there is one; return the steps, and whether training stopped early."""
        total = planned_steps(self._config, len(prompts))
        self._phase("Training", f"going on from step {resume.step}" if resume else "starting", total, "steps")
        stopped_early = stop_early(read_validations(self._folder), self._config.early_stopping)
        # The last validation is missing where the run was interrupted in it.
        has_ended = resume is not None and resume.step >= total and resume.validation_reward is not None
        if resume is not None and (has_ended or stopped_early):
            return resume.step, resume.step < total
        with memory_for("update"):
            trainer = RFTTrainer(
                self._config, model, tokenizer, prompts, validation, client, engine, self._reporter, self._should_stop,
                resume,
            )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(self._folder.checkpoint(resume.step)) if resume else None)
        if trainer.interrupted:
            raise RunError(
                ExitCode.INTERRUPTED,
                f"stopped after step {trainer.state.global_step}; its checkpoint is saved, start again to go on"
                if trainer.state.global_step
                else "stopped before the end of the first step; start again",
            )
        return trainer.state.global_step, trainer.stopped_early

    def _export(self, base: BaseModel) -> None:
        """Write the weights of the best checkpoint to the folder `best`."""
        if rank() == 0:
            best = checkpoints.best_or_newest(self._folder)
            self._phase("Exporting", f"step {best.step}")
            export = export_model if self._config.tuning.type == "Full" else export_adapter
            export(self._folder.checkpoint(best.step), base, self._folder.best, self._reporter)
        wait_for_all()
        own_disks.spread(self._folder.path, [self._folder.best], self._reporter.report_bytes(_SPREADING))
        wait_for_all()


def _write(path: Path, model: Model) -> None:
    atomic_write(path, model.model_dump_json(by_alias=True, indent=2) + "\n")
