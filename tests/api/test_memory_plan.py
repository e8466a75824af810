"""Shapes, plans and advice from config.json and fields, compared with published figures."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from pydantic import ValidationError
from support.model_configurations import LLAMA_3_1_8B, QWEN3_8B, QWEN3_30B_A3B, QWEN3_32B

from rft_api.memory_advice import Fields, advise, judge_memory
from rft_api.memory_devices import Devices, devices_of
from rft_api.memory_layers import cache_bytes_per_token
from rft_api.memory_plan import GIB, plan_memory
from rft_api.model_shape import UnknownShape, read_shape
from rft_api.training import DeepSpeed, Hyperparameters, TrainerCompute
from rft_api.tuning import Tuning

LORA, FULL = Tuning(), Tuning(type="Full")


def fields(configuration, tuning=LORA, parameters=None, **compute):
    devices = devices_of(TrainerCompute.model_validate(compute))
    return read_shape(configuration), Fields(Hyperparameters.model_validate(parameters or {}), tuning, devices)


@pytest.mark.parametrize(
    ("configuration", "billions", "without_embedding"),
    # From the cards of the models on the Hugging Face hub.
    [(QWEN3_8B, 8.2, 6.95), (QWEN3_32B, 32.8, 31.2), (QWEN3_30B_A3B, 30.5, 29.9), (LLAMA_3_1_8B, 8.03, None)],
)
def test_numbers_of_weights_are_the_published_ones(configuration, billions, without_embedding):
    shape = read_shape(configuration)
    assert shape.weights / 1e9 == pytest.approx(billions, abs=0.05)
    if without_embedding is not None:
        rest = shape.weights - shape.weights_by_kind["embedding"] - shape.weights_by_kind["output layer"]
        assert rest / 1e9 == pytest.approx(without_embedding, abs=0.05)


def test_the_cache_is_as_large_as_published():
    """In 16 bits, GB for 1,000, 16,000 and 128,000 tokens: huggingface.co/blog/llama31, "Inference Memory"."""
    small = read_shape(LLAMA_3_1_8B)
    large = read_shape(
        {**LLAMA_3_1_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
         "num_attention_heads": 64}
    )  # fmt: skip
    for shape, sizes in ((small, (0.125, 1.95, 15.62)), (large, (0.313, 4.88, 39.06))):
        for tokens, size in zip((1000, 16000, 128000), sizes, strict=True):
            assert cache_bytes_per_token(shape, 2) * tokens / GIB == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_stages_of_zero_keep_what_its_paper_says(stage, gigabytes):
    """A model of 7.5 billion weights on 64 GPUs: figure 1 of arXiv:1910.02054."""
    shape = read_shape(QWEN3_8B)
    devices = Devices(64, on_gpus=True, deepspeed=DeepSpeed(zero_stage=stage))
    update = next(p for p in plan_memory(shape, Hyperparameters(), FULL, devices).phases if p.phase == "update")
    kept = sum(update.items[name] for name in ("weights", "gradients", "optimizer"))
    assert kept / shape.weights * 7.5 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize("tuning", [LORA, FULL])
@pytest.mark.parametrize(
    ("configuration", "largest_module"),
    [(QWEN3_32B, 151936 * 5120), (QWEN3_30B_A3B, 128 * 3 * 2048 * 768)],
    ids=["the embedding", "the experts of a layer"],
)
def test_stage_3_loads_its_part_and_one_module(configuration, largest_module, tuning):
    """In bfloat16, which DeepSpeed decides on, also for weights that are stored or trained in float32."""
    shape = read_shape({**configuration, "torch_dtype": "float32"})
    devices = Devices(8, on_gpus=True, deepspeed=DeepSpeed(zero_stage=3))
    loading = plan_memory(shape, Hyperparameters(), tuning, devices).phases[0]
    assert loading.phase == "loading"
    assert loading.items == {"weights": 2 * shape.weights / 8, "gathered weights": 2 * largest_module}


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_at_other_stages_each_process_loads_the_whole_model(stage):
    shape = read_shape(QWEN3_32B)
    devices = Devices(8, on_gpus=True, deepspeed=None if stage is None else DeepSpeed(zero_stage=stage))
    loading = plan_memory(shape, Hyperparameters(), FULL, devices).phases[0]
    assert loading.items == {"weights": 4 * shape.weights}


def test_an_adapter_adds_little_to_the_weights():
    shape, job = fields(QWEN3_8B, gpuMemory="80Gi")
    items = {name: size for phase in job.plan(shape).phases for name, size in phase.items.items()}
    assert items["weights"] == 2 * shape.weights
    # 16 (in + out) for each of the seven linear layers of 36 layers, in float32
    adapter = 36 * 16 * (2 * 8192 + 2 * 5120 + 3 * 16384)
    assert items["adapter"] == items["gradients"] == 4 * adapter
    assert items["optimizer"] == 8 * adapter


@pytest.mark.parametrize("tuning", [LORA, FULL])
@pytest.mark.parametrize("configuration", [QWEN3_8B, QWEN3_32B, QWEN3_30B_A3B])
@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("memory", ["24Gi", "80Gi", "141Gi"])
def test_advice_is_right(configuration, tuning, gpus, memory):
    """Every advice makes less missing, and what suffices comes first."""
    shape, job = fields(configuration, tuning, gpusPerNode=gpus, gpuMemory=memory)
    plan, advice = job.plan(shape), advise(shape, job)
    assert plan.fits == (not advice and plan.excess == 0)
    order = [not item.fits for item in advice]
    assert order == sorted(order)
    for item in advice:
        assert 0 <= item.excess < plan.excess
        assert item.fits == (item.excess == 0)


def test_a_smaller_pass_is_the_first_advice_where_it_suffices():
    shape, job = fields(QWEN3_32B, gpusPerNode=8, gpuMemory="80Gi", rollouts={"engine": "InProcess"})
    first = advise(shape, job)[0]
    assert first.changes == ("hyperparameters.tokensPerMicroBatch: 4096",)
    assert job.plan(shape).fits is False
    smaller = job.hyperparameters.model_copy(update={"tokens_per_micro_batch": 4096})
    assert replace(job, hyperparameters=smaller).plan(shape).fits is True


def test_layers_that_keep_all_activations_are_advised_to_keep_their_inputs():
    """Where smaller passes do not suffice, and the memory with the default does."""
    shape, default = fields(QWEN3_8B, gpuMemory="80Gi", rollouts={"engine": "InProcess"})
    _, job = fields(QWEN3_8B, gpuMemory="80Gi", rollouts={"engine": "InProcess"}, gradientCheckpointing=False)
    assert default.plan(shape).fits is True
    assert job.plan(shape).largest.total > 1.5 * default.plan(shape).largest.total
    advice = next(item for item in advise(shape, job) if item.changes == ("compute.gradientCheckpointing: true",))
    assert advice.fits
    assert all("gradientCheckpointing" not in str(item) for item in advise(shape, default))


def test_an_adapter_on_chosen_layers_has_only_their_weights():
    shape, job = fields(QWEN3_8B, Tuning(target_modules=["v_proj", "q_proj"]), gpuMemory="80Gi")
    items = {name: size for phase in job.plan(shape).phases for name, size in phase.items.items()}
    assert items["adapter"] == 4 * 36 * 16 * ((4096 + 4096) + (4096 + 1024))
    _, whole = fields(QWEN3_8B, gpuMemory="80Gi")
    assert job.plan(shape).largest.total < whole.plan(shape).largest.total


@pytest.mark.parametrize(
    ("parameters", "gpus"),
    [
        ({"batchSize": 3, "samplesPerPrompt": 8}, 8),
        ({"batchSize": 4, "samplesPerPrompt": 2}, 8),
        ({"batchSize": 8, "samplesPerPrompt": 2}, 8),
        ({"batchSize": 24, "samplesPerPrompt": 5, "microBatchSize": 8}, 1),
        ({"batchSize": 27, "samplesPerPrompt": 2, "microBatchSize": 27}, 1),
    ],
)
def test_nothing_is_advised_that_validation_refuses(parameters, gpus):
    """Completions divide over processes and passes; prompts stay whole, because rewards may compare completions."""
    for memory in range(8, 640, 8):
        shape, job = fields(QWEN3_32B, parameters=parameters, gpusPerNode=gpus, gpuMemory=f"{memory}Gi")
        for item in advise(shape, job):
            stated = [change.removeprefix("hyperparameters.").split(": ", 1) for change in item.changes]
            changed = parameters | {pair[0]: int(pair[1]) for pair in stated if pair[0] in parameters}
            processes = next((int(change.split()[0]) for change in item.changes if " GPUs in place" in change), gpus)
            completions, rest = divmod(changed["batchSize"] * changed["samplesPerPrompt"], processes)
            assert rest == 0, item
            assert completions % changed.get("microBatchSize", 1) == 0, item
            assert changed["batchSize"] % processes == 0 or parameters["batchSize"] % gpus, item


def test_several_changes_are_advised_where_no_single_one_suffices():
    shape, job = fields(QWEN3_32B, gpuMemory="80Gi")
    first = advise(shape, job)[0]
    assert first.fits
    assert len(first.changes) > 1


def test_sequences_in_the_cache_are_those_that_memory_is_left_for():
    shape, job = fields(QWEN3_8B, gpuMemory="80Gi", rollouts={"engine": "vLLM"})
    cache = job.plan(shape).cache
    assert cache is not None
    assert cache.sequence_bytes == 1536 * 147456
    held = cache.sequences * cache.sequence_bytes + sum(cache.others.values())
    assert held <= job.plan(shape).memory_share * 80 * GIB < held + cache.sequence_bytes


def test_a_server_gets_what_is_planned_to_be_left():
    """A tenth more than planned is left for the trainer; a stated share counts as it is."""
    shape, job = fields(QWEN3_8B, gpuMemory="80Gi")
    plan = job.plan(shape)
    assert plan.memory_share == pytest.approx(0.92 - 1.1 * plan.largest.total / (80 * GIB), abs=0.001)
    assert plan.limit == pytest.approx(1.1 * plan.largest.total, abs=0.1 * GIB)
    assert plan.fits is True
    _, stated = fields(QWEN3_8B, gpuMemory="80Gi", rollouts={"memoryShare": "0.2"})
    assert stated.plan(shape).memory_share == 0.2
    assert stated.plan(shape).fits is False
    assert str(advise(shape, stated)[0]).startswith("leaving out compute.rollouts.memoryShare is enough")
    _, dedicated = fields(QWEN3_8B, gpuMemory="80Gi", rollouts={"placement": "Dedicated"})
    assert dedicated.plan(shape).memory_share == 0.92
    assert fields(QWEN3_8B, rollouts={"engine": "InProcess"})[1].plan(shape).memory_share is None


def test_a_server_that_cannot_start_beside_the_trainer_is_said_to_lack_memory():
    shape, job = fields(QWEN3_32B, gpusPerNode=8, gpuMemory="80Gi")
    plan = job.plan(shape)
    assert plan.fits is False
    assert plan.server_excess == 0
    wider = next(item for item in advise(shape, job) if "gpusPerServer" in item.changes[0])
    assert "compute.rollouts.gpusPerServer: 8" in wider.changes


def test_tensor_parallel_divides_the_weights_of_a_server():
    shape, job = fields(QWEN3_32B, gpuMemory="80Gi", rollouts={"placement": "Dedicated", "gpusPerServer": 4})
    cache = job.plan(shape).cache
    assert cache is not None
    assert cache.others["weights"] == 2 * shape.weights / 4
    assert cache.sequence_bytes == 1536 * 262144 / 4


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("memory", [70, 80, 96, 141])
def test_the_trainers_own_cache_holds_a_step_where_rollouts_fit(stage, memory):
    shape = read_shape(QWEN3_32B)
    devices = Devices(8, True, deepspeed=DeepSpeed(zero_stage=stage), gpu_bytes=memory * GIB)
    plan = plan_memory(shape, Hyperparameters(), LORA, devices)
    rollouts = next(phase for phase in plan.phases if phase.phase == "rollouts")
    assert plan.cache is not None
    assert plan.limit is not None
    assert (plan.cache.sequences >= 32 * 8 // 8) == (rollouts.total <= plan.limit)


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("placement", ["InProcess", "Shared", "Dedicated"])
def test_more_memory_never_makes_a_job_unfit(placement, share):
    shape = read_shape(QWEN3_8B)
    verdicts = []
    for size in range(8, 320, 8):
        devices = Devices(1, True, placement, memory_share=share, gpu_bytes=size * GIB)
        verdicts.append(plan_memory(shape, Hyperparameters(), LORA, devices).fits)
    assert verdicts == sorted(verdicts)
    assert len(set(verdicts)) == 2


def test_the_smaller_of_stated_and_real_memory_counts():
    compute = TrainerCompute(gpu_memory="80Gi")
    assert devices_of(compute).gpu_bytes == 80 * GIB
    assert devices_of(compute, 79.1 * GIB).gpu_bytes == 79.1 * GIB
    assert devices_of(compute, 96.0 * GIB).gpu_bytes == 80 * GIB
    assert devices_of(TrainerCompute()).gpu_bytes is None


def test_verdicts_are_sentences():
    shape, job = fields(QWEN3_8B, gpuMemory="80Gi")
    assert judge_memory(shape, job).fits is True
    shape, job = fields(QWEN3_8B)
    verdict = judge_memory(shape, job)
    assert verdict.fits is None
    assert "set compute.gpuMemory" in verdict.message
    shape, job = fields(QWEN3_32B, gpuMemory="24Gi")
    verdict = judge_memory(shape, job)
    assert verdict.fits is False
    assert "What to change: " in verdict.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "models of type gpt2 are not among those whose memory can be planned: llama, granite"),
        ({"model_type": None}, "models of type None are not among"),
        ({"model_type": ["llama"]}, "models of type ['llama'] are not among"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": "36"}, "num_hidden_layers is 36, not a positive number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, not a positive number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, not a positive number"),
        ({"vocab_size": 10**30}, "not a positive number"),
        ({"torch_dtype": "float8_e4m3fn"}, "names dtype float8_e4m3fn, which cannot be trained"),
        ({"torch_dtype": []}, "names dtype [], which cannot be trained"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is no, not true or false"),
        ({"mlp_only_layers": [1]}, "only some layers have experts"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(change, message):
    with pytest.raises(UnknownShape, match=re.escape(message)):
        read_shape({**QWEN3_8B, **change})


def test_no_object_is_refused():
    with pytest.raises(UnknownShape, match="no JSON object"):
        read_shape([])


def test_memory_of_gpus_is_for_gpus():
    with pytest.raises(ValidationError, match="leave it out"):
        TrainerCompute.model_validate({"gpusPerNode": 0, "gpuMemory": "80Gi"})
