"""Examples of what each rule of the resources' schemas accepts and refuses."""

from __future__ import annotations

from typing import Any

from rft_api.builtin_penalties import LengthPenaltyReward
from rft_api.builtin_reward import BuiltinReward
from rft_api.builtin_table import FormatReward
from rft_api.inference_endpoint import Autoscale, InferenceEndpoint, InferenceEndpointSpec, Serving
from rft_api.invocation_log import FeedbackFilter, InvocationLog, MetadataFilter, MetadataFilters
from rft_api.model import Model
from rft_api.openai_reward import OpenAIReward
from rft_api.remote_reward import HttpReward, JudgeModel, JudgeReward
from rft_api.reward_function import (
    CombineReward,
    CombineTerm,
    Expectation,
    PythonReward,
    RewardFunction,
    RewardFunctionSpec,
    SourceFrom,
)
from rft_api.rft_job import Compute, RFTJob, RFTJobSpec
from rft_api.sampling import EvaluationSettings, Sampling
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.trackers import Tracker
from rft_api.training import DeepSpeed, Hyperparameters
from rft_api.tuning import Tuning
from rft_api.warmup import Warmup

DATA = {"train": [{"name": "a", "uri": "a.jsonl", "reward": "r"}]}
TWICE = [{"name": "a", "uri": "a.jsonl", "reward": "r"}] * 2
LOG = "BedrockInvocationLog"
SPEC = {"model": {"uri": "m"}, "data": DATA, "output": {"uri": "o"}}
ANSWERS = [{"name": "a", "uri": "a"}]
IMITATES = {"model": {"uri": "m"}, "warmup": {"data": ANSWERS}, "output": {"uri": "o"}}
MATH = {"name": "a", "builtin": {"name": "Math"}}
JUDGE = {"template": "Reasoning", "model": {"endpoint": "e"}, "orders": 2}
COSINE = {"type": "text_similarity", "input": "x", "reference": "y", "evaluation_metric": "cosine"}
OPINION = {"builtin": {"name": "Math"}}
SERVED = {"model": {"uri": "m"}}
ON_TWO_NODES = {**SPEC, "compute": {"nodes": 2}}

