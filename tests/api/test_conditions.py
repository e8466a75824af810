"""Types and reasons of conditions are spelled once, and no program reads a sentence to find out what is meant."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rft_api.conditions import ConditionType, Reason, has_ended, is_end
from rft_api.progress import Progress, message_without_phase, running_message

ROOT = Path(__file__).parents[2]
PROGRAMS = ("adapter-loader", "cli", "gateway", "operator", "reward-server", "trainer-image")
NAMES = {name.value for name in (*ConditionType, *Reason)}
# Words that pods and Jobs of Kubernetes, the stages of a run, or the verdict of the preflight have too.
SHARED = {"NotLearnable", "Ready", "Running", "Starting", "Stopping", "Succeeded", "Suspended", "Unschedulable"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_spells_a_condition_or_a_reason_itself(program):
    spelled = []
    for file in sorted((ROOT / program / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in NAMES - SHARED:
                spelled.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert not spelled, "use ConditionType or Reason of rft_api.conditions"


def test_only_the_condition_succeeded_says_that_a_job_has_ended():
    assert is_end("Succeeded", "True")
    assert is_end("Succeeded", "False")
    assert not is_end("Succeeded", "Unknown")
    assert not is_end("Ready", "True")
    assert has_ended({"conditions": [{"type": "Fits", "status": "True"}, {"type": "Succeeded", "status": "False"}]})
    assert not has_ended({})


@pytest.mark.parametrize("message", ["", "saving", "validation: 3 of 8", ": odd"])
def test_a_phase_is_taken_off_the_message_that_it_was_put_into(message):
    written = running_message(Progress(phase="Training", message=message))
    assert written.startswith("Training")
    assert message_without_phase(written, "Training") == message
    assert message_without_phase(written, "Exporting") == written, "the status has the phase of another moment"
