"""Compare what vLLM and the trainer compute with the same adapter, for each type of model; print a Markdown table.

Run: .venv/bin/python bench/vllm_families.py [--types llama qwen3 ...]
For each type, a tiny model with random weights is written, and a vLLM is started with it as a run on CPUs starts it,
which takes some minutes on two cores. Completions are sampled with a random adapter on all layers that the trainer
adapts. The table has the largest difference between the log-probabilities that vLLM says and those that the trainer
computes, in float32, beside the difference that the adapter makes: where vLLM left it out, both would be alike. The
exit code is 1 where vLLM and the trainer differ by more than a ten-thousandth, or vLLM does not start.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from rollouts import prompts_of, render_config, started  # noqa: E402
from support.tiny import write_model  # noqa: E402

from rft_api.model_shape import FAMILIES  # noqa: E402

LARGEST = 1e-4
# Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "sliding_window": None,
    "tie_word_embeddings": False, "initializer_range": 0.1,
}  # fmt: skip


def write(folder: Path, tokenizer: Path, kind: str) -> Path:
    """Write a tiny model of a type, with the tokenizer of another one."""
    tokens = transformers.AutoTokenizer.from_pretrained(tokenizer)
    special = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id, "bos_token_id": None}
    configuration = transformers.AutoConfig.for_model(kind, **SIZES, **special, vocab_size=len(tokens))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configuration)
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokens.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def logprobs(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Return the trainer's log-probabilities of the tokens of a completion."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def compare(model: Path, folder: Path) -> tuple[float, float]:
    """Return the largest difference between vLLM and the trainer, and that which the adapter makes."""
    config = render_config(model, "LoRA", folder, {"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}})
    with started(config) as (engine, tokenizer, policy, _):
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
        engine.sync(policy, 1)
        prompts = prompts_of(tokenizer)
        rows = engine.sample(prompts, 1, 1.0, lambda ended: None)
        policy.eval()
        differences, effects = [], []
        for prompt, row in zip(prompts, rows, strict=True):
            own = logprobs(policy, prompt, row.token_ids)
            differences.append((own - torch.tensor(row.logprobs)).abs().max().item())
            with policy.disable_adapter():
                effects.append((own - logprobs(policy, prompt, row.token_ids)).abs().max().item())
    return max(differences), max(effects)


def main() -> int:
    dense = [kind for kind, family in FAMILIES.items() if not family.experts]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=dense, help=f"model_type (default: {' '.join(dense)})")
    options = parser.parse_args()
    lines, agree = [], True
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = write_model(Path(temporary) / "tokenizer")
        for kind in options.types:
            folder = Path(temporary) / kind
            try:
                difference, effect = compare(write(folder / "model", tokenizer, kind), folder)
                line = f"| {kind} | {difference:.1e} | {effect:.1e} |"
                agree = agree and difference <= LARGEST < effect
            except Exception as error:
                traceback.print_exc()
                line, agree = f"| {kind} | {type(error).__name__} | |", False
            print(line, file=sys.stderr, flush=True)
            lines.append(line)
            shutil.rmtree(folder, ignore_errors=True)
    print("| type of model | vLLM against the trainer | with against without the adapter |\n|---|---|---|")
    print("\n".join(lines))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