RULES: list[tuple[type[Model], dict[str, Any], dict[str, Any], str]] = [
    (
        Data,
        DATA,
        {**DATA, "validation": DATA["train"], "validationFraction": "0.1"},
        "set at most one of validation, v",
    ),
    (Data, {**DATA, "validation": DATA["train"]}, {"train": TWICE}, "train: every source needs a name of its own"),
    (Data, DATA, {**DATA, "validation": TWICE}, "validation: every source needs a name of its own"),
    (Data, {**DATA, "test": DATA["train"]}, {**DATA, "test": TWICE}, "test: every source needs a name of its own"),
    (Warmup, {"data": ANSWERS}, {"data": ANSWERS * 2}, "data: every source"),
    (
        RFTJobSpec,
        {**IMITATES, "warmup": {"data": ANSWERS, "validation": ANSWERS}},
        {**IMITATES, "warmup": {"data": ANSWERS, "validation": ANSWERS * 2}},
        "validation: every source",
    ),
    (
        RFTJobSpec,
        {**IMITATES, "warmup": {"data": ANSWERS, "validationFraction": "0.2"}},
        {**IMITATES, "warmup": {"data": ANSWERS, "validation": ANSWERS, "validationFraction": "0.2"}},
        "set at most one of validation, validationFraction",
    ),
    (
        WarmupSource,
        {"name": "a", "uri": "a", "imitate": "EveryAnswer"},
        {"name": "a", "uri": "a", "imitate": "EveryAnswer", "format": LOG},
        "imitate belongs to format OpenAIChat",
    ),
    (
        RFTJobSpec,
        IMITATES,
        {"model": {"uri": "m"}, "output": {"uri": "o"}},
        "prompts whose completions a reward scores",
    ),
    (
        RFTJobSpec,
        {**IMITATES, "data": {"test": DATA["train"]}},
        {**IMITATES, "data": {"validation": DATA["train"]}},
        "the loss of a job without it is measured on warmup.validation",
    ),
    (RFTJobSpec, IMITATES, {**IMITATES, "earlyStopping": {}}, "belong to reinforcement learning; remove them"),
    (RFTJobSpec, IMITATES, {**IMITATES, "hyperparameters": {"maxSteps": 3}}, "belong to reinforcement learning"),
    (RFTJobSpec, IMITATES, {**IMITATES, "shadowRewards": ["s"]}, "belong to reinforcement learning"),
    (
        RFTJobSpec,
        {**IMITATES, "endpoint": {"name": "e", "baseEndpoint": "b"}},
        {**IMITATES, "endpoint": {"name": "e", "baseEndpoint": "b", "checkpoints": True}},
        "endpoint.checkpoints belong to reinforcement learning",
    ),
    (
        RFTJobSpec,
        {**SPEC, "warmup": {"data": ANSWERS}},
        {**SPEC, "warmup": {"data": ANSWERS, "validation": ANSWERS}},
        "measure the result of a job without data.train",
    ),
    (
        DataSource,
        {**DATA["train"][0], "format": LOG, "invocationLog": {"limit": 3}},
        {**DATA["train"][0], "invocationLog": {"limit": 3}},
        "invocationLog belongs to format",
    ),
    (DataSource, {**DATA["train"][0], "format": LOG}, {**DATA["train"][0], "invocationLog": {}}, "invocationLog belo"),
    (
        DataSource,
        {**DATA["train"][0], "split": "train"},
        {**DATA["train"][0], "split": "train", "format": LOG},
        "split belongs to format OpenAIChat",
    ),
    (
        WarmupSource,
        {"name": "a", "uri": "a", "format": LOG, "invocationLog": {}},
        {"name": "a", "uri": "a", "invocationLog": {}},
        "invocationLog belongs to format",
    ),
    (
        InvocationLog,
        {"from": "2025-03-11T00:00:00Z", "to": "2025-03-11T00:00:01Z"},
        {"from": "2025-03-11T00:00:00Z", "to": "2025-03-11T00:00:00Z"},
        "from must be before to",
    ),
    (MetadataFilters, {"equals": {"a": "b"}}, {"equals": {"a": "b"}, "orAll": [{"equals": {"a": "b"}}]}, "exactly one"),
    (FeedbackFilter, {"rating": "Up"}, {}, "set rating, labels or both"),
    (FeedbackFilter, {"labels": ["good"]}, {"labels": []}, "set rating, labels or both"),
    (MetadataFilter, {"equals": {"a": "b"}, "notEquals": {"c": "d"}}, {}, "set equals, notEquals or both"),
    (Tuning, {"type": "LoRA", "rank": 8}, {"type": "Full", "rank": 8}, "belong to type LoRA"),
    (Tuning, {"type": "Full"}, {"type": "Full", "lastLayers": 2}, "belong to type LoRA"),
    (Tuning, {"dropout": "0.05"}, {"type": "Full", "dropout": "0"}, "dropout and rankStabilized belong to type LoRA"),
    (Tuning, {"targetModules": ["q_proj"]}, {"type": "Full", "targetModules": ["q_proj"]}, "belong to type LoRA"),
    (Tuning, {"rankStabilized": True}, {"type": "Full", "rankStabilized": False}, "belong to type LoRA"),
    (
        Tuning,
        {"targetModules": ["q_proj", "v_proj"]},
        {"targetModules": ["q_proj", "q_proj"]},
        "targetModules: every name may appear only once",
    ),
    *(
        (
            Sampling,
            {"chatTemplateArguments": {"enable_thinking": False, "effort": "low", "budget": 3, "share": 0.5}},
            {"chatTemplateArguments": {"enable_thinking": False, name: value}},
            f"remove the names that belong to its caller: {name}",
        )
        for name, value in (
            ("chat_template", "x"),
            ("tokenize", False),
            ("add_generation_prompt", True),
            ("max_length", 9),
        )
    ),
    (
        EvaluationSettings,
        {"temperature": "0.7", "samplesPerPrompt": 4},
        {"samplesPerPrompt": 4},
        "samplesPerPrompt above 1 needs a temperature above 0",
    ),
    (EvaluationSettings, {"temperature": "0"}, {"temperature": "0", "samplesPerPrompt": 2}, "needs a temperature"),
    (DeepSpeed, {"zeroStage": 2, "offload": "Optimizer"}, {"zeroStage": 1, "offload": "Optimizer"}, "offload needs"),
    (Compute, {"gpusPerNode": 0, "processesPerNode": 2}, {"gpusPerNode": 1, "processesPerNode": 2}, "is for CPU train"),
    (
        Compute,
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "servers": 2}},
        {"gpusPerNode": 0, "rollouts": {"servers": 2}},
        "belong to engine vLLM",
    ),
    *(
        (Compute, {"gpusPerNode": 1, "rollouts": part}, {"gpusPerNode": 0, "rollouts": part}, "belong to engine vLLM")
        for part in ({"placement": "Dedicated"}, {"gpusPerServer": 1}, {"memoryShare": "0.5"})
    ),
    (
        Compute,
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}},
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "gpusPerServer": 1}},
        "need GPUs: set gpusPerNode",
    ),
    (
        Compute,
        {"gpusPerNode": 1, "rollouts": {"memoryShare": "0.5"}},
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "memoryShare": "0.5"}},
        "need GPUs: set gpusPerNode",
    ),
    (
        Compute,
        {"rollouts": {"placement": "Dedicated", "servers": 2, "gpusPerServer": 2, "memoryShare": "0.8"}},
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "placement": "Dedicated"}},
        "need GPUs: set gpusPerNode",
    ),
    (
        Compute,
        {"gpusPerNode": 4, "rollouts": {"gpusPerServer": 2}},
        {"gpusPerNode": 4, "rollouts": {"servers": 2}},
        "servers is for placement Dedicated and for CPUs",
    ),
    (
        Compute,
        {"gpusPerNode": 1, "rollouts": {"placement": "Dedicated", "gpusPerServer": 2}},
        {"gpusPerNode": 3, "rollouts": {"gpusPerServer": 2}},
        "has to divide gpusPerNode",
    ),
    (
        Compute,
        {"rollouts": {"placement": "Dedicated", "overlap": 1}},
        {"rollouts": {"overlap": 1}},
        "overlap needs servers that compute beside the trainer",
    ),
    (
        Compute,
        {"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "overlap": 1}},
        {"gpusPerNode": 0, "rollouts": {"overlap": 1}},
        "overlap needs servers that compute beside the trainer",
    ),
    (Compute, {"gpusPerNode": 0, "precision": "Float32"}, {"precision": "Float32"}, "precision is for CPU training"),
    (Compute, {"gpuMemory": "80Gi"}, {"gpusPerNode": 0, "gpuMemory": "80Gi"}, "gpuMemory is the memory of a GPU"),
    (Compute, {"ignoreMemoryPlan": True}, {"gpusPerNode": 0, "ignoreMemoryPlan": True}, "ignoreMemoryPlan is for GPUs"),
    (Serving, {"gpus": 0, "precision": "BFloat16"}, {"precision": "BFloat16"}, "precision is for serving on CPUs"),
    (
        RFTJobSpec,
        {**SPEC, "compute": {"gpusPerNode": 0, "precision": "BFloat16"}},
        {**SPEC, "compute": {"gpusPerNode": 0, "precision": "BFloat16"}, "tuning": {"type": "Full"}},
        "compute.precision BFloat16 is for tuning type LoRA",
    ),
    (
        Hyperparameters,
        {"tokensPerMicroBatch": 4096},
        {"tokensPerMicroBatch": 4096, "microBatchSize": 8},
        "set at most one of tokensPerMicroBatch, microBatchSize",
    ),
    (
        RFTJobSpec,
        {**SPEC, "endpoint": {"name": "e", "baseEndpoint": "b"}},
        {**SPEC, "endpoint": {"name": "e", "baseEndpoint": "b"}, "tuning": {"type": "Full"}},
        "endpoint.baseEndpoint serves LoRA adapters",
    ),
    (
        RFTJobSpec,
        {**SPEC, "shadowRewards": ["s", "t"]},
        {**SPEC, "shadowRewards": ["s", "s"]},
        "name may appear only once",
    ),
    (RFTJobSpec, {**SPEC, "shadowRewards": ["s"]}, {**SPEC, "shadowRewards": ["r"]}, "trained on is recorded anyway"),
    (
        RFTJobSpec,
        {**SPEC, "algorithm": "VESPO", "hyperparameters": {"importanceSampling": {"mode": "TokenMask"}}},
        {**SPEC, "algorithm": "VESPO", "hyperparameters": {"importanceSampling": {"mode": "SequenceMask"}}},
        "VESPO needs hyperparameters.importanceSampling.mode",
    ),
    (
        RFTJobSpec,
        {**SPEC, "sampling": {"stop": ["</answer>"]}, "hyperparameters": {"maskTruncatedCompletions": False}},
        {**SPEC, "sampling": {"stop": ["</answer>"]}, "hyperparameters": {"maskTruncatedCompletions": True}},
        "sampling.stop and hyperparameters.maskTruncatedCompletions exclude each other",
    ),
    (
        RFTJobSpec,
        {**SPEC, "algorithm": "DrGRPO", "hyperparameters": {"scaleRewards": "None"}},
        {**SPEC, "algorithm": "DrGRPO", "hyperparameters": {"scaleRewards": "Group"}},
        "algorithm DrGRPO is defined without scaling",
    ),
    (
        RFTJobSpec,
        {**SPEC, "hyperparameters": {"importanceSampling": {"cap": "3"}}},
        {**SPEC, "hyperparameters": {"importanceSampling": {"cap": "3"}}, "compute": {"gpusPerNode": 0}},
        "importanceSampling belongs to compute.rollouts.engine vLLM",
    ),
    (Tracker, {"mlflow": {"uri": "http://m"}}, {}, "set exactly one of mlflow, wandb, tensorboard"),
    (Tracker, {"tensorboard": {}}, {"tensorboard": {}, "wandb": {"project": "p"}}, "set exactly one of mlflow, wandb"),
    (
        HttpReward,
        {"url": "https://x/y", "body": "SampleAndItem"},
        {"url": "https://x/y", "body": "SampleAndItem", "assistantRole": "assistant"},
        "textReferenceAnswer and assistantRole belong to body Samples",
    ),
    (PythonReward, {"source": "x"}, {}, "set exactly one of source, sourceFrom"),
    (SourceFrom, {"file": "reward.py"}, {"file": "a", "configMap": {"name": "c", "key": "k"}}, "configMap, file"),
    (PythonReward, {"source": "x"}, {"source": "x", "sourceFrom": {"configMap": {"name": "c", "key": "k"}}}, "exactly"),
    (FormatReward, {"maximumCharacters": 0}, {}, "state a constraint"),
    (FormatReward, {"contains": ["x"]}, {"contains": []}, "state a constraint"),
    (BuiltinReward, {"name": "Math", "math": {}}, {"name": "Math", "json": {}}, "options must be those of the builtin"),
    (FormatReward, {"minimumWords": 0}, {"excludes": []}, "words, sentences or lines"),
    (FormatReward, {"language": "en"}, {}, "state a constraint"),
    *(
        (
            FormatReward,
            {f"minimum{unit}": 3, f"maximum{unit}": 3},
            {f"minimum{unit}": 4, f"maximum{unit}": 3},
            f"minimum{unit} must not be above maximum{unit}",
        )
        for unit in ("Characters", "Words", "Sentences", "Lines")
    ),
    (
        LengthPenaltyReward,
        {"shape": "SoftLimit", "maximum": 8, "buffer": 8},
        {"shape": "SoftLimit", "maximum": 8, "buffer": 9},
        "shape SoftLimit needs buffer",
    ),
    (LengthPenaltyReward, {"shape": "Cosine", "maximum": 8}, {"shape": "SoftLimit", "maximum": 8}, "needs buffer"),
    (BuiltinReward, {"name": "ChrF", "chrF": {"wordOrder": 2}}, {"name": "Bleu", "chrF": {}}, "options must be those"),
    (BuiltinReward, {"name": "Code", "code": {}}, {"name": "F1", "code": {}}, "options must be those"),
    (BuiltinReward, {"name": "Json", "json": {}}, {"name": "ExactMatch", "math": {}}, "options must be those"),
    (BuiltinReward, {"name": "Format", "format": {"pattern": "x"}}, {"name": "Format"}, "needs its constraints"),
    (JudgeModel, {"url": "http://x", "name": "m"}, {}, "set exactly one of url, endpoint, bedrock"),
    (JudgeModel, {"endpoint": "e"}, {"url": "http://x"}, "name goes with url"),
    (JudgeModel, {"endpoint": "e"}, {"endpoint": "e", "name": "m"}, "name goes with url"),
    (
        JudgeModel,
        {"url": "http://x", "name": "m", "tokenKey": "KEY", "caKey": "CA"},
        {"endpoint": "e", "tokenKey": "KEY"},
        "tokenKey and caKey belong to url",
    ),
    (
        JudgeReward,
        {"template": "Reasoning", "model": {"endpoint": "e"}, "votes": 3},
        {"template": "Reasoning", "model": {"endpoint": "e"}, "votes": 4},
        "votes must be odd",
    ),
    (
        OpenAIReward,
        {"grader": COSINE, "embeddings": {"url": "http://x", "name": "m"}},
        {"grader": COSINE, "embeddings": {"endpoint": "e"}},
        "embeddings come from an OpenAI-compatible API",
    ),
    (CombineTerm, MATH, {"name": "a"}, "set exactly one of python, builtin, judge, lambda, http, openai"),
    (CombineReward, {"terms": [MATH]}, {"terms": [MATH, MATH]}, "every term needs a name of its own"),
    (Expectation, {"minimum": "0"}, {}, "set minimum, maximum or both"),
    (Expectation, {"minimum": "-1", "maximum": "-1"}, {"minimum": "0", "maximum": "-1"}, "minimum must not be above"),
    (
        RewardFunctionSpec,
        {"timeout": "1m", "builtin": {"name": "Code", "code": {"timeout": "6s"}}},
        {"timeout": "1m", "builtin": {"name": "Code", "code": {"timeout": "7s"}}},
        "must be at most a tenth of spec.timeout",
    ),
    (
        RewardFunctionSpec,
        {"combine": {"terms": [{"name": "a", "builtin": {"name": "Code"}}]}},
        {"timeout": "29s", "combine": {"terms": [MATH, {"name": "b", "builtin": {"name": "Code"}}]}},
        "the timeout of Code, 3s by default, must be at most",
    ),
    (
        RewardFunctionSpec,
        {"builtin": {"name": "Math"}},
        {},
        "set exactly one of python, builtin, judge, lambda, http, ",
    ),
    (
        RewardFunctionSpec,
        {"combine": {"terms": [MATH]}},
        {"combine": {"terms": [MATH]}, "builtin": {"name": "Math"}},
        "set exactly one of python",
    ),
    (
        RewardFunctionSpec,
        {"scope": "Group", "python": {"source": "x"}},
        {"scope": "Group", "builtin": {"name": "Math"}},
        "scope Group is for python and judge",
    ),
    (
        RewardFunctionSpec,
        {"scope": "Group", "combine": {"terms": [MATH, {"name": "j", "judge": JUDGE}]}},
        {"scope": "Group", "combine": {"terms": [MATH]}},
        "scope Group is for python and judge",
    ),
    (RewardFunctionSpec, {"scope": "Group", "judge": JUDGE}, {"judge": JUDGE}, "judge.orders is for scope Group"),
    (
        RewardFunctionSpec,
        {"scope": "Group", "combine": {"terms": [{"name": "j", "judge": JUDGE}]}},
        {"scope": "Sample", "combine": {"terms": [{"name": "j", "judge": JUDGE}]}},
        "judge.orders is for scope Group",
    ),
    (InferenceEndpointSpec, {"model": {"uri": "m"}}, {}, "set exactly one of model, baseEndpoint"),
    (
        InferenceEndpointSpec,
        {"baseEndpoint": "b", "adapter": {"uri": "a"}},
        {"baseEndpoint": "b"},
        "baseEndpoint and adapter go together",
    ),
    (
        InferenceEndpointSpec,
        {"model": {"uri": "m"}, "serving": {}},
        {"baseEndpoint": "b", "adapter": {"uri": "a"}, "serving": {}},
        "serving belongs to the endpoint",
    ),
    (Autoscale, {"minimum": 1, "maximum": 2}, {"minimum": 3, "maximum": 2}, "minimum must not be larger than maximum"),
    (
        InferenceEndpointSpec,
        {"model": {"uri": "m"}, "autoscale": {}},
        {"baseEndpoint": "b", "adapter": {"uri": "a"}, "autoscale": {}},
        "autoscale belongs to the endpoint",
    ),
    (
        InferenceEndpointSpec,
        {"model": {"uri": "m"}, "autoscale": {}, "coldStart": {}},
        {"model": {"uri": "m"}, "coldStart": {}},
        "coldStart is for endpoints with autoscale",
    ),
    (
        RewardFunction,
        {"metadata": {"name": "second-opinion"}, "spec": OPINION},
        {"metadata": {"name": "2nd-opinion"}, "spec": OPINION},
        "the name must begin with a letter",
    ),
    (
        InferenceEndpoint,
        {"metadata": {"name": "x-tax"}, "spec": SERVED},
        {"metadata": {"name": "4o-tax"}, "spec": SERVED},
        "the name must begin with a letter",
    ),
    (
        RFTJob,
        {"metadata": {"name": "second"}, "spec": ON_TWO_NODES},
        {"metadata": {"name": "2nd"}, "spec": ON_TWO_NODES},
        "with several nodes (compute.nodes",
    ),
]
"""A model, what satisfies all its rules, what breaks one of them, and a part of the message."""
