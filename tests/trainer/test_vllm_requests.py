"""vLLM's completions are reported as they finish, and are those that it returns at the end."""

import json
import os
import subprocess
import sys

from support.patience import PATIENCE_SECONDS
from support.tiny import write_model

SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
from rft_trainer.vllm_requests import finished_requests

llm = LLM(
    model=sys.argv[1], dtype="float32", enforce_eager=True, gpu_memory_utilization=0.1, max_model_len=128,
    kv_cache_memory_bytes=67108864, seed=0,
)
prompts = [{"prompt_token_ids": [3, 8 + number % 10, 1, 4]} for number in range(24)]
# Other random numbers for each prompt, and many tokens that end a completion: they end at different times.
sampling = [
    SamplingParams(n=1, temperature=1.0, max_tokens=48, seed=number, stop_token_ids=[10, 20, 30])
    for number in range(24)
]
found = []
for attempt in range(2):
    reports = []
    with finished_requests(llm, reports.append):
        outputs = llm.generate(prompts, sampling_params=sampling, use_tqdm=False)
    found.append({"reports": reports, "returned": [list(output.outputs[0].token_ids) for output in outputs]})
plain = llm.generate(prompts, sampling_params=sampling, use_tqdm=False)
found.append({"returned": [list(output.outputs[0].token_ids) for output in plain]})
print("RESULT" + json.dumps(found), flush=True)
"""


def test_completions_are_reported_as_they_finish(tmp_path):
    model = write_model(tmp_path / "model", hidden=128, tied=False)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        # As TRL runs vLLM inside the trainer.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",  # as the Dockerfile has it
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    *attempts, plain = json.loads(done.stdout.split("RESULT")[1])
    for attempt in attempts:
        reported = {int(place): tokens for report in attempt["reports"] for place, tokens in report.items()}
        assert [reported[place] for place in range(24)] == attempt["returned"] == plain["returned"]
        assert len(attempt["reports"]) > 1, "all were reported at once, at the end"
