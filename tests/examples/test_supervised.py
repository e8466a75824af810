"""The example of imitation alone, shortened: `rft run` with the real model, and what its adapter then answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

from peft import PeftModel
from support.pages import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft_api.run_folder import RunFolder
from rft_api.summary import Summary

ROWS = {"answers": 48, "validation": 8, "test": 6}


def test_the_loss_falls_and_the_adapter_answers_in_the_form_of_the_answers(tmp_path: Path, model: Path):
    folder = shutil.copytree(ROOT / "examples" / "supervised", tmp_path / "supervised")
    for name, rows in ROWS.items():
        file = folder / "data" / f"{name}.jsonl"
        with file.open(encoding="utf-8") as lines:
            text = "".join(islice(lines, rows))
        file.write_text(text, encoding="utf-8")
    manifest = folder / "job.yaml"
    text = manifest.read_text(encoding="utf-8")
    relative = "../../.cache/models/smollm2-135m-instruct"
    assert relative in text
    manifest.write_text(text.replace(relative, str(model)), encoding="utf-8")
    command = [sys.executable, "-m", "rft_cli.main", "run", str(folder), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr

    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["job"], last["steps"], last["conversations"], last["prompts"]) == ("supervised", 12, 8, 6)
    assert last["tunedLoss"] < 0.5 * last["baselineLoss"]
    assert last["lossInterval"][1] < 0
    assert last["tunedReward"] > last["baselineReward"] == 0
    assert "8 validation conversations" in result.stdout
    assert "step 12/12 · loss" in result.stdout
    run = RunFolder(tmp_path / "out")
    summary = Summary.model_validate_json(run.summary.read_bytes())
    assert summary.data.warmup_conversations == 48

    row = json.loads((folder / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    tokenizer = AutoTokenizer.from_pretrained(model)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), run.best)
    prompt = tokenizer.apply_chat_template(
        row["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = tuned.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = json.loads(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
    assert answer.keys() >= {"value", "unit"}  # the base model writes no JSON
