"""The load generator of vLLM, unmodified, at the gateway: all its requests succeed, and the ledger has its tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.gateway import Gateway
from support.patience import PATIENCE_SECONDS
from support.tokenizers import write_word_tokenizer

REQUESTS = 50
# The program `vllm` asks for the version of a package with this name, which the build for CPUs does not have. This is
# what it runs for `vllm bench serve`.
GENERATOR = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def run_generator(folder: Path, gateway: Gateway) -> dict[str, Any]:
    """Returns what the load generator has counted."""
    tokenizer = write_word_tokenizer(folder / "tokenizer")
    command = [
        sys.executable, "-c", GENERATOR, "--base-url", gateway.url, "--backend", "openai-chat",
        "--endpoint", "/v1/chat/completions", "--model", "m", "--tokenizer", str(tokenizer),
        "--dataset-name", "random", "--random-input-len", "20", "--random-output-len", "10",
        "--random-range-ratio", "0.5", "--num-prompts", str(REQUESTS), "--max-concurrency", "8",
        "--disable-tqdm", "--save-result", "--result-dir", str(folder), "--result-filename", "result.json",
    ]  # fmt: skip
    environment = {
        **os.environ, "OPENAI_API_KEY": gateway.token, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((folder / "result.json").read_text())


def test_the_ledger_has_what_the_load_generator_counts(tmp_path, gateway, server):
    counts = run_generator(tmp_path, gateway)
    assert (counts["completed"], counts["failed"]) == (REQUESTS, 0)
    entries = gateway.entries()
    assert [entry["outcome"] for entry in entries] == ["Answered"] * REQUESTS
    prompt, completion = (sum(entry[f"{kind}_tokens"] for entry in entries) for kind in ("prompt", "completion"))
    assert (prompt, completion) == (counts["total_input_tokens"], counts["total_output_tokens"])
    assert (prompt, completion) == (server.counters.prompt_tokens, server.counters.completion_tokens)
    assert min(prompt, completion) >= REQUESTS
