"""The example of serving: valid manifests that show what the gateway has to offer, in the index and on its own page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rft_api.manifests import load_manifests

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "serving"


def test_its_manifests_are_valid():
    command = [sys.executable, "-m", "rft_cli.main", "validate", "examples/serving"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "2 resources are valid" in result.stdout


def test_it_shows_a_base_and_an_adapter_with_every_field_that_the_gateway_reads():
    base, adapter = (endpoint.spec for endpoint in load_manifests([FOLDER / "endpoints.yaml"]).endpoints)
    assert base.autoscale
    assert base.cold_start
    assert base.price
    assert base.serving
    assert adapter.adapter
    assert base.serving.admits_adapter(adapter.adapter.uri)
    assert adapter.price
    assert adapter.logs
    assert adapter.logs.redact


def test_it_is_in_the_index_and_its_page_states_the_command_that_checks_it():
    assert "[serving](serving/README.md)" in (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert "rft validate examples/serving\n" in (FOLDER / "README.md").read_text(encoding="utf-8")
